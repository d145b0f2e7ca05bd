"""Nothing in an update, in validation or in evaluation waits for the device.

The device is torch's "meta", which computes nothing: whatever asks it for a number is seen, on machines without a GPU
too. What waits, and is known to: losses on embeddings (they count the known images), the loss scale of float16 and
optimizers without a fused step (is what they follow finite?), every sixteenth update (were many skipped?), several
processes (they agree whether to stop), and the worst images at an epoch's end.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from base.batch import Batch
from base.mixing import Mix
from inference.predictor import Predictor
from model import loss as losses
from model.loss.head_loss import HeadLoss
from model.loss.multi_head import MultiHeadLoss
from tests.trainer.conftest import LABELS, MakeTrainer, MemoryLoader, SmallModel
from trainer import epoch_metrics
from trainer.averaging import ExponentialMovingAverage
from trainer.prefetch import on_device
from trainer.sharpness_aware import SharpnessAware
from trainer.trainer import Trainer
from trainer.worst_images import WorstImages

META = torch.device("meta")
READS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero", "bincount")


class Waits(TorchDispatchMode):
    """Names every operation that brings a number from the device to the host, or a tensor across."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        tensors = [each for each in args if isinstance(each, Tensor)]
        on_device = any(each.device == META for each in tensors)
        if on_device and any(name.strip("_").startswith(read.strip("_")) for read in READS):
            self.seen.append(name)
        if on_device and name.startswith("index") and len(args) > 1 and isinstance(args[1], list | tuple):
            self.seen += [name for index in args[1] if isinstance(index, Tensor) and index.dtype == torch.bool]
        target = (kwargs or {}).get("device")
        if name == "_to_copy" and target is not None and torch.device(target) != tensors[0].device:
            self.seen.append(f"copy from {tensors[0].device} to {target}")
        if name == "copy_" and args[0].device != args[1].device:
            self.seen.append(f"copy from {args[1].device} to {args[0].device}")
        return func(*args, **(kwargs or {}))


@contextmanager
def nothing_waits() -> Iterator[None]:
    with Waits() as waits:
        yield
    assert not waits.seen


class Fused(torch.optim.AdamW):
    """As one that decides on the device whether it steps, which there is none of on "meta"."""

    _step_supports_amp_scaling = True
    found_inf: Tensor | None = None

    def step(self, closure: Any = None) -> Any:
        found, self.found_inf = self.found_inf, None
        result = super().step(closure)
        self.found_inf = found
        return result


def on_meta(
    make_trainer: MakeTrainer, loss: Callable[[], HeadLoss], learned: bool = False, **arguments: Any
) -> Trainer:
    criterion = MultiHeadLoss({"mask": loss(), "age": loss()}, {"mask": 0.4, "age": 0.6}, None, learned)
    criterion.use_class_counts({"mask": torch.tensor([3, 5]), "age": torch.tensor([2, 7, 1, 4])})
    trainer = make_trainer(
        device=META,
        criterion=criterion.to(META),
        optimizer=lambda weights, lr: Fused([*weights, *criterion.parameters()], lr, foreach=True),
        **arguments,
    ).trainer
    trainer.learner.skipped.next_on_host = False
    return trainer


def batches(trainer: Trainer) -> list[Batch]:
    """Three, of which two are mixed."""
    found = list(itertools.islice(trainer.data_loader.train_batches(1), 3))
    for batch, mix in zip(found, [None, BLENDED, CUT], strict=True):
        batch.mix = mix
    return [batch.to(META) for batch in found]


BLENDED, CUT = Mix(torch.tensor([1, 2, 3, 0]), 0.3), Mix(torch.tensor([1, 2, 3, 0]), 0.5, (0, 0, 6, 3))


@pytest.mark.parametrize("class_weights", [None, "balanced"])
@pytest.mark.parametrize("name", [name for name in losses.__all__ if name != "OrdinalLoss"])
def test_an_update_with_each_loss(
    make_trainer: MakeTrainer, name: str, class_weights: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epoch_metrics, "BATCHES_TOGETHER", 3)
    trainer = on_meta(make_trainer, lambda: getattr(losses, name)(class_weights=class_weights))
    first, *others = batches(trainer)
    trainer.learner.update([first], 1, 0, trainer.train_metrics)  # the constants are copied at the first
    with nothing_waits():
        for number, batch in enumerate([first, *others], start=1):
            trainer.learner.update([batch], 1, number, trainer.train_metrics)


def with_everything(model: nn.Module) -> dict[str, Any]:
    return {"averaging": ExponentialMovingAverage(0.9), "sharpness_aware": SharpnessAware([model], 0.05, adaptive=True)}


PARTS = [{}, {"parts": with_everything}]


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("settings", [{}, {"accumulation_steps": 3, "max_grad_norm": 1.0}])
def test_an_update_with_everything(make_trainer: MakeTrainer, parts: Any, learned: bool, settings: Any) -> None:
    trainer = on_meta(make_trainer, losses.OrdinalLoss, learned, **parts, **settings)
    micro_batches = batches(trainer)
    trainer.learner.update(micro_batches, 1, 0, trainer.train_metrics)
    with nothing_waits():
        trainer.learner.update(micro_batches, 1, 3, trainer.train_metrics)


def test_validation_and_its_worst_images(make_trainer: MakeTrainer) -> None:
    trainer = on_meta(make_trainer, losses.CrossEntropyLoss)
    worst, model, criterion = WorstImages(LABELS), trainer.learner.eval_model(), trainer.learner.criterion
    validation = [batch.to(META) for batch in trainer.data_loader.validation_batches()]
    with torch.inference_mode(), nothing_waits():
        for batch in validation:
            outputs = model(trainer.learner.inputs(batch))
            weights = criterion.sample_weight_sums(batch.targets)
            _, by_head = criterion(outputs, batch.targets, weights)
            trainer.train_metrics.add(by_head, weights, weights, outputs, batch.scoring_targets)
            worst.update(outputs, batch)


def test_evaluation() -> None:
    config = {"name": "Test", "data_loader": {"args": {}}, "trainer": {}, "data": []}
    content = {"config": config, "run_name": "run", "completed_epochs": 1}
    with META:
        predictor = Predictor(SmallModel(), LABELS, MemoryLoader().preprocessing, META, content)
    views = [batch.images.to(META) for batch in itertools.islice(MemoryLoader().train_batches(1), 2)]
    with nothing_waits():
        predicted = predictor.predict_batch(views)
    assert predicted.joint is not None
    assert predicted.joint.device == META


@pytest.mark.parametrize(
    "wait",
    [
        lambda tensor: tensor.sum().item(),
        lambda tensor: tensor[tensor > 0],
        lambda tensor: tensor.cpu(),
        lambda tensor: tensor + torch.tensor([1.0, 2.0]).to(tensor.device),
        lambda tensor: torch.empty(2).copy_(tensor),
    ],
)
def test_what_waits_is_seen(wait: Callable[[Tensor], Any]) -> None:
    with Waits() as waits, suppress(NotImplementedError, RuntimeError):
        wait(torch.zeros(2, device=META))
    assert waits.seen


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["float32", "auto"])
@pytest.mark.parametrize("parts", PARTS)
def test_cuda_itself_sees_no_wait(make_trainer: MakeTrainer, parts: Any, precision: str) -> None:
    """Of everything an epoch does but its end, which reads the numbers."""
    device = torch.device("cuda")
    built = make_trainer(
        device=device,
        precision=precision,
        **parts,
        optimizer=lambda parameters, lr: torch.optim.AdamW(parameters, lr, fused=True),
    )
    trainer = built.trainer
    trainer.learner.begin_epoch(1)
    batches = list(on_device(MemoryLoader().train_batches(1), device))
    trainer.learner.update(batches[:1], 1, 0, trainer.train_metrics)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for number, batch in enumerate(batches[1:], start=1):
            trainer.learner.update([batch], 1, number, trainer.train_metrics)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert trainer.learner.updates == 5
