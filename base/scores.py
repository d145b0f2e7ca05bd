"""Scores over a whole set: confusion counts are summed, and divided once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from base.confusion import ConfusionCounts
from base.label_space import LabelSpace
from utils import distributed

Metric = Callable[[Tensor], float]
"""A function of a confusion matrix (C, C), counts by [true, predicted]; NaN where nothing is known."""


class Scores:
    """Confusion counts of the combined answer and of each attribute, and the metrics made from them.

    Metrics are named "<metric>" for the combined answer and "<attribute>_<metric>" for each attribute."""

    def __init__(self, labels: LabelSpace, metrics: Mapping[str, Metric], device: torch.device) -> None:
        self.labels = labels
        self.metrics = metrics
        self.answer = ConfusionCounts(labels.num_joint_classes, device)
        self.attributes = {
            name: ConfusionCounts(len(attribute.class_names), device)
            for name, attribute in labels.predicted_attributes.items()
        }

    @staticmethod
    def names(labels: LabelSpace, metrics: Mapping[str, Metric]) -> list[str]:
        """The names that `values` gives, known before anything is counted."""
        return [
            f"{prefix}{metric}"
            for prefix in ["", *(f"{n}_" for n in labels.predicted_attributes)]
            for metric in metrics
        ]

    def update(self, outputs: Mapping[str, Tensor], scoring_targets: Mapping[str, Tensor]) -> None:
        """Counts a batch: a model's outputs, of which the heads are raw (B, C); true classes by attribute, (B,), -1
        passed over."""
        probabilities = {head: outputs[head].detach().float().softmax(dim=1) for head in self.labels.heads}
        answers = self.labels.joint_probabilities(probabilities).argmax(dim=1)
        self.answer.update(self.labels.joint_classes(scoring_targets), answers)
        for name, attribute_probabilities in self.labels.attribute_probabilities(probabilities).items():
            self.attributes[name].update(scoring_targets[name], attribute_probabilities.argmax(dim=1))

    def _all(self) -> list[ConfusionCounts]:
        return [self.answer, *self.attributes.values()]

    def reduce(self) -> None:
        """Sums the counts over all processes; call it once, after the last batch."""
        for counts in self._all():
            distributed.all_reduce_sum(counts.counts)

    def values(self, prefix: str = "") -> dict[str, float]:
        """Every metric by name, after `prefix` (such as "val/"). Where no label is known there is no metric."""
        values = {f"{prefix}{name}": metric(self.answer.matrix) for name, metric in self.metrics.items()}
        for attribute, counts in self.attributes.items():
            values |= {f"{prefix}{attribute}_{name}": metric(counts.matrix) for name, metric in self.metrics.items()}
        return {name: value for name, value in values.items() if value == value}

    def state_dict(self) -> dict[str, Any]:
        return {"answer": self.answer.state_dict()} | {
            f"attribute {n}": c.state_dict() for n, c in self.attributes.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.answer.load_state_dict(state["answer"])
        for name, counts in self.attributes.items():
            counts.load_state_dict(state[f"attribute {name}"])
