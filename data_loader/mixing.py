"""MixUp and CutMix, and which images are paired."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, TypedDict

import numpy as np
import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from base.label_space import LabelSpace
from base.mixing import Box, Mix
from utils.config.signatures import Fraction
from utils.wording import not_one_of

__all__ = ["CutMix", "MixUp"]

Partners = TypedDict("Partners", {"attribute": str, "class": str})
"""The images that others are paired with: those of one class of one attribute, as it is scored."""

LamRange = Annotated[list[Fraction], Field(min_length=2, max_length=2)]


class BaseMixing(ABC):
    """A way to mix. lam, the weight of each image's own labels, is drawn once a batch.

    batch_share: of the batches, 0 to 1; the others are not mixed
    alpha: lam is drawn from Beta(alpha, alpha)
    share_range: [lowest, highest], between which lam is drawn uniformly, instead of by alpha
    partners: {"attribute": ..., "class": ...}: each image is paired with one of this class, as it is scored, drawn from
        the batch, and a batch without any is not mixed; None: with the batch in random order

    Raises ValueError for alpha and share_range together, a range that is not in order, and names that do not exist.
    """

    default_alpha: float

    def __init__(
        self,
        label_space: LabelSpace | None = None,
        batch_share: Fraction = 1.0,
        alpha: PositiveFloat | None = None,
        share_range: LamRange | None = None,
        partners: Partners | None = None,
    ) -> None:
        if alpha is not None and share_range is not None:
            raise ValueError(f"alpha = {alpha:g} goes without share_range, which draws lam too; keep one")
        if share_range is not None and share_range[0] > share_range[1]:
            raise ValueError(f"share_range = {share_range} must be [lowest, highest]")
        self.batch_share = batch_share
        self.alpha = self.default_alpha if alpha is None else alpha
        self.share_range = share_range
        self.partner_class = None if partners is None else _partner_class(partners, label_space)

    def plan(
        self, scoring_targets: Mapping[str, Tensor], image_hw: tuple[int, int], stream: np.random.Generator
    ) -> Mix | None:
        """See base.mixing.Mixing."""
        if self.share_range is not None:
            lam = float(stream.uniform(self.share_range[0], self.share_range[1]))
        else:
            lam = float(stream.beta(self.alpha, self.alpha))
        pairing = self._pairing(scoring_targets, stream)
        lam, box = self._cut(lam, image_hw, stream)
        if pairing is None or lam == 1:
            return None
        return Mix(pairing, lam, box)

    @abstractmethod
    def _cut(self, lam: float, image_hw: tuple[int, int], stream: np.random.Generator) -> tuple[float, Box | None]:
        """The lam of the mixed pixels, and the box that the paired image fills (None: the images are blended)."""

    def _pairing(self, scoring_targets: Mapping[str, Tensor], stream: np.random.Generator) -> Tensor | None:
        batch = len(next(iter(scoring_targets.values())))
        if self.partner_class is None:
            return torch.from_numpy(stream.permutation(batch))
        attribute, number = self.partner_class
        rows = (scoring_targets[attribute] == number).nonzero().flatten()
        return rows[torch.from_numpy(stream.integers(len(rows), size=batch))] if len(rows) else None


class MixUp(BaseMixing):
    """Blends each image with its paired one, and their labels likewise (Zhang et al., 2018). alpha: by default 0.2."""

    default_alpha = 0.2

    def _cut(self, lam: float, image_hw: tuple[int, int], stream: np.random.Generator) -> tuple[float, Box | None]:  # noqa: ARG002
        return lam, None


class CutMix(BaseMixing):
    """Replaces a part of each image by the paired one's, and as large a part of its labels (Yun et al., 2019).

    region: "box": a box of the image's proportions around a point drawn anywhere, cut off at the border;
    "left_right": one side of a vertical line, "top_bottom": of a horizontal one; which side is drawn. A share_range of
    [0.5, 0.5] swaps halves. lam is the exact share of the pixels, whatever was drawn.
    alpha: by default 1.
    """

    default_alpha = 1.0

    def __init__(
        self,
        label_space: LabelSpace | None = None,
        batch_share: Fraction = 1.0,
        alpha: PositiveFloat | None = None,
        share_range: LamRange | None = None,
        partners: Partners | None = None,
        region: Literal["box", "left_right", "top_bottom"] = "box",
    ) -> None:
        super().__init__(label_space, batch_share, alpha, share_range, partners)
        self.region = region

    def _cut(self, lam: float, image_hw: tuple[int, int], stream: np.random.Generator) -> tuple[float, Box | None]:
        height, width = image_hw
        if self.region == "box":
            box = random_box(lam, height, width, stream)
        elif self.region == "left_right":
            left, right = _one_side(lam, width, stream)
            box = (0, left, height, right)
        else:
            top, bottom = _one_side(lam, height, stream)
            box = (top, 0, bottom, width)
        top, left, bottom, right = box
        return 1 - (bottom - top) * (right - left) / (height * width), box


def random_box(lam: float, height: int, width: int, stream: np.random.Generator) -> Box:
    """The box of Yun et al. (2019, eq. 2): sides sqrt(1 - lam) of the image's, its centre uniform over the pixels."""
    x, y = (int(stream.integers(side)) for side in (width, height))
    half = 0.5 * math.sqrt(1 - lam)
    half_width, half_height = int(half * width), int(half * height)
    return max(y - half_height, 0), max(x - half_width, 0), min(y + half_height, height), min(x + half_width, width)


def check_mixings(mixings: Sequence[BaseMixing]) -> None:
    """Raises ValueError where the shares add up to more than 1: at most one of them applies to a batch."""
    total = sum(mixing.batch_share for mixing in mixings)
    if total > 1 + 1e-9:
        shares = " + ".join(f"{mixing.batch_share:g}" for mixing in mixings)
        raise ValueError(f"the batch_share of all, {shares}, must be at most 1: a batch is mixed in one way")


def _one_side(lam: float, length: int, stream: np.random.Generator) -> tuple[int, int]:
    """Where the paired image's pixels begin and end along an axis of `length` pixels."""
    taken = int((1 - lam) * length + 0.5)
    return (0, taken) if stream.random() < 0.5 else (length - taken, length)


def _partner_class(partners: Partners, label_space: LabelSpace | None) -> tuple[str, int]:
    assert label_space is not None, "partners are named by a label space's classes"
    attribute, name = partners["attribute"], partners["class"]
    known = label_space.predicted_attributes
    if attribute not in known:
        raise ValueError(f'partners names the attribute "{attribute}", which {not_one_of(attribute, known)}')
    names = known[attribute].class_names
    if name not in names:
        raise ValueError(f'partners names "{name}", which {not_one_of(name, names)} (the classes of {attribute})')
    return attribute, names.index(name)
