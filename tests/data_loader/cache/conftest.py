"""Small photographs, what a cache makes of them, and what it must make of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import albumentations
import numpy as np
import pytest
from PIL import Image

from data_loader.cache import CachedImages, DiskCache, ImageCache, MemoryCache, arrays
from data_loader.transforms import DeterministicPrefix
from utils.images import read_rgb, visit_rgb

HEIGHT, WIDTH = 16, 20
ARRAY_BYTES = 20 * HEIGHT * WIDTH * 3
"""Of the 20 photographs."""


def draw(path: Path, height: int = 40, width: int = 30, seed: int = 0) -> Path:
    """A PNG file of noise."""
    pixels = np.random.default_rng((seed, *path.name.encode())).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "PNG")
    return path


def resized(height: int = HEIGHT, width: int = WIDTH, interpolation: int = 1) -> DeterministicPrefix:
    """A crop and a Resize."""
    crop = {"height": 28, "width": 26}
    resize = {"height": height, "width": width, "interpolation": interpolation}
    specs: list[dict[str, Any]] = [{"type": "CenterCrop", "args": crop}, {"type": "Resize", "args": resize}]
    transforms = [albumentations.CenterCrop(**crop), albumentations.Resize(**resize)]
    return DeterministicPrefix(transforms, specs, (height, width))


def stacked(images: CachedImages) -> np.ndarray:
    return np.stack([images[number] for number in range(len(images))])


def assert_right(images: CachedImages | None, paths: Sequence[Path], prefix: DeterministicPrefix | None = None) -> None:
    """The images are, bit for bit, what decoding gives."""
    prefix = prefix or resized()
    assert images is not None
    np.testing.assert_array_equal(stacked(images), [prefix(read_rgb(path)) for path in paths])


@dataclass
class Storage:
    """A cache on disk or in memory."""

    kind: str
    folder: Path

    def cache(self, budget_bytes: int = 2**24) -> ImageCache:
        budget_gib = budget_bytes / 2**30
        return DiskCache(self.folder, budget_gib) if self.kind == "disk" else MemoryCache(budget_gib)

    def prepare(
        self, paths: Sequence[Path], prefix: DeterministicPrefix | None = None, budget_bytes: int = 2**24
    ) -> CachedImages:
        (images,) = self.cache(budget_bytes).prepare([(paths, prefix or resized())])
        assert images is not None
        return images

    def names(self) -> list[str]:
        """Its files."""
        return sorted(path.name for path in self.folder.glob("*") if path.name != ".lock")

    def only(self, suffix: str) -> Path:
        (path,) = self.folder.glob(f"*{suffix}")
        return path

    def num_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.folder.iterdir())


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "photos 사진"
    folder.mkdir()
    return [draw(folder / f"{number:02}.png") for number in range(20)]


@pytest.fixture
def disk(tmp_path: Path) -> Storage:
    return Storage("disk", tmp_path / "saved" / "image_cache")


@pytest.fixture
def memory(tmp_path: Path) -> Storage:
    return Storage("memory", tmp_path / "saved" / "image_cache")


@pytest.fixture(params=["memory", "disk"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return Storage(request.param, tmp_path / "saved" / "image_cache")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are decoded, in no order."""
    seen: list[str] = []

    def spy(path: Path, visit: Callable[[np.ndarray], Any], bits: Any) -> Any:
        seen.append(path.name)
        return visit_rgb(path, visit, bits)

    monkeypatch.setattr(arrays, "visit_rgb", spy)
    return seen
