"""Updates whose gradients are not finite: all stays as if their batches had not been there."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from base.batch import Batch
from model.loss import CrossEntropyLoss
from model.loss.multi_head import MultiHeadLoss
from tests.trainer.conftest import Built, MakeTrainer, MemoryLoader, SmallModel, assert_equal_states, train_until
from trainer import trainer as trainer_module
from utils.errors import DivergenceError

WRONG = (1, 3)
"""The batches of an epoch of five that the model cannot stand."""


class OddLoader(MemoryLoader):
    """Whose WRONG batches are all white, or left out."""

    def __init__(self, leaves_out: bool = False) -> None:
        super().__init__()
        self.leaves_out = leaves_out

    @property
    def steps_per_epoch(self) -> int:
        return 5 - len(WRONG) * self.leaves_out

    def train_batches(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
        order = torch.arange(self.num_train).roll(epoch)
        kept = [number for number in range(5) if number not in WRONG or not self.leaves_out]
        for number in kept[start_batch:]:
            batch = self.batch(order[4 * number : 4 * number + 4])
            if number in WRONG:
                batch.images = torch.full_like(batch.images, 255)
            yield batch


class FragileModel(SmallModel):
    """Of white images its activations, and with them its running statistics, are no numbers."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return super().forward(images * torch.where(images.min() > 1.9, math.nan, 1.0))


def build(make: MakeTrainer, folder: str, leaves_out: bool, on_host: bool, momentum: bool, **more: Any) -> Built:
    torch.manual_seed(4)

    def optimizer(weights: Any, lr: float) -> torch.optim.Optimizer:
        if momentum:
            return torch.optim.SGD(weights, lr, momentum=0.9, fused=not on_host)
        return torch.optim.AdamW(weights, lr, fused=not on_host)

    model = FragileModel(dropout=0.0)
    built = make(folder, loader=OddLoader(leaves_out), model=model, optimizer=optimizer, epochs=2, **more)
    built.trainer.learner.skipped.on_host = on_host
    return built


@pytest.mark.parametrize("momentum", [False, True])
@pytest.mark.parametrize("on_host", [True, False])
def test_a_run_with_wrong_batches_is_one_without_them(
    make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture, on_host: bool, momentum: bool
) -> None:
    """Weights, running statistics, and the optimizer's state with its number of steps; where the host decides, and
    where it does not wait for the device."""
    skipped = build(make_trainer, "skipped", False, on_host, momentum).train()
    without = build(make_trainer, "without", True, on_host, momentum).train()
    states = [
        {name: tensor for name, tensor in built.state().items() if "num_batches" not in name}
        for built in (skipped, without)
    ]
    assert_equal_states(*states)
    flat = [
        [value for state in built.checkpoint()["optimizer"]["state"].values() for value in state.values()]
        for built in (skipped, without)
    ]
    assert len(flat[0]) > 0
    assert all(torch.equal(one, other) for one, other in zip(*flat, strict=True))
    lines = [json.loads(line) for line in skipped.metrics_file.read_text().splitlines()]
    assert [line["train/skipped_updates"] for line in lines] == [2, 2]
    assert "train/skipped_updates" not in without.metrics_file.read_text()
    losses = [json.loads(line)["train/loss"] for line in without.metrics_file.read_text().splitlines()]
    assert [line["train/loss"] for line in lines] == pytest.approx(losses)
    warned = [text for text in caplog.messages if "skipped" in text]
    assert len(warned) == 2
    assert "2 of 5 updates" in warned[0]


def test_a_run_that_skips_resumes_exactly(make_trainer: MakeTrainer) -> None:
    whole = build(make_trainer, "whole", False, True, False).train()
    for updates in range(1, whole.trainer.learner.updates):
        content = train_until(build(make_trainer, "stopped", False, True, False), updates)
        resumed = build(make_trainer, "stopped", False, True, False, resume=content).train()
        for file in ("last.pth", "metrics.jsonl"):
            assert (resumed.folder / file).read_bytes() == (whole.folder / file).read_bytes(), updates
        shutil.rmtree(resumed.folder)


class NoNumber(CrossEntropyLoss):
    def per_sample(self, logits: Tensor, target: Tensor) -> Tensor:
        return super().per_sample(logits, target) * math.nan


class Infinite(CrossEntropyLoss):
    """Not finite, though its gradient is."""

    def per_sample(self, logits: Tensor, target: Tensor) -> Tensor:
        return super().per_sample(logits, target) + math.inf


class SteepAtZero(CrossEntropyLoss):
    """A finite loss whose gradient is none."""

    def per_sample(self, logits: Tensor, target: Tensor) -> Tensor:
        return super().per_sample(logits, target) + (logits[:, 0] * 0).sqrt()


@pytest.mark.parametrize(("loss", "in_a_row"), [(NoNumber, 20), (NoNumber, 3), (Infinite, 3), (SteepAtZero, 3)])
def test_a_run_that_cannot_go_on_ends_and_names_the_head(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, loss: type[CrossEntropyLoss], in_a_row: int
) -> None:
    """After so many skipped updates in a row, or a whole epoch of them; the weights are as they were."""
    monkeypatch.setattr(trainer_module, "IN_A_ROW", in_a_row)
    monkeypatch.setattr(trainer_module, "UPDATES_BETWEEN_LOOKS", 1)
    criterion = MultiHeadLoss({"mask": CrossEntropyLoss(), "age": loss()}, {"mask": 1.0, "age": 1.0})
    built = make_trainer(criterion=criterion, loader=MemoryLoader(24))
    before = built.state()
    named = "the gradients are not finite" if loss is SteepAtZero else "the loss of age "
    number = "all 6 updates" if in_a_row == 20 else "3 updates in a row"
    with pytest.raises(DivergenceError, match=f"epoch 1: {number} were skipped: {named}") as caught:
        built.train()
    assert caught.value.exit_code == 5
    assert_equal_states(*({name: each for name, each in state.items() if "num_batches" not in name}
                          for state in (before, built.state())))  # fmt: skip


def test_weights_that_are_not_finite_are_never_saved(make_trainer: MakeTrainer) -> None:
    """The last update of an epoch made them so, and there is no validation that would show it."""
    built = make_trainer(loader=MemoryLoader(4, 0), monitor="off", lr=3e38, optimizer=torch.optim.SGD)
    with torch.no_grad():
        next(built.trainer.learner.model.parameters()).fill_(3e38)
    with pytest.raises(DivergenceError):
        built.train()
    assert not (built.folder / "last.pth").exists()
