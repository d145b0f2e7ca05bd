"""What travels between the loader, the model and the trainer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

UNKNOWN = -1
"""The class of an attribute that is not known: the loss, the metrics and the balance of classes pass over it."""


@dataclass
class Batch:
    """Images and what is known of them.

    images (B, 3, H, W) uint8, RGB; targets by head, (B,) int64, in the classes the model is trained on;
    scoring_targets by attribute, (B,) int64, in the classes that are scored (the two differ where the training
    bins do); indices (B,) int64, the rows of the data set. -1 stands for unknown.
    """

    images: Tensor
    targets: dict[str, Tensor]
    scoring_targets: dict[str, Tensor]
    indices: Tensor

    def __len__(self) -> int:
        return len(self.indices)

    def to(self, device: torch.device) -> Batch:
        """The batch on `device`; copies from pinned memory do not wait."""
        return Batch(
            self.images.to(device, non_blocking=True),
            {head: target.to(device, non_blocking=True) for head, target in self.targets.items()},
            {name: target.to(device, non_blocking=True) for name, target in self.scoring_targets.items()},
            self.indices.to(device, non_blocking=True),
        )

    def pin_memory(self) -> Batch:
        """Called by torch's DataLoader where `pin_memory` is on."""
        return Batch(
            self.images.pin_memory(),
            {head: target.pin_memory() for head, target in self.targets.items()},
            {name: target.pin_memory() for name, target in self.scoring_targets.items()},
            self.indices.pin_memory(),
        )
