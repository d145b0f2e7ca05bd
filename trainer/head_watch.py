"""Names the heads that do not learn: one warning each, at the end of the epoch in which it becomes clear."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from base.label_space import LabelSpace
from trainer.epoch_metrics import LossOfEpoch

EPOCHS, UPDATES = 3, 100
"""So long a head may take at least to become better than always the most frequent class."""
FEWEST = 20
"""Validation images with a known label, the fewest from which something follows."""
ZERO = 1e-8
SAME = 1e-6
"""Relative: the losses of two batches that differ by less are the same in float32."""


class HeadWatch:
    """What was seen of the heads of a run.

    weights: of each head's loss in the total
    """

    def __init__(self, labels: LabelSpace, weights: Mapping[str, float]) -> None:
        self.labels, self.weights = labels, weights
        self.named: list[str] = []
        """The heads that were warned of."""
        self.learned: list[str] = []
        """The attributes of which some epoch's predictions were better than a constant."""

    def after_epoch(
        self, epoch: int, updates: int, losses: Mapping[str, LossOfEpoch], counts: Mapping[Any, Tensor]
    ) -> list[str]:
        """What is to be warned of.

        updates: of the weights, in the whole run
        losses: of the training, by name
        counts: of the validation, by attribute: (C, C) [true, predicted]
        """
        scores = {name: _scores(each) for name, each in counts.items() if name is not None and _can_tell(each)}
        self.learned += [name for name, each in scores.items() if each.is_better and name not in self.learned]
        found = {}
        for name, head in self.labels.heads.items():
            reason = _dead_loss(losses[name], self.weights[name])
            if reason is None and epoch >= EPOCHS and updates >= UPDATES:
                attributes = [each.name for each in head.attributes if each.name in scores]
                reasons = [scores[each].describe(each) for each in attributes if each not in self.learned]
                reason = "; ".join(reasons) or None
            if reason is not None and name not in self.named:
                found[name] = reason
        self.named += found
        return [f"epoch {epoch}: head {name} does not learn: {reason}" for name, reason in found.items()]

    def state_dict(self) -> dict[str, list[str]]:
        return {"named": [*self.named], "learned": [*self.learned]}

    def load_state_dict(self, state: Mapping[str, list[str]]) -> None:
        self.named, self.learned = [*state["named"]], [*state["learned"]]


def _dead_loss(loss: LossOfEpoch, weight: float) -> str | None:
    if not loss.batches:
        return "its loss was never finite" if loss.not_finite else "no image that was trained has a known label of it"
    if max(abs(loss.lowest), abs(loss.highest)) < ZERO:
        return "its loss is 0 in every batch; does the data have one of its classes alone?"
    if weight == 0:
        return "the weight of its loss is 0 (loss.heads); leave it out of labels.heads, or give it a weight"
    if loss.gradient == 0:
        return "its loss has no gradient; is it computed from detached outputs, or is the model frozen?"
    if loss.batches > 1 and loss.highest - loss.lowest <= SAME * abs(loss.highest):
        return f"its loss is {loss.highest:.4g} in every batch; does it depend on the model's output?"
    return None


class _Scores(NamedTuple):
    """Of one attribute's predictions.

    most_frequent: the share of the most frequent class, the accuracy of a constant prediction
    recall: the mean over the classes that are there
    chance: the mean recall of a constant prediction
    error: the standard error of the mean recall, if predictions and truth had nothing to do with each other
    """

    accuracy: float
    most_frequent: float
    recall: float
    chance: float
    error: float

    @property
    def is_better(self) -> bool:
        """Than a constant: by accuracy, or, as class weights trade it for recall, by recall."""
        return self.accuracy > self.most_frequent or self.recall > self.chance + max(2 * self.error, 1e-9)

    def describe(self, attribute: str) -> str:
        return (
            f"{attribute} is predicted no better than by always the most frequent class: accuracy {self.accuracy:.3f} "
            f"(constant {self.most_frequent:.3f}), mean recall {self.recall:.3f} (constant {self.chance:.3f}, "
            f"+- {2 * self.error:.3f} by chance); are its labels right, and is the learning rate?"
        )


def _can_tell(counts: Tensor) -> bool:
    """Whether there are enough images, of more than one class."""
    return int(counts.sum()) >= FEWEST and int((counts.sum(dim=1) > 0).sum()) > 1


def _scores(counts: Tensor) -> _Scores:
    """counts: (C, C) [true, predicted]"""
    counts = counts.double()
    sizes, total = counts.sum(dim=1), int(counts.sum())
    present = sizes > 0
    number = int(present.sum())
    recalls = counts.diagonal()[present] / sizes[present]
    predicted = counts.sum(dim=0)[present] / total
    variance = (predicted * (1 - predicted) / sizes[present]).sum() / number**2
    right = int(counts.diagonal().sum())
    return _Scores(right / total, int(sizes.max()) / total, float(recalls.mean()), 1 / number, float(variance.sqrt()))
