"""Small images for the tests of the cache, and what they must look like when they come out of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import albumentations
import numpy as np
import pytest
from PIL import Image

from data_loader import cache_filling
from data_loader.image_cache import CachedImages, cache_images
from data_loader.images import DecodedImages
from data_loader.transforms import DeterministicPrefix
from utils.images.decoding import read_rgb

BUDGET = 2**24
HEIGHT, WIDTH = 16, 20
IMAGE_BYTES = HEIGHT * WIDTH * 3


def draw(path: Path, height: int = 40, width: int = 30, seed: int = 0) -> Path:
    """A file with noise of its own, as PNG."""
    pixels = np.random.default_rng((seed, *path.name.encode())).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "PNG")
    return path


def resized(height: int = HEIGHT, width: int = WIDTH, interpolation: int = 1) -> DeterministicPrefix:
    """A crop and a Resize to (height, width)."""
    crop = {"height": 28, "width": 26}
    resize = {"height": height, "width": width, "interpolation": interpolation}
    specs: list[dict[str, Any]] = [{"type": "CenterCrop", "args": crop}, {"type": "Resize", "args": resize}]
    transforms = [albumentations.CenterCrop(**crop), albumentations.Resize(**resize)]
    return DeterministicPrefix(transforms, specs, (height, width))


def unchanged() -> DeterministicPrefix:
    """No step at all."""
    return DeterministicPrefix([], [], None)


def cached(
    paths: Sequence[Path],
    folder: Path | None,
    steps: DeterministicPrefix | None = None,
    where: Literal["memory", "disk"] = "disk",
    budget: int = BUDGET,
) -> CachedImages:
    return cache_images([(paths, steps or resized())], where, folder, budget)[0]


def assert_right(images: CachedImages, paths: Sequence[Path], steps: DeterministicPrefix | None = None) -> None:
    """The images are, bit for bit, what decoding gives."""
    decoded = DecodedImages(paths, steps or resized())
    assert len(images) == len(paths)
    for index in range(len(paths)):
        np.testing.assert_array_equal(images[index], decoded[index])


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that the cache decodes from now on, in no order."""
    seen: list[str] = []

    def spy(path: Path) -> np.ndarray:
        seen.append(path.name)
        return read_rgb(path)

    monkeypatch.setattr(cache_filling, "read_rgb", spy)
    return seen


def sizes(folder: Path) -> dict[str, int]:
    """Of the files of a cache, by suffix; without the lock and what is still being written (".name.tmp")."""
    return {path.suffix: path.stat().st_size for path in folder.iterdir() if not path.name.startswith(".")}


def only(folder: Path, suffix: str) -> Path:
    found = list(folder.glob(f"*{suffix}"))
    assert len(found) == 1, found
    return found[0]
