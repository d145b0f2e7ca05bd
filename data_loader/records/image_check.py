"""A check of every image before training: each is decoded once, and what was found is remembered."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import PIL

from data_loader.records.file_signatures import NO_SIGNATURE, FileSignature, absolute_paths, signatures_of
from utils.errors import DataError
from utils.files import write_atomically
from utils.images.decoding import DECODING_RULES, ImageFinding, inspect_image
from utils.progress import with_progress

CHECKED_IMAGES_FILE = "checked_images.json"
"""In a config's save_dir: what all its runs know of images."""

_SHOWN = 10
"""How many bad files a message names; the rest are counted."""

_RULES = f"{DECODING_RULES}, Pillow {PIL.__version__}"
"""Findings made under other rules are void."""


def check_images(
    paths: Sequence[Path],
    cache_file: Path | None,
    on_bad: Literal["refuse", "skip"] = "refuse",
    show_progress: bool = False,
    log: logging.Logger | None = None,
    remedy: str = 'repair them, or leave them out with data_loader.args.on_bad_image = "skip"',
    signatures: dict[str, FileSignature] | None = None,
) -> list[Path]:
    """Decodes every image in full, in as many threads as there are cores, and returns those that cannot be used.

    Good images are remembered in `cache_file` by path, size and time of change, so that the next time they cost but a
    look at those; a cache that is damaged, or was made under other rules, is made anew. The list is empty under
    "refuse"; under "skip" it holds the bad images, which `log` is warned of. Images that can be read but look doubtful
    are warned of in both cases. Raises DataError for missing files (before any image is opened, and under "skip" too)
    and, under "refuse", for bad images: the first ten, the count and the remedy.

    signatures: takes those of the files, by absolute path, for whoever would look at them next.
    """
    log = log or logging.getLogger(__name__)
    files = dict(zip(absolute_paths(paths), paths, strict=True))
    found = _signatures(files)
    if signatures is not None:
        signatures |= found
    known = _read_cache(cache_file)
    unknown = [key for key, signature in found.items() if known.get(key, [])[:2] != [*signature]]
    findings: dict[str, ImageFinding] = {}
    if unknown:
        try:
            _inspect_all({key: files[key] for key in unknown}, findings, show_progress)
        finally:  # an interrupted check goes on where it was
            for key, finding in findings.items():
                # a bad image is looked at again: its permissions, say, may be put right without a new signature
                if finding.problem is None:
                    known[key] = [*found[key], finding.warning]
            _write_cache(cache_file, known, log)
    warnings = [findings[key].warning if key in findings else known[key][2] for key in files]
    problems = {files[key]: finding.problem for key, finding in findings.items() if finding.problem}
    return _judge([warning for warning in warnings if warning], problems, on_bad, log, remedy)


def _signatures(files: Mapping[str, Path]) -> dict[str, FileSignature]:
    """By absolute path. Raises DataError if any file is missing."""
    signatures = signatures_of(files)
    missing = [files[key] for key, signature in signatures.items() if signature == NO_SIGNATURE and _is_missing(key)]
    if missing:
        raise DataError(
            _listing(f"{_count(len(missing), 'missing image')}", missing)
            + "\nrestore the files, correct the data's root, or remove their rows"
        )
    return signatures


def _is_missing(key: str) -> bool:
    """Or else it is there and cannot be looked at: `inspect_image` says why."""
    try:
        os.stat(key)  # noqa: PTH116
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        pass
    return False


def _inspect_all(files: Mapping[str, Path], findings: dict[str, ImageFinding], show_progress: bool) -> None:
    """Adds to `findings`; decoders release the interpreter's lock, so that threads are enough."""
    pool = ThreadPoolExecutor(max_workers=number_of_cores())
    try:
        inspected = with_progress(pool.map(inspect_image, files.values()), len(files), "checking images", show_progress)
        for key, finding in zip(files, inspected, strict=True):
            findings[key] = finding
    finally:
        pool.shutdown(cancel_futures=True)


def number_of_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _judge(
    warnings: Sequence[str],
    problems: Mapping[Path, str],
    on_bad: Literal["refuse", "skip"],
    log: logging.Logger,
    remedy: str,
) -> list[Path]:
    if warnings:
        log.warning(_listing(_count(len(warnings), "doubtful image"), warnings))
    if not problems:
        return []
    count = _count(len(problems), "image") + " cannot be read"
    if on_bad == "refuse":
        raise DataError(f"{_listing(count, list(problems.values()))}\n{remedy}")
    log.warning(_listing(f"{count} and left out", list(problems.values())))
    return list(problems)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _listing(title: str, items: Sequence[object]) -> str:
    shown = [f"  {item}" for item in items[:_SHOWN]]
    rest = [f"  ... and {len(items) - _SHOWN:,} more"] if len(items) > _SHOWN else []
    return "\n".join([f"{title}:", *shown, *rest])


_Cache = dict[str, list[Any]]
"""By absolute path, of images that can be used: size, time of change, warning."""


def _read_cache(cache_file: Path | None) -> _Cache:
    """Empty where nothing usable is stored."""
    try:
        stored = json.loads(cache_file.read_bytes()) if cache_file else {}
        if stored.get("rules") != _RULES:
            return {}
        for size, changed, warning in stored["files"].values():
            if not (type(size) is int and type(changed) is int and isinstance(warning, str | None)):
                return {}
        return stored["files"]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def _write_cache(cache_file: Path | None, files: _Cache, log: logging.Logger) -> None:
    if cache_file is None:
        return
    try:
        cache_file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(cache_file, json.dumps({"rules": _RULES, "files": files}).encode())
    except OSError as error:
        log.warning(
            f"{cache_file}: the image check cannot be remembered ({error.strerror}); it will be done again next time"
        )
