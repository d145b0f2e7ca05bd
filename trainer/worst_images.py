"""The validation images that a model gets most wrong, for the trackers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor

from base.batch import UNKNOWN, Batch
from base.label_space import LabelSpace
from utils import distributed

NUM_IMAGES = 16

Row = tuple[float, int, list[int], list[int]]
"""Probability of the truth, index of the image, true and predicted classes."""


class WorstImages:
    """Of one pass over a set, the images whose true joint class is predicted with the least probability; without a
    joint class, whose known attributes are, by the product of their probabilities."""

    def __init__(self, labels: LabelSpace) -> None:
        self.labels = labels
        joint = {attribute.name: attribute for attribute in labels.joint_attributes}
        self.attributes = joint or labels.predicted_attributes
        # Of the images so far, on the device: the columns of Row, (n,), (n,), (n, A) and (n, A).
        self.columns: list[Tensor] | None = None

    def update(self, outputs: Mapping[str, Tensor], batch: Batch) -> None:
        """Adds a batch and the model's outputs for it; images whose truth is not known are skipped."""
        probabilities = {head: outputs[head].float().softmax(dim=1) for head in self.labels.heads}
        truth = batch.scoring_targets
        if self.labels.has_joint_class:
            joint = self.labels.joint_probabilities(probabilities)
            of_truth = _of_truth(joint, self.labels.joint_classes(truth))
            predicted = self.labels.attribute_classes(joint.argmax(dim=1))
        else:
            tables = self.labels.attribute_probabilities(probabilities)
            by_attribute = torch.stack([_of_truth(table, truth[name]) for name, table in tables.items()], dim=1)
            known = by_attribute.isfinite()
            of_truth = torch.where(known, by_attribute, 1).prod(dim=1).masked_fill(~known.any(dim=1), torch.inf)
            predicted = {name: table.argmax(dim=1) for name, table in tables.items()}
        classes = [torch.stack([each[name] for name in self.attributes], dim=1) for each in (truth, predicted)]
        columns = [of_truth, batch.indices, *classes]
        if self.columns is not None:
            columns = [torch.cat(both) for both in zip(self.columns, columns, strict=True)]
        order = columns[0].argsort(stable=True)[:NUM_IMAGES]  # of equals the first, whatever the batches are
        self.columns = [column[order] for column in columns]

    def images(self, read: Callable[[int], np.ndarray]) -> list[tuple[np.ndarray, str]]:
        """The worst first, uint8 (H, W, 3), each with its true and predicted class. Every process must call it."""
        own = zip(*(column.tolist() for column in self.columns or ()), strict=True)
        gathered = cast("list[list[Row]]", distributed.gather([row for row in own if math.isfinite(row[0])]))
        rows = sorted(row for rows in gathered for row in rows)[:NUM_IMAGES]
        if not distributed.is_main_process():
            return []
        return [
            (read(index), f"true: {self._name(true)}, predicted: {self._name(predicted)}")
            for _, index, true, predicted in rows
        ]

    def _name(self, classes: Sequence[int]) -> str:
        pairs = zip(self.attributes.values(), classes, strict=True)
        return " ".join("?" if number == UNKNOWN else attribute.class_names[number] for attribute, number in pairs)


def _of_truth(probabilities: Tensor, truth: Tensor) -> Tensor:
    """(B,), the probability of each true class; inf where it is unknown."""
    known = truth != UNKNOWN
    given = probabilities.gather(1, torch.where(known, truth, 0).unsqueeze(1)).squeeze(1)
    return torch.where(known, given, torch.inf)
