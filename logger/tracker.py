"""What every tracker does, so that a trainer can tell several of them the same thing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

CaptionedImage = tuple[np.ndarray, str]
"""A picture, uint8 (H, W, 3), and its caption."""


class Tracker(ABC):
    """Takes a run's numbers and pictures, an epoch at a time, and keeps or sends them.

    One process of a run builds trackers, the main one. A method may raise whatever its world raises: `Trackers` drops
    an optional tracker that does, and lets the error of any other pass.
    """

    name: ClassVar[str]
    optional: ClassVar[bool] = True

    @abstractmethod
    def log_metrics(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """All numbers of an epoch, by name, such as "val/f1"; called once an epoch, the epochs rising."""

    def log_images(self, epoch: int, name: str, images: Sequence[CaptionedImage]) -> None:  # noqa: B027
        """Pictures of an epoch, told before its metrics. A tracker that cannot show pictures passes over them."""

    @abstractmethod
    def close(self, exit_code: int) -> None:
        """Ends the tracking; 0 says that the run is done."""

    def state(self) -> dict[str, Any]:
        """Plain data for the checkpoint: what a resumed run must hand to the constructor."""
        return {}
