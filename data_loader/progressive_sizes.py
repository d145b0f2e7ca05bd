"""Progressive image sizes: training images are small in the first epochs, and grow to the size that is validated."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

from pydantic import Field, PositiveInt

Phases = list[Annotated[list[PositiveInt], Field(min_length=2, max_length=2)]]
"""The epoch that each phase begins with, counted from 1, and the height of its images in pixels."""


class ProgressiveSizes:
    """The height and width of the training images of each epoch; the width keeps the images' proportion.

    phases: [first epoch, height in pixels] of each, such as [[1, 128], [6, 192], [11, 240]]
    image_hw: of the images that are validated, and of the last phase

    Raises ValueError where the phases do not rise, in both, from epoch 1 on to the height of `image_hw`.
    """

    def __init__(self, phases: Sequence[Sequence[int]], image_hw: tuple[int, int]) -> None:
        self.phases, self.image_hw = [(epoch, height) for epoch, height in phases], image_hw
        wrong = None
        if not self.phases or self.phases[0][0] != 1:
            wrong = "must begin with epoch 1"
        elif any(later[0] <= earlier[0] or later[1] <= earlier[1] for earlier, later in pairwise(self.phases)):
            wrong = "must rise, in epochs and in pixels"
        elif self.phases[-1][1] != image_hw[0]:
            wrong = f"must end with {image_hw[0]} pixels, the height that is validated"
        if wrong:
            raise ValueError(f"progressive_sizes = {[list(phase) for phase in self.phases]} {wrong}")

    @property
    def last_phase(self) -> int:
        """The epoch that it begins with."""
        return self.phases[-1][0]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Height and width in each phase."""
        return [self.image_hw_in(epoch) for epoch, _ in self.phases]

    def image_hw_in(self, epoch: int) -> tuple[int, int]:
        """Height and width in `epoch`, counted from 1; 0 is none of training, and has the full size."""
        height = next((height for first, height in reversed(self.phases) if first <= epoch), self.image_hw[0])
        return height, max(1, round(height * self.image_hw[1] / self.image_hw[0]))
