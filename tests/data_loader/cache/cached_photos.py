"""Small images for the tests of the cache, and what they must look like when they come out of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import albumentations
import numpy as np
import pytest
from PIL import Image

from data_loader.cache import CachedImages, DiskCache, ImageCache, MemoryCache, image_cache
from data_loader.transforms import DeterministicPrefix
from utils.images import read_rgb

HEIGHT, WIDTH = 16, 20
ARRAY_BYTES = 128 + 20 * HEIGHT * WIDTH * 3
"""Of 20 images, in a .npy file."""


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


def cache_of(where: str, folder: Path, budget_bytes: int = 2**24) -> ImageCache:
    budget_gib = budget_bytes / 2**30
    return DiskCache(folder, budget_gib) if where == "disk" else MemoryCache(budget_gib)


def cached(
    paths: Sequence[Path],
    folder: Path,
    prefix: DeterministicPrefix | None = None,
    where: str = "disk",
    budget_bytes: int = 2**24,
) -> CachedImages:
    (images,) = cache_of(where, folder, budget_bytes).prepare([(paths, prefix or resized())])
    assert images is not None
    return images


def assert_right(images: CachedImages | None, paths: Sequence[Path], prefix: DeterministicPrefix | None = None) -> None:
    """The images are, bit for bit, what decoding gives."""
    prefix = prefix or resized()
    assert images is not None
    assert len(images) == len(paths)
    for index, path in enumerate(paths):
        np.testing.assert_array_equal(images[index], prefix(read_rgb(path)))


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that the cache decodes from now on, in no order."""
    seen: list[str] = []

    def spy(path: Path, bits: Any = 16) -> np.ndarray:
        seen.append(path.name)
        return read_rgb(path, bits)

    monkeypatch.setattr(image_cache, "read_rgb", spy)
    return seen


def names(folder: Path) -> list[str]:
    """What a cache holds: arrays and indexes."""
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")
