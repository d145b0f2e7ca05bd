"""What a pipeline's fixed steps make of images, made once and kept: in memory, or on the disk for later runs too."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import PIL

from data_loader.cache_filling import Filling
from data_loader.file_stamps import Stamp, absolute_paths
from data_loader.pixel_store import HEADER_BYTES, PixelStore
from data_loader.transforms import DeterministicPrefix
from utils.errors import ConfigError, StorageFullError
from utils.files import FULL
from utils.images.decoding import DECODING_RULES

FORMAT = 1
"""Raised whenever the files are laid out in another way than before."""

_VERSIONS = {
    "format": FORMAT,
    "decoding": DECODING_RULES,
    "albumentations": version("albumentations"),
    "albucore": version("albucore"),
    "opencv": cv2.__version__,
    "pillow": PIL.__version__,
    "numpy": np.__version__,
    "machine": platform.machine(),
}
"""What pixels depend on besides the file and the steps."""


class CachedImages:
    """N images that a cache holds (data_loader.images.Images): views of one map that forked processes share.

    image_hw: height and width in pixels, None where they differ; nbytes: what the N images take."""

    def __init__(self, store: PixelStore, keys: Sequence[str], steps: DeterministicPrefix) -> None:
        found = [store.rows[key] for key in keys]
        mapped = store.pixels()
        self._bytes = mapped.view()
        self._bytes.flags.writeable = False
        self._offsets = np.array([row.offset for row in found], np.int64)
        self._sizes = np.array([(row.height, row.width) for row in found], np.int64).reshape(-1, 2)
        self.nbytes = int(self._sizes.prod(axis=1).sum()) * 3
        self.image_hw = _common_size(self._sizes, steps.image_hw)
        row_bytes = self.image_hw[0] * self.image_hw[1] * 3 if self.image_hw else 1
        self._rows, odd = np.divmod(self._offsets - HEADER_BYTES, row_bytes)
        if odd.any():  # images of other sizes stand between
            self.image_hw, row_bytes = None, 1
        if self.image_hw:
            count = (len(mapped) - HEADER_BYTES) // row_bytes
            # torch warns of arrays that cannot be written to, which the batches of `in_place` become
            self._pixels = mapped[HEADER_BYTES : HEADER_BYTES + count * row_bytes].reshape(count, *self.image_hw, 3)

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8, which cannot be written to."""
        offset, (height, width) = self._offsets[index], self._sizes[index]
        return self._bytes[offset : offset + height * width * 3].reshape(height, width, 3)

    def gather(self, indices: Sequence[int] | np.ndarray, out: np.ndarray) -> None:
        """Copies B images to `out`, (B, H, W, 3) uint8. Only where image_hw is not None."""
        assert self.image_hw, "the images differ in size"
        assert out.shape == (len(indices), *self.image_hw, 3), f"{out.shape}: {self.image_hw}"
        np.take(self._pixels, self._rows[indices], axis=0, out=out, mode="clip")  # "raise" would go through a copy

    def in_place(self, indices: np.ndarray) -> np.ndarray | None:
        """B images where they lie, (B, H, W, 3) uint8, not to be written to; None unless they lie there in this order,
        one behind the other."""
        if self.image_hw is None or not len(indices):
            return None
        rows = self._rows[indices]
        first = int(rows[0])
        return self._pixels[first : first + len(rows)] if (np.diff(rows) == 1).all() else None


def _common_size(sizes: np.ndarray, of_none: tuple[int, int] | None) -> tuple[int, int] | None:
    if not len(sizes):
        return of_none
    return (int(sizes[0, 0]), int(sizes[0, 1])) if (sizes == sizes[0]).all() else None


def cache_images(
    wanted: Sequence[tuple[Sequence[Path], DeterministicPrefix]],
    where: Literal["memory", "disk"],
    folder: Path | None,
    budget_bytes: int,
    show_progress: bool = False,
    seen: Mapping[str, Stamp] | None = None,
) -> list[CachedImages]:
    """For each pair of `wanted`, what its steps make of its images, in order; an image is decoded once for all.

    On the disk, what `folder` holds of equal steps is used, for files whose size and time of change are as they were,
    and what it lacks is added; in memory, what the process has made before. budget_bytes: how large the folder may
    become, or what all images may take in memory that the process keeps for its next call. seen: the stamps of files
    that were looked at a moment ago, by absolute path; what is kept of a file that changes meanwhile is void.

    Raises DataError for an image that cannot be read or that the steps cannot take; ConfigError where there is no
    room or the folder cannot be used; StorageFullError where the disk runs full all the same; StopSignal. In each case
    the images that were done stay on the disk."""
    filling = Filling(show_progress, seen or {})
    asked = []
    for paths, steps in wanted:
        keys = absolute_paths(paths)
        recipe = json.dumps({"steps": steps.specs, "versions": _VERSIONS}, sort_keys=True)
        filling.ask(recipe, steps, dict(zip(keys, paths, strict=True)))
        asked.append((recipe, keys))
    try:
        if where == "memory":
            filling.in_memory(budget_bytes)
        else:
            assert folder is not None, "a cache on the disk needs a folder"
            filling.on_disk(folder, budget_bytes)
        return [CachedImages(filling.stores[recipe], keys, filling.steps[recipe]) for recipe, keys in asked]
    except OSError as error:
        raise _storage_error(folder if where == "disk" else None, error) from error
    finally:
        if where == "disk":
            for store in filling.stores.values():
                store.close()


def _storage_error(folder: Path | None, error: OSError) -> ConfigError | StorageFullError:
    """folder: None for a cache in memory."""
    if folder is None:
        return ConfigError(
            f"data_loader.args.cache: the machine's memory cannot hold the images ({error.strerror}); "
            f'set it to "disk" or "none"'
        )
    if error.errno in FULL:
        return StorageFullError(
            f"{folder}: the disk is full ({error.strerror}), and images were to be cached there; free some of it, or "
            f'set data_loader.args.cache to "none"'
        )
    reason = error.strerror if error.filename in (None, str(folder)) else f"{error.strerror}: {error.filename}"
    return ConfigError(
        f"{folder}: images cannot be cached there ({reason}); let it be a folder on a disk that can be written "
        f'to, or set data_loader.args.cache to "none"'
    )
