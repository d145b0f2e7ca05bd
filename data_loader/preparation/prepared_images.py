"""Prepared images of files: what the steps find is kept, so that each file is looked at once."""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from data_loader.preparation.preparation import Found, Preparation
from utils.errors import DataError, write_error
from utils.files import folder_lock, write_atomically
from utils.images import DECODING_RULES, BitsUsed, visit_rgb
from utils.progress import with_progress
from utils.signals import StopSignals
from utils.threads import thread_pool

PREPARATION_FOLDER = "preparation"
"""In a config's save_dir."""


class PreparedImages:
    """Prepares images. What is found in a file is kept, a few kilobytes for each file and preparation.

    preparation: the steps
    folder: of all preparations, such as save_dir/preparation; None: what is found is kept in memory

    key: plain data; equal keys, equal images of equal files

    Raises ConfigError where a network cannot be used.
    """

    def __init__(self, preparation: Preparation, folder: Path | None) -> None:
        self.preparation = preparation
        self.key: dict[str, Any] = {"preparation": preparation.key, "decoding": DECODING_RULES}
        digest = hashlib.sha256(json.dumps(self.key, sort_keys=True).encode()).hexdigest()
        self.folder = None if folder is None else folder / digest[:16]
        self._in_memory: dict[str, bytes] = {}
        self._last: tuple[bytes, Found] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> PreparedImages:
        return self  # threads may share it

    def __call__(self, image: np.ndarray, name: str, bits_used_of_16: BitsUsed = 16) -> np.ndarray:
        """An image (H, W, 3) uint8 -> the prepared one (h, w, 3).

        name: the absolute path of the file that the image was decoded from; of another image, any other text

        Raises ConfigError where a network cannot be used; DataError in a worker process, which must not run one."""
        kept = self._kept_name(name, bits_used_of_16)
        found = None if kept is None else self._read(kept)
        if found is None and kept is not None and multiprocessing.parent_process() is not None:
            wrong = f"has changed since it was prepared, or what was found in it is damaged ({kept} in {self.folder})"
            raise DataError(f"{name}: {wrong}; start again")
        return self.preparation.apply(image, self._find(image) if found is None else found)

    def prepare_upload(self, image: np.ndarray) -> tuple[np.ndarray, list[str]]:
        """The prepared image of no file, and its fallbacks. Raises ConfigError."""
        found = self._find(image)
        return self.preparation.apply(image, found), self.preparation.fallbacks(found)

    def find_all(
        self, paths: Sequence[Path], bits_used_of_16: BitsUsed = 16, show_progress: bool = False
    ) -> list[list[str]]:
        """The fallbacks of each file. Those of which nothing is kept are looked at by several threads: to be called
        before processes are forked, which cannot run networks of torch. Other processes that prepare alike wait.

        paths: absolute

        Raises DataError for a file that cannot be read; ConfigError where a network or the folder cannot be used;
        StorageFullError; StopSignal."""
        kept_names = {path: self._kept_name(str(path), bits_used_of_16) for path in paths}

        def look(path: Path) -> list[str]:
            found = visit_rgb(path, self.preparation.find, bits_used_of_16)
            if (kept := kept_names[path]) is not None:
                self._write(kept, found)
            return self.preparation.fallbacks(found)

        known = self._known(kept_names)
        if len(known) < len(kept_names):
            with StopSignals() as stop, self._writing(stop):
                known |= self._known(
                    {path: kept_names[path] for path in kept_names if path not in known}
                )  # by another process
                missing = [path for path in kept_names if path not in known]
                try:
                    with thread_pool() as pool:
                        looked = zip(missing, pool.map(look, missing), strict=True)
                        total, done = len(kept_names), len(known)
                        for path, fallbacks in with_progress(looked, total, "preparing images", show_progress, done):
                            known[path] = fallbacks
                            stop.raise_if_requested()
                finally:
                    for step in self.preparation.steps:  # training needs the memory, and processes are forked
                        step.network.release()
        return [known[path] for path in paths]

    def _find(self, image: np.ndarray) -> Found:
        """What the steps find in an image of no file; the page asks several times for one image."""
        digest = hashlib.blake2b(repr(image.shape).encode())
        digest.update(np.ascontiguousarray(image).data)
        last = self._last
        if last is None or last[0] != digest.digest():
            last = self._last = digest.digest(), self.preparation.find(image)
        return last[1]

    def _kept_name(self, name: str, bits_used_of_16: BitsUsed) -> str | None:
        """The name under which is kept what is found in a file; None for what is no file."""
        if not os.path.isabs(name):  # noqa: PTH117 - once an image
            return None
        try:
            status = os.stat(name)  # noqa: PTH116
        except OSError:
            return None
        signature = (os.path.normpath(name), status.st_size, status.st_mtime_ns, bits_used_of_16)
        digest = hashlib.sha256(repr(signature).encode()).hexdigest()
        return f"{digest[:2]}/{digest[2:34]}.npz"

    @contextmanager
    def _writing(self, stop: StopSignals) -> Iterator[None]:
        """Lets one process at a time write to the folder."""
        if self.folder is None:
            yield
            return
        try:
            with folder_lock(self.folder, f"preparation in {self.folder}", stop):
                yield
        except OSError as error:
            raise write_error(error.filename or self.folder, error, "set trainer.save_dir to another") from error

    def _write(self, kept: str, found: Found) -> None:
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {str(n): each for n, each in enumerate(found) if each is not None}
        np.savez_compressed(buffer, **arrays)
        if self.folder is None:
            self._in_memory[kept] = buffer.getvalue()
        else:
            write_atomically(self.folder / kept, buffer.getvalue())

    def _read(self, kept: str) -> Found | None:
        """None where nothing is kept, or it is damaged."""
        try:
            with np.load(io.BytesIO(self._stored(kept)), allow_pickle=False) as arrays:
                return [arrays.get(str(n)) for n in range(len(self.preparation.steps))]
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error):
            return None

    def _known(self, kept_names: Mapping[Path, str | None]) -> dict[Path, list[str]]:
        """The fallbacks of those files of which something is kept; the arrays are not read."""
        known = {}
        for path, kept in kept_names.items():
            try:
                with zipfile.ZipFile(io.BytesIO(b"" if kept is None else self._stored(kept))) as file:
                    names = file.namelist()
            except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
                continue
            found = [True if f"{n}.npy" in names else None for n in range(len(self.preparation.steps))]
            known[path] = self.preparation.fallbacks(found)
        return known

    def _stored(self, kept: str) -> bytes:
        """Raises OSError, KeyError."""
        return self._in_memory[kept] if self.folder is None else (self.folder / kept).read_bytes()
