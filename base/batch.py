"""Batch: images and their targets, from the loader to the trainer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from base.mixing import Mix

UNKNOWN = -1
"""The class of an attribute that is not known: the loss, the metrics and the balance of classes skip it."""

EMBEDDING = "embedding"
"""The name of a model's output that is no head: the embedding that metric learning compares images by."""


@dataclass
class Batch:
    """Images and their targets.

    images: (B, 3, H, W) uint8, RGB
    targets: by head, (B,) int64, in the classes that the model is trained on, -1 = unknown
    scoring_targets: by attribute, (B,) int64, in the classes that are scored, -1 = unknown; they differ where bins do
    indices: (B,) int64, the rows of the data set
    mix: how these images are to be mixed with one another; None: not at all
    weights: (B,) float32, of each image in the loss of the heads; None: all count as 1
    """

    images: Tensor
    targets: dict[str, Tensor]
    scoring_targets: dict[str, Tensor]
    indices: Tensor
    mix: Mix | None = None
    weights: Tensor | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def tensors(self) -> list[Tensor]:
        """All its tensors, in a fixed order."""
        pairing = [] if self.mix is None else [self.mix.pairing]
        weights = [] if self.weights is None else [self.weights]
        return [self.images, *self.targets.values(), *self.scoring_targets.values(), self.indices, *pairing, *weights]

    def mapped(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with `function` applied to each of its tensors."""
        return Batch(
            function(self.images),
            {head: function(target) for head, target in self.targets.items()},
            {name: function(target) for name, target in self.scoring_targets.items()},
            function(self.indices),
            None if self.mix is None else replace(self.mix, pairing=function(self.mix.pairing)),
            None if self.weights is None else function(self.weights),
        )

    def to(self, device: torch.device) -> Batch:
        """The batch on `device`; copies from pinned memory do not wait."""
        return self.mapped(lambda tensor: tensor.to(device, non_blocking=True))
