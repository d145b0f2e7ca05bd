"""A head that does not learn is named once, with the reason; one that learns is not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from base.batch import UNKNOWN
from base.label_space import LabelSpace
from model.loss import CrossEntropyLoss
from model.loss.multi_head import MultiHeadLoss
from tests.trainer.conftest import MakeTrainer, MemoryLoader, train_until
from trainer.epoch_metrics import LossOfEpoch
from trainer.head_watch import EPOCHS, HeadWatch

ALIVE = LossOfEpoch(not_finite=0, lowest=0.4, highest=0.9, batches=9, gradient=0.01)


class Zero(CrossEntropyLoss):
    def per_sample(self, logits: Tensor, target: Tensor) -> Tensor:
        return super().per_sample(logits, target) * 0


class Constant(CrossEntropyLoss):
    """With a gradient: the logits' sum, less itself."""

    def per_sample(self, logits: Tensor, target: Tensor) -> Tensor:  # noqa: ARG002
        return 2.5 + logits.sum(dim=1) - logits.sum(dim=1).detach()


class Detached(CrossEntropyLoss):
    def per_sample(self, logits: Tensor, target: Tensor) -> Tensor:
        return super().per_sample(logits.detach(), target)


class UnknownAges(MemoryLoader):
    def __init__(self) -> None:
        super().__init__()
        self.targets["age"] = torch.full_like(self.targets["age"], UNKNOWN)


@pytest.mark.parametrize(
    ("loss", "weight", "loader", "reason"),
    [
        (Zero, 1.0, MemoryLoader, "its loss is 0"),
        (Constant, 1.0, MemoryLoader, "its loss is 2.5 in every batch"),
        (Detached, 1.0, MemoryLoader, "has no gradient"),
        (CrossEntropyLoss, 0.0, MemoryLoader, "the weight of its loss is 0"),
        (CrossEntropyLoss, 1.0, UnknownAges, "known label"),
        (CrossEntropyLoss, 1.0, MemoryLoader, None),
    ],
)
def test_a_training_names_the_dead_head_once(
    make_trainer: MakeTrainer,
    caplog: pytest.LogCaptureFixture,
    loss: type[CrossEntropyLoss],
    weight: float,
    loader: type[MemoryLoader],
    reason: str | None,
) -> None:
    """At the end of the first epoch, though the run is stopped before that and resumed, and again afterwards."""

    def criterion() -> MultiHeadLoss:
        return MultiHeadLoss({"mask": CrossEntropyLoss(), "age": loss()}, {"mask": 1.0, "age": weight})

    content: dict[str, Any] | None = None
    for updates in (3, 8):
        built = make_trainer(loader=loader(), criterion=criterion(), epochs=2, resume=content)
        content = train_until(built, updates)
    make_trainer(loader=loader(), criterion=criterion(), epochs=2, resume=content).train()
    warned = [text for text in caplog.messages if "does not learn" in text]
    assert len(warned) == (reason is not None)
    if reason is not None:
        assert warned[0].startswith("epoch 1: head age does not learn: ")
        assert reason in warned[0]


def counts_of(truth: np.ndarray, predicted: np.ndarray) -> Tensor:
    matrix = np.zeros((3, 3), dtype=np.int64)
    np.add.at(matrix, (truth, predicted), 1)
    return torch.from_numpy(matrix)


def watch(matrix: Tensor, epochs: int = EPOCHS + 3, updates: int = 50) -> list[str]:
    """What is warned of in so many epochs with the same predictions."""
    heads = HeadWatch(LabelSpace({"age": {"bins": [30, 60]}}), {"age": 1.0})
    return [
        line
        for epoch in range(1, epochs + 1)
        for line in heads.after_epoch(epoch, epoch * updates, {"age": ALIVE}, {"age": matrix})
    ]


def test_no_better_than_the_majority_after_some_epochs() -> None:
    random = np.random.default_rng(1)
    truth = random.choice(3, 300, p=[0.6, 0.3, 0.1])
    constant = counts_of(truth, np.zeros(300, int))
    assert watch(constant, EPOCHS - 1) == []
    assert watch(constant, updates=1) == []
    (line,) = watch(constant)
    share = (truth == 0).mean()
    assert line.startswith(f"epoch {EPOCHS}: head age does not learn: age is predicted no better")
    assert f"accuracy {share:.3f}" in line
    assert "mean recall 0.333" in line
    learned = np.where(random.random(300) < 0.5, truth, random.permutation(truth))
    assert watch(counts_of(truth, learned)) == []
    # As balanced class weights do: less accurate than the constant, but it finds what is rare.
    traded = np.where(random.random(300) < 0.5, truth, 2)
    assert (traded == truth).mean() < share
    assert watch(counts_of(truth, traded)) == []
    assert watch(counts_of(truth[truth == 1], np.ones((truth == 1).sum(), int))) == []  # one class tells nothing
    assert watch(torch.zeros(3, 3, dtype=torch.int64)) == []


def test_predictions_that_have_nothing_to_do_with_the_truth_are_named() -> None:
    """In nearly all draws; and a head that learns slowly, 55 % right of two equal classes among 400, nearly never."""
    random = np.random.default_rng(2)
    named = quiet = 0
    for _ in range(60):
        truth = random.choice(3, 400, p=[0.7, 0.2, 0.1])
        named += bool(watch(counts_of(truth, random.permutation(truth)), EPOCHS))
        even = random.choice(2, 400)
        quiet += not watch(counts_of(even, np.where(random.random(400) < 0.2, even, random.permutation(even))), EPOCHS)
    assert named >= 55
    assert quiet >= 57


def test_the_watch_remembers(make_trainer: MakeTrainer) -> None:
    heads = HeadWatch(LabelSpace({"age": {"bins": [30, 60]}}), {"age": 1.0})
    dead = LossOfEpoch(not_finite=0, lowest=math.inf, highest=-math.inf, batches=0, gradient=None)
    assert len(heads.after_epoch(1, 9, {"age": dead}, {})) == 1
    other = HeadWatch(heads.labels, heads.weights)
    other.load_state_dict(heads.state_dict())
    assert other.after_epoch(2, 18, {"age": dead}, {}) == []
    content = make_trainer(epochs=1).train().checkpoint()
    del content["head_watch"], content["skipped"]  # as an earlier version's
    make_trainer("again", resume=content, epochs=2).train()
