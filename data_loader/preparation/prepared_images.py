"""Prepared images of files: what the steps find is kept in a folder, so that each file is looked at once."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_loader.preparation.preparation import Found, Preparation
from data_loader.records.image_check import number_of_cores
from utils.errors import ConfigError
from utils.files import write_atomically
from utils.images import DECODING_RULES, BitsUsed, visit_rgb
from utils.progress import with_progress


class PreparedImages:
    """Prepares images. What is found in a file is kept in a folder, a few kilobytes for each file and preparation.

    preparation: the steps
    folder: of all preparations, such as save_dir/preparation; None: nothing is kept
    """

    def __init__(self, preparation: Preparation, folder: Path | None) -> None:
        self.preparation = preparation
        digest = hashlib.sha256(json.dumps(self.key, sort_keys=True).encode()).hexdigest()
        self.folder = None if folder is None else folder / digest[:16]

    @property
    def key(self) -> dict[str, object]:
        """Plain data: equal keys, equal images of equal files."""
        return {"preparation": self.preparation.key, "decoding": DECODING_RULES}

    def __call__(self, image: np.ndarray, name: str, bits_used_of_16: BitsUsed = 16) -> np.ndarray:
        """An image (H, W, 3) uint8 -> the prepared one (h, w, 3).

        name: the path of the file that the image was decoded from; of another image, any text

        Raises ConfigError where a network or the folder cannot be used."""
        found = self._found(name, bits_used_of_16, lambda: self.preparation.find(image))
        return self.preparation.apply(image, found)

    def find_all(
        self, paths: Sequence[Path], bits_used_of_16: BitsUsed = 16, show_progress: bool = False
    ) -> list[list[str]]:
        """The fallbacks of each file. Files are looked at by several threads, those of which nothing is kept: to be
        called before processes are forked, which cannot run networks of torch.

        Raises DataError for a file that cannot be read; ConfigError where a network or the folder cannot be used."""

        def fallbacks(path: Path) -> list[str]:
            find = partial(visit_rgb, path, self.preparation.find, bits_used_of_16)
            return self.preparation.fallbacks(self._found(str(path), bits_used_of_16, find))

        pool = ThreadPoolExecutor(number_of_cores())
        try:
            return list(with_progress(pool.map(fallbacks, paths), len(paths), "preparing images", show_progress))
        finally:
            pool.shutdown(cancel_futures=True)

    def _found(self, name: str, bits_used_of_16: BitsUsed, find: Callable[[], Found]) -> Found:
        """What is kept of a file, or else what `find` returns, which is kept then."""
        kept = self._place(name, bits_used_of_16)
        found = None if kept is None else self._read(kept)
        if found is None:
            found = find()
            if kept is not None:
                self._write(kept, found)
        return found

    def _place(self, name: str, bits_used_of_16: BitsUsed) -> Path | None:
        if self.folder is None or not os.path.isfile(name):  # noqa: PTH113 - once an image
            return None
        status = os.stat(name)  # noqa: PTH116
        signature = (os.path.abspath(name), status.st_size, status.st_mtime_ns, bits_used_of_16)  # noqa: PTH100
        digest = hashlib.sha256(repr(signature).encode()).hexdigest()
        return self.folder / digest[:2] / f"{digest[2:34]}.npz"

    def _read(self, kept: Path) -> Found | None:
        """None where nothing is kept, or it is damaged."""
        try:
            with np.load(kept, allow_pickle=False) as arrays:
                return [arrays.get(str(n)) for n in range(len(self.preparation.steps))]
        except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error):
            return None

    def _write(self, kept: Path, found: Found) -> None:
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {str(n): each for n, each in enumerate(found) if each is not None}
        np.savez_compressed(buffer, **arrays)
        try:
            write_atomically(kept, buffer.getvalue())
        except OSError as error:
            raise ConfigError(
                f"{kept}: cannot be written ({error.strerror}); free space, or set trainer.save_dir"
            ) from error
