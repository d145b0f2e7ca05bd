"""Metrics of a whole set: confusion counts are summed on the device, and divided once at the end."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from base.batch import UNKNOWN
from base.label_space import LabelSpace
from utils import distributed

Metric = Callable[[Tensor], float]
"""A function of a confusion matrix (C, C), counts by [true, predicted]; NaN where nothing is known."""


class ConfusionCounts:
    """A confusion matrix that grows batch by batch, without waiting for the device.

    counts: (C, C) int64 on `device`, [true, predicted]; those of several processes add up to the whole set's
    """

    def __init__(self, num_classes: int, device: torch.device | str = "cpu") -> None:
        self.num_classes = num_classes
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)

    def update(self, target: Tensor, predicted: Tensor) -> None:
        """Adds a batch.

        target: (B,) int64, -1 = unknown, which is not counted
        predicted: (B,) int64, 0 to C - 1
        """
        cells = self.num_classes**2
        cell = torch.where(target == UNKNOWN, cells, target * self.num_classes + predicted)  # unknown: one cell more
        # Not bincount, which asks the device for its greatest value and so waits for it.
        counted = torch.zeros(cells + 1, dtype=torch.int64, device=self.counts.device)
        counted.scatter_add_(0, cell, torch.ones_like(cell))
        self.counts += counted[:cells].view_as(self.counts)

    @property
    def matrix(self) -> Tensor:
        """The counts so far: (C, C) int64, [true, predicted], a copy on the CPU."""
        return self.counts.cpu().clone()

    def state_dict(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        return {"counts": self.matrix}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the counts of `state_dict()`. Raises ValueError if they are of another number of classes."""
        counts = state["counts"]
        if counts.shape != self.counts.shape:
            raise ValueError(f"confusion counts of {len(counts)} classes, where {self.num_classes} are expected")
        self.counts.copy_(counts)


class Metrics:
    """The confusion counts of the joint class and of each attribute, and the metrics made of them.

    They are named "<metric>" for the joint class, or the attributes' mean where there is none, and
    "<attribute>_<metric>" for each attribute.

    functions: by name
    """

    def __init__(self, labels: LabelSpace, functions: Mapping[str, Metric], device: torch.device) -> None:
        self.labels, self.functions = labels, functions
        self.counts: dict[str | None, ConfusionCounts] = {}
        """By attribute; None is the joint class."""
        if labels.has_joint_class:
            self.counts[None] = ConfusionCounts(labels.num_joint_classes, device)
        for name, attribute in labels.predicted_attributes.items():
            self.counts[name] = ConfusionCounts(len(attribute.class_names), device)

    @staticmethod
    def names(labels: LabelSpace, functions: Mapping[str, Metric]) -> dict[str, str]:
        """By each name that `values` gives, that of its function; known before anything is counted."""
        return {f"{_prefix(each)}{name}": name for each in (None, *labels.predicted_attributes) for name in functions}

    def update(self, outputs: Mapping[str, Tensor], scoring_targets: Mapping[str, Tensor]) -> None:
        """Counts a batch.

        outputs: the model's, of which the heads are logits (B, C)
        scoring_targets: true classes by attribute, (B,) int64, -1 = unknown
        """
        probabilities = {head: outputs[head].detach().float().softmax(dim=1) for head in self.labels.heads}
        if None in self.counts:
            predicted = self.labels.joint_probabilities(probabilities).argmax(dim=1)
            self.counts[None].update(self.labels.joint_classes(scoring_targets), predicted)
        for name, attribute_probabilities in self.labels.attribute_probabilities(probabilities).items():
            self.counts[name].update(scoring_targets[name], attribute_probabilities.argmax(dim=1))

    def reduce(self) -> None:
        """Sums the counts over all processes; call it once, after the last batch."""
        for counts in self.counts.values():
            distributed.all_reduce_sum(counts.counts)

    def values(self, prefix: str = "") -> dict[str, float]:
        """Every metric by name, after `prefix` (such as "val/"). There is none of what has no known label, or has only
        one class in truth: to predict it every time is no success."""
        found = {}
        for each, counts in self.counts.items():
            matrix = counts.matrix
            several = int((matrix.sum(dim=1) > 0).sum()) > 1
            values = {name: function(matrix) for name, function in self.functions.items()} if several else {}
            found[each] = {name: value for name, value in values.items() if value == value}
        if None not in found:
            known = {name: [own[name] for own in found.values() if name in own] for name in self.functions}
            found = {None: {name: statistics.fmean(own) for name, own in known.items() if own}, **found}
        return {f"{prefix}{_prefix(each)}{name}": value for each, own in found.items() for name, value in own.items()}

    def state_dict(self) -> dict[str, Any]:
        return {_state_key(each): counts.state_dict() for each, counts in self.counts.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for each, counts in self.counts.items():
            counts.load_state_dict(state[_state_key(each)])


def _prefix(attribute: str | None) -> str:
    return "" if attribute is None else f"{attribute}_"


def _state_key(attribute: str | None) -> str:
    return "answer" if attribute is None else f"attribute {attribute}"
