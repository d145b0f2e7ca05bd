"""Counts of what was true against what was predicted: summed on the device, divided once at the end."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from base.batch import UNKNOWN


class ConfusionCounts:
    """A confusion matrix that grows batch by batch, without waiting for the device.

    counts (C, C) int64 on `device`, [true, predicted]: add those of several processes to get the whole set's.
    """

    def __init__(self, num_classes: int, device: torch.device | str = "cpu") -> None:
        self.num_classes = num_classes
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)

    def update(self, target: Tensor, predicted: Tensor) -> None:
        """Adds a batch: target (B,) int64, -1 = unknown, which is passed over; predicted (B,) int64, 0 to C - 1."""
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
