"""Photographs, and a folder for what is made of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data_loader.cache.cached_photos import draw


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "photos 사진"
    folder.mkdir()
    return [draw(folder / f"{number:02}.png") for number in range(20)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "saved" / "image_cache"
