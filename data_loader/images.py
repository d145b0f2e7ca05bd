"""The images of a data set after a pipeline's fixed steps, by number: decoded each time, or kept (image_cache.py)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from data_loader.transforms import DeterministicPrefix
from utils.images import read_rgb


class Images(Protocol):
    """N images by number, 0 to N - 1."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8, which is not to be written to. Raises DataError."""


class DecodedImages:
    """Images that are read from their files each time."""

    def __init__(self, paths: Sequence[Path], steps: DeterministicPrefix) -> None:
        self.paths = list(paths)
        self.steps = steps

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        path = self.paths[index]
        return self.steps(read_rgb(path), str(path))
