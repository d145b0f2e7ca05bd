"""Mixing: images of one batch combined with one another, and their labels with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from utils.random_streams import numpy_stream

Box = tuple[int, int, int, int]
"""Top, left, bottom, right in pixels; the last two are just outside."""


@dataclass(frozen=True)
class Mix:
    """How one batch is mixed: with whom, and how much of each image is its own.

    partners: (B,) int64, for each image the row of its partner in this batch; share: of each image's own labels, 0 to
    1, the partner's have the rest; box: what is taken from the partner; None: all pixels are blended by the share.
    """

    partners: Tensor
    share: float
    box: Box | None = None

    def images(self, images: Tensor) -> Tensor:
        """The mixed images of the float images (B, 3, H, W); laid out in memory as they are."""
        if self.box is None:
            return images[self.partners].mul_(1 - self.share).add_(images * self.share)
        top, left, bottom, right = self.box
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = images[self.partners, :, top:bottom, left:right]
        return mixed

    def partner_targets(self, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """By head, the partners' classes (B,); an unknown one stays unknown, whatever the image's own is."""
        return {head: target[self.partners] for head, target in targets.items()}


class Mixing(Protocol):
    """A way to mix: see data_loader/mixing.py."""

    @property
    def batch_share(self) -> float:
        """The share of all batches that it mixes."""

    def plan(
        self, scoring_targets: Mapping[str, Tensor], image_hw: tuple[int, int], stream: np.random.Generator
    ) -> Mix | None:
        """How to mix a batch of these classes, (B,) by attribute on the CPU, and images of that height and width; all
        that is left to chance is drawn from `stream`. None: the batch stays as it is."""


def plan_mix(
    mixings: Sequence[Mixing],
    scoring_targets: Mapping[str, Tensor],
    image_hw: tuple[int, int],
    seed: int,
    epoch: int,
    batch: int,
    rank: int,
) -> Mix | None:
    """How the batch `batch` of `epoch` is mixed on process `rank`, by one of `mixings` or not at all (None).

    scoring_targets: by attribute, (B,) int64 on the CPU. A function of its arguments: nothing is kept."""
    stream = numpy_stream(seed, "mixing", epoch, batch, rank)
    chance, below = stream.random(), 0.0
    for mixing in mixings:
        below += mixing.batch_share
        if chance < below:
            return mixing.plan(scoring_targets, image_hw, stream)
    return None
