"""The validation images that a model gets most wrong, for the trackers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import numpy as np
import torch
from torch import Tensor

from base.batch import UNKNOWN, Batch
from base.label_space import LabelSpace
from utils import distributed

NUM_IMAGES = 16


class WorstImages:
    """Of one pass over a set, the images whose true joint class is predicted with the least probability."""

    def __init__(self, labels: LabelSpace) -> None:
        self.labels = labels
        # (n,) each, on the device until they are asked for: probability of the truth, index, true and predicted class.
        self.columns: list[Tensor] | None = None

    def update(self, outputs: Mapping[str, Tensor], batch: Batch) -> None:
        """Adds a batch and the model's outputs for it; images without a known joint class are skipped."""
        probabilities = {head: outputs[head].float().softmax(dim=1) for head in self.labels.heads}
        joint = self.labels.joint_probabilities(probabilities)
        truth = self.labels.joint_classes(batch.scoring_targets)
        known = truth != UNKNOWN
        given = joint.gather(1, torch.where(known, truth, 0).unsqueeze(1)).squeeze(1)
        given = torch.where(known, given, torch.inf)
        columns = [given, batch.indices, truth, joint.argmax(dim=1)]
        if self.columns is not None:
            columns = [torch.cat(both) for both in zip(self.columns, columns, strict=True)]
        order = columns[0].argsort(stable=True)[:NUM_IMAGES]  # of equals the first, whatever the batches are
        self.columns = [column[order] for column in columns]

    def _rows(self) -> list[tuple[float, int, int, int]]:
        columns = [column.tolist() for column in self.columns or ()]
        return [row for row in zip(*columns, strict=True) if row[2] != UNKNOWN]

    def images(self, read: Callable[[int], np.ndarray]) -> list[tuple[np.ndarray, str]]:
        """The worst first, uint8 (H, W, 3), each with its true and predicted class. Every process must call it."""
        gathered = cast("list[list[tuple[float, int, int, int]]]", distributed.gather(self._rows()))
        rows: list[tuple[float, int, int, int]] = sorted(row for rows in gathered for row in rows)[:NUM_IMAGES]
        if not distributed.is_main_process():
            return []
        names = self.labels.joint_class_names
        return [(read(index), f"true: {names[true]}, predicted: {names[guess]}") for _, index, true, guess in rows]
