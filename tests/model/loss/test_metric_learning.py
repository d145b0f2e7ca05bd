"""Losses on the embedding: what each must do, and why some of the library's are left out."""

from __future__ import annotations

import inspect
import math
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from pytorch_metric_learning import losses as library_losses
from pytorch_metric_learning import miners as library_miners
from torch import nn

from model.loss.metric_learning import MetricLearningLoss
from model.loss.metric_learning_names import LOSSES, MINERS, WITHOUT_MINER

CLASSES, SIZE = 4, 6
NEEDED = {"RankedListLoss": {"margin": 0.4, "Tn": 1.0}}
pytestmark = [  # of the library
    pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:UserWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning"),
]
each_loss = pytest.mark.parametrize("name", LOSSES)
each_miner = pytest.mark.parametrize("miner", MINERS)


def make(name: str, miner: str | None = None, **arguments: object) -> MetricLearningLoss:
    torch.manual_seed(7)
    loss = LOSSES[name](**supplied(name), **NEEDED.get(name, {}), **arguments)
    bins = {"num_bins": 8} if miner == "UniformHistogramMiner" else {}  # by default 100, one at a time
    return MetricLearningLoss(loss, "age", miner=None if miner is None else MINERS[miner](**bins))


def supplied(name: str) -> dict[str, int]:
    sizes = {"num_classes": CLASSES, "embedding_size": SIZE}
    return {key: size for key, size in sizes.items() if key in inspect.signature(LOSSES[name]).parameters}


def draw(count: int = 16, unknown_share: float = 0.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.randn(count, SIZE, generator=generator)
    target = torch.randint(0, CLASSES, (count,), generator=generator)
    target[torch.rand(count, generator=generator) < unknown_share] = -1
    return embedding.requires_grad_(), target


def gradients(loss: MetricLearningLoss, value: torch.Tensor, embedding: torch.Tensor) -> list[torch.Tensor]:
    """With respect to the embedding and to the loss's own parameters; all of them must have one."""
    return list(torch.autograd.grad(value, [embedding, *loss.parameters()]))


def is_finite(tensors: list[torch.Tensor]) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


@each_loss
def test_is_the_librarys_loss_of_the_known_rows(name: str) -> None:
    embedding, target = draw(40, unknown_share=0.4)
    loss = make(name)
    torch.manual_seed(7)
    sizes = {
        "descriptors_dim" if name == "P2SGradLoss" and k == "embedding_size" else k: v
        for k, v in supplied(name).items()
    }
    plain = getattr(library_losses, name)(**sizes, **NEEDED.get(name, {}))
    known = target != -1
    value, expected = loss(embedding, target), plain(embedding[known], target[known])
    assert value.shape == ()
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-7)
    assert value > 0
    given = gradients(loss, value, embedding)
    wanted = torch.autograd.grad(expected, [embedding, *plain.parameters()])
    torch.testing.assert_close(given, list(wanted), rtol=1e-4, atol=1e-6)


@each_loss
def test_what_is_not_a_number_in_an_unknown_row_stays_there(name: str) -> None:
    embedding, target = draw(40, unknown_share=0.4)
    spoilt = embedding.detach().clone()
    spoilt[target == -1] = math.nan
    spoilt.requires_grad_()
    loss = make(name)
    value = loss(spoilt, target)
    torch.testing.assert_close(value, loss(embedding, target))
    gradient = gradients(loss, value, spoilt)[0]
    assert torch.isfinite(gradient).all()
    assert (gradient[target == -1] == 0).all()


@each_loss
def test_nothing_known_gives_zero_and_a_gradient_of_zero(name: str) -> None:
    embedding, _ = draw()
    loss = make(name)
    value = loss(embedding, torch.full((16,), -1))
    assert value.item() == 0
    assert all((gradient == 0).all() for gradient in gradients(loss, value, embedding))


@each_loss
@pytest.mark.parametrize("target", [[2, 2, 2, 2], [2, -1, -1, -1], [0, 1, 2, 3]], ids=["one class", "one", "no pair"])
def test_nothing_to_compare_gives_zero_unless_there_are_centres(name: str, target: list[int]) -> None:
    embedding, _ = draw(4)
    loss = make(name)
    value = loss(embedding, torch.tensor(target))
    found = gradients(loss, value, embedding)
    assert is_finite([value, *found])
    has_centres = "embedding_size" in supplied(name)
    assert has_centres == loss.has_class_centres
    assert (value.item() != 0) == has_centres
    assert any((gradient != 0).any() for gradient in found) == has_centres


@each_loss
def test_equal_embeddings_have_a_finite_gradient(name: str) -> None:
    """Weighted samplers draw an image twice."""
    embedding, target = draw()
    rows = embedding.detach().clone()
    rows[1], target[1] = rows[0], target[0]
    rows[3], target[3] = rows[2], (target[2] + 1) % CLASSES
    for values in (rows, rows[:1].repeat(16, 1)):
        values = values.clone().requires_grad_()
        loss = make(name)
        value = loss(values, target)
        assert is_finite([value, *gradients(loss, value, values)])


@each_loss
@each_miner
def test_every_loss_takes_every_miner(name: str, miner: str) -> None:
    if name in WITHOUT_MINER:
        with pytest.raises(ValueError, match="not supported"):
            make(name, miner)(*draw())
        return
    loss = make(name, miner)
    for count, seed in ((16, 0), (5, 1)):
        embedding, target = draw(count, unknown_share=0.2, seed=seed)
        value = loss(embedding, target)
        assert is_finite([value, *gradients(loss, value, embedding)])


@each_loss
@pytest.mark.parametrize("miner", [None, "UniformHistogramMiner", "DistanceWeightedMiner"])
def test_draws_come_from_torchs_generator_alone(name: str, miner: str | None) -> None:
    if miner is not None and name in WITHOUT_MINER:
        return
    loss = make(name, miner)
    before = repr(np.random.get_state()), random.getstate()
    values = []
    for _ in range(2):
        torch.manual_seed(5)
        values.append(loss(*draw()))
    torch.testing.assert_close(values[0], values[1], rtol=0, atol=0)
    assert (repr(np.random.get_state()), random.getstate()) == before


def test_there_are_draws_that_depend_on_the_seed() -> None:
    loss = make("TripletMarginLoss", "DistanceWeightedMiner")
    values = set()
    for seed in range(5):
        torch.manual_seed(seed)
        values.add(loss(*draw()).item())
    assert len(values) > 1


@each_loss
def test_half_precision_is_computed_in_float32(name: str) -> None:
    embedding, target = draw(24)
    half = embedding.detach().bfloat16()
    loss = make(name)
    expected = loss(half.float(), target)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(half, target)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected, rtol=0, atol=0)


@each_loss
def test_trains_on_after_a_validation(name: str) -> None:
    loss = make(name)
    embedding, target = draw()
    parameters = [embedding, *loss.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.01)
    for _ in range(2):
        with torch.inference_mode():
            judged = loss(embedding, target)
        before = loss(embedding, target)
        torch.testing.assert_close(judged, before.detach())
        optimizer.zero_grad()
        before.backward()
        optimizer.step()
    assert loss(embedding, target) < before


@each_loss
def test_a_shared_normaliser_weighs_batches_by_their_known_samples(name: str) -> None:
    embedding, target = draw(40, unknown_share=0.4)
    loss = make(name)
    pieces = [slice(0, 24), slice(24, 40)]
    known = [int((target[piece] != -1).sum()) for piece in pieces]
    normaliser = torch.stack([loss.sample_weights(target[piece]).sum() for piece in pieces]).sum()
    assert normaliser.item() == sum(known)
    shared = torch.stack([loss(embedding[piece], target[piece], normaliser) for piece in pieces]).sum()
    alone = [loss(embedding[piece], target[piece]) for piece in pieces]
    torch.testing.assert_close(shared, (known[0] * alone[0] + known[1] * alone[1]) / sum(known))


def test_class_centres_are_in_the_state() -> None:
    loss, other = make("ArcFaceLoss"), make("ArcFaceLoss")
    assert {key: tuple(value.shape) for key, value in loss.state_dict().items()} == {"loss.W": (SIZE, CLASSES)}
    nn.init.zeros_(next(other.parameters()))
    other.load_state_dict(loss.state_dict())
    torch.testing.assert_close(other(*draw()), loss(*draw()))
    assert make("TripletMarginLoss").state_dict() == {}


@each_loss
def test_no_constant_stays_behind_when_it_moves(name: str) -> None:
    """`.to` sees parameters and buffers only."""
    for module in make(name).modules():
        assert not any(isinstance(value, torch.Tensor) for value in vars(module).values())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@each_loss
@pytest.mark.parametrize("miner", [None, *MINERS])
def test_computes_the_same_on_a_gpu(name: str, miner: str | None) -> None:
    if miner is not None and name in WITHOUT_MINER:
        return
    embedding, target = draw(40, unknown_share=0.4)
    loss = make(name, miner)
    value = loss(embedding, target)
    gradient = gradients(loss, value, embedding)
    on_gpu, moved = embedding.detach().cuda().requires_grad_(), loss.cuda()
    other = moved(on_gpu, target.cuda())
    other_gradient = [each.cpu() for each in gradients(moved, other, on_gpu)]
    assert is_finite([other, *other_gradient])
    if miner not in ("DistanceWeightedMiner", "UniformHistogramMiner"):  # the devices' generators differ
        torch.testing.assert_close(other.cpu(), value, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(other_gradient, gradient, rtol=1e-3, atol=1e-5)


def test_every_loss_and_miner_of_the_library_is_decided_upon() -> None:
    bases = {"BaseLossWrapper", "BaseMetricLossFunction", "GenericPairLoss", "EmbeddingRegularizerMixin", "BaseMiner"}
    bases |= {"WeightRegularizerMixin"}
    wrappers = {"CrossBatchMemory", "MultipleLosses", "SelfSupervisedLoss"}
    without_labels = {"VICRegLoss", "ManifoldLoss", "EmbeddingsAlreadyPackagedAsTriplets"}
    cannot_train = {"DynamicSoftMarginLoss", "InstanceLoss", "SmoothAPLoss"}
    left_out = bases | wrappers | without_labels | cannot_train
    for module, offered in ((library_losses, LOSSES), (library_miners, MINERS)):
        classes = {name for name, value in vars(module).items() if isinstance(value, type)}
        assert classes - left_out == set(offered)


def second_step_of_dynamic_soft_margin() -> None:
    loss = library_losses.DynamicSoftMarginLoss()
    for _ in range(2):
        loss(*draw()).backward()


REASONS: dict[str, Callable[[], object]] = {
    "DynamicSoftMarginLoss": second_step_of_dynamic_soft_margin,
    "SmoothAPLoss": lambda: library_losses.SmoothAPLoss()(*draw()),
    "ManifoldLoss": lambda: library_losses.ManifoldLoss(SIZE)(*draw()),
    "VICRegLoss": lambda: library_losses.VICRegLoss()(*draw()),
}


@pytest.mark.parametrize("fails", REASONS.values(), ids=REASONS)
def test_what_is_left_out_cannot_train_here(fails: Callable[[], object]) -> None:
    with pytest.raises((ValueError, RuntimeError)):
        fails()
