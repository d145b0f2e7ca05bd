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
    """How one batch is mixed, in the terms of Zhang et al. (2018) and Yun et al. (2019).

    pairing: (B,) int64, for each image the row in this batch of the image that it is mixed with
    lam: 0 to 1, the weight of each image's own labels; the paired image's have 1 - lam
    box: what is taken from the paired image; None: all pixels are blended, by lam
    """

    pairing: Tensor
    lam: float
    box: Box | None = None

    def images(self, images: Tensor) -> Tensor:
        """The float images (B, 3, H, W), mixed; in the same memory format."""
        if self.box is None:
            return images[self.pairing].mul_(1 - self.lam).add_(images * self.lam)
        top, left, bottom, right = self.box
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = images[self.pairing, :, top:bottom, left:right]
        return mixed

    def paired_targets(self, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """By head, the paired images' classes (B,); an unknown one stays unknown, whatever the image's own is."""
        return {head: target[self.pairing] for head, target in targets.items()}

    def paired_weights(self, weights: Tensor | None) -> Tensor | None:
        """The paired images' weights in the loss, (B,); None: all count as 1."""
        return None if weights is None else weights[self.pairing]


class Mixing(Protocol):
    """A way to mix: see data_loader/mixing.py."""

    @property
    def batch_share(self) -> float:
        """The share of all batches that it mixes."""

    def plan(
        self, scoring_targets: Mapping[str, Tensor], image_hw: tuple[int, int], stream: np.random.Generator
    ) -> Mix | None:
        """How to mix a batch; None: not at all. All random numbers come from `stream`.

        scoring_targets: by attribute, (B,) int64 on the CPU
        image_hw: height and width of the images in pixels
        """


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
