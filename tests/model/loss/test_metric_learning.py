"""Losses on the embedding: the library's values on known rows, nothing from unknown ones, and what a config may say."""

from __future__ import annotations

import copy
import itertools
import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_metric_learning import losses as library_losses
from torch import nn

from experiment.schema import EMBEDDING_LOSS
from model.loss.metric_learning import LOSSES, MINERS, MetricLearningLoss, program_arguments
from parse_config import ConfigParser
from utils.config.sections import NamedSections, Sections
from utils.errors import ConfigError

CLASSES, SIZE = 4, 6
NEEDED: dict[str, Any] = {"RankedListLoss": {"margin": 0.4, "Tn": 1.0}}
FIVE = ["ArcFaceLoss", "NTXentLoss", "ProxyAnchorLoss", "SupConLoss", "TripletMarginLoss"]
WITH_CENTRES = ("ArcFaceLoss", "ProxyAnchorLoss")
SECTIONS = Sections({"losses": NamedSections(EMBEDDING_LOSS, optional=True)})
ENTRY: dict[str, Any] = {
    "type": "TripletMarginLoss",
    "args": {"margin": 0.1},
    "head": "age",
    "miner": {"type": "MultiSimilarityMiner", "args": {"epsilon": 0.2}},
    "weight": 0.5,
}
pytestmark = [  # of the library
    pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:UserWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning"),
]
each_loss = pytest.mark.parametrize("name", FIVE)


def library_loss(name: str, **arguments: Any) -> nn.Module:
    """As a config builds it."""
    entry = EMBEDDING_LOSS.with_defaults({"type": name, "args": arguments, "head": "age"})
    torch.manual_seed(7)
    loss = EMBEDDING_LOSS.build(entry, (), program_arguments(name, CLASSES, SIZE))
    assert isinstance(loss, nn.Module)
    return loss


def make(name: str, miner: str | None = None, **arguments: Any) -> MetricLearningLoss:
    return MetricLearningLoss(library_loss(name, **arguments), "age", miner=None if miner is None else MINERS[miner]())


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


# --- values ---


@pytest.mark.parametrize(("name", "miner"), [*((name, None) for name in FIVE), ("TripletMarginLoss", "BatchHardMiner")])
def test_is_the_librarys_loss_of_the_known_rows(name: str, miner: str | None) -> None:
    """Of the pairs that the library's miner chooses among them, where there is one."""
    embedding, target = draw(40, unknown_share=0.4)
    loss, sizes = make(name, miner), {"num_classes": CLASSES, "embedding_size": SIZE}
    torch.manual_seed(7)
    plain = getattr(library_losses, name)(**(sizes if name in WITH_CENTRES else {}))
    known = target != -1
    spoilt = torch.where(known.unsqueeze(1), embedding.detach(), math.nan).requires_grad_()
    chosen = None if miner is None else MINERS[miner]()(embedding[known], target[known])
    value, expected = loss(spoilt, target), plain(embedding[known], target[known], chosen)
    torch.testing.assert_close(value, expected)
    assert value > 0
    found = gradients(loss, value, spoilt)
    torch.testing.assert_close(found, list(torch.autograd.grad(expected, [embedding, *plain.parameters()])))


@each_loss
@pytest.mark.parametrize("target", [[2, 2, 2, 2], [2, -1, -1, -1], [0, 1, 2, 3], [-1, -1, -1, -1]])
def test_nothing_to_compare_gives_zero_unless_there_are_centres(name: str, target: list[int]) -> None:
    embedding, _ = draw(4)
    loss = make(name)
    value = loss(embedding, torch.tensor(target))
    found = gradients(loss, value, embedding)
    assert is_finite([value, *found])
    trains = name in WITH_CENTRES and max(target) >= 0
    assert (value.item() != 0) == trains
    assert any((gradient != 0).any() for gradient in found) == trains


def with_equal_rows(seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """As weighted samplers draw an image twice: two equal rows of one class and of two, and all rows equal."""
    embedding, target = draw(seed=seed)
    rows = embedding.detach().clone()
    rows[1], target[1] = rows[0], target[0]
    rows[3], target[3] = rows[2], (target[2] + 1) % CLASSES
    return [(rows.requires_grad_(), target), (rows.detach()[:1].repeat(16, 1).requires_grad_(), target)]


@pytest.mark.parametrize("name", ["ArcFaceLoss", "TripletMarginLoss", "HistogramLoss", "TupletMarginLoss"])
def test_equal_embeddings_have_a_finite_gradient(name: str) -> None:
    for embedding, target in itertools.chain(*(with_equal_rows(seed) for seed in range(10))):
        loss = make(name)
        value = loss(embedding, target)
        assert is_finite([value, *gradients(loss, value, embedding)])


# --- training ---


@pytest.mark.parametrize("miner", [None, "DistanceWeightedMiner"])
def test_draws_come_from_torchs_generator_alone(miner: str | None) -> None:
    loss = make("TripletMarginLoss", miner, triplets_per_anchor=2)
    before = repr(np.random.get_state()), random.getstate()
    values = set()
    for seed in (5, 5, 6, 7):
        torch.manual_seed(seed)
        values.add(loss(*draw()).item())
    assert 1 < len(values) < 4
    assert (repr(np.random.get_state()), random.getstate()) == before


def test_half_precision_is_computed_in_float32() -> None:
    embedding, target = draw(24)
    half = embedding.detach().bfloat16()
    loss = make("ArcFaceLoss")
    expected = loss(half.float(), target)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(half, target)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected, rtol=0, atol=0)


@each_loss
def test_trains_on_after_a_validation(name: str) -> None:
    loss = make(name)
    embedding, target = draw()
    optimizer = torch.optim.SGD([embedding, *loss.parameters()], lr=0.01)
    for _ in range(2):
        with torch.inference_mode():
            validated = loss(embedding, target)
        before = loss(embedding, target)
        torch.testing.assert_close(validated, before.detach())
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


# --- what a config may say ---


def read(**changes: Any) -> ConfigParser:
    entry = {**copy.deepcopy(ENTRY), **changes}
    return ConfigParser.from_dict({"losses": {"near": entry}}, SECTIONS, "test")


def test_every_loss_and_every_miner_of_the_library_trains_as_it_comes() -> None:
    """RankedListLoss alone has arguments without a default."""
    embedding, target = draw(16)
    for name in LOSSES:
        loss = make(name, **NEEDED.get(name, {}))
        value = loss(embedding, target)
        assert is_finite([value, *gradients(loss, value, embedding)]), name
    for miner in MINERS:
        assert is_finite([make("TripletMarginLoss", miner)(embedding, target)]), miner


@pytest.mark.parametrize(
    ("changes", "key_path", "word"),
    [
        ({"args": {"margn": 1}}, ("args", "margn"), "margin"),
        ({"args": {"distance": "cosine"}}, ("args", "distance"), "not a known key"),
        ({"type": "ArcFaceLoss", "args": {"num_classes": 3}}, ("args", "num_classes"), "not a known key"),
        ({"type": "RankedListLoss", "args": {"margin": 1}}, ("args", "Tn"), "missing"),
        ({"type": "TripletLoss"}, ("type",), "TripletMarginLoss"),
        ({"type": "ManifoldLoss"}, ("type",), "not one of"),
        ({"miner": {"type": "HardMiner"}}, ("miner", "type"), "BatchHardMiner"),
        ({"miner": {"type": "HDCMiner", "args": {"distance": 2}}}, ("miner", "args", "distance"), "not a known key"),
        ({"weight": -1}, ("weight",), "at least 0"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], key_path: tuple[str, ...], word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(**changes)
    assert [problem.key_path for problem in caught.value.problems] == [("losses", "near", *key_path)]
    assert word in str(caught.value)
