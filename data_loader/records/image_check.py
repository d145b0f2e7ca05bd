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
from utils.images import DECODING_RULES, BitsUsed, ImageFinding, inspect_image
from utils.progress import with_progress

logger = logging.getLogger(__name__)

CHECKED_IMAGES_FILE = "checked_images.json"
"""In a config's save_dir: what all its runs know of images."""

_LONGEST_LIST = 10
"""How many files a message names; the rest are counted."""

_RULES = f"{DECODING_RULES}, 16-bit maxima, Pillow {PIL.__version__}"
"""Findings made under other rules are void."""


def check_images(
    paths: Sequence[Path],
    cache_file: Path | None,
    on_bad: Literal["refuse", "skip", "warn"] = "refuse",
    bits_used_of_16: BitsUsed = 16,
    show_progress: bool = False,
    remedy: str = 'repair them, or leave them out with data_loader.args.on_bad_image = "skip"',
    signatures: dict[str, FileSignature] | None = None,
) -> list[Path]:
    """Decodes every image in full, in as many threads as there are cores, and returns those that cannot be used.

    cache_file: remembers the good images by path, size and time of change, so that they are decoded once; made anew if
        it is damaged or of other rules
    on_bad: "refuse" bad images; "skip" them with a warning; or "warn", of missing ones too, as nothing depends on them
    bits_used_of_16: as which 16-bit images are decoded; a warning where their values do not suit it
    remedy: what to do about bad images
    signatures: takes those of the files, by absolute path, for whoever would look at them next

    Images that can be read but look doubtful are warned of. Raises DataError, unless `on_bad` is "warn", for missing
    files, before any image is opened; and under "refuse" for bad images: the first ten, the count and the remedy.
    """
    files = dict(zip(absolute_paths(paths), paths, strict=True))
    found = signatures_of(files)
    if signatures is not None:
        signatures |= found
    missing = [files[key] for key, signature in found.items() if signature == NO_SIGNATURE and _is_missing(files[key])]
    if missing and on_bad != "warn":
        title = f"{_count(len(missing), 'missing image')}"
        raise DataError(f"{_listing(title, missing)}\nrestore the files, correct the data's root, or remove their rows")
    findings = _findings(files, found, cache_file, show_progress)
    doubtful = [finding.warning for finding in findings.values() if finding.warning]
    if doubtful:
        logger.warning("%s", _listing(_count(len(doubtful), "doubtful image"), doubtful))
    _warn_of_sixteen_bit_images(
        {files[key]: finding.largest_value for key, finding in findings.items()}, bits_used_of_16
    )
    bad = {files[key]: finding.problem for key, finding in findings.items() if finding.problem}
    if bad:
        count = f"{_count(len(bad), 'image')} cannot be read"
        if on_bad == "refuse":
            raise DataError(f"{_listing(count, [*bad.values()])}\n{remedy}")
        left_out = " and left out" if on_bad == "skip" else ""
        more = f"\n{remedy}" if on_bad == "warn" else ""
        logger.warning("%s%s", _listing(f"{count}{left_out}", [*bad.values()]), more)
    return [*bad]


def number_of_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _is_missing(path: Path) -> bool:
    try:
        return not path.exists()
    except OSError:  # it is there, and `inspect_image` says why it cannot be looked at
        return False


def _findings(
    files: Mapping[str, Path], signatures: Mapping[str, FileSignature], cache_file: Path | None, show_progress: bool
) -> dict[str, ImageFinding]:
    """By absolute path, in the order of `files`: what is remembered of an image, or what is found now."""
    remembered = _read_cache(cache_file)
    known = {
        key: ImageFinding(None, *remembered[key][2:])
        for key, signature in signatures.items()
        if key in remembered and remembered[key][:2] == [*signature]
    }
    unknown = [key for key in files if key not in known]
    if not unknown:
        return known
    pool = ThreadPoolExecutor(max_workers=number_of_cores())  # decoders release the interpreter's lock
    try:
        found = pool.map(inspect_image, [files[key] for key in unknown])
        found = with_progress(found, len(unknown), "checking images", show_progress)
        for key, finding in zip(unknown, found, strict=True):
            known[key] = finding
            # a bad image is looked at again: its permissions, say, may be put right without a new signature
            if finding.problem is None:
                remembered[key] = [*signatures[key], finding.warning, finding.largest_value]
    finally:
        pool.shutdown(cancel_futures=True)
        _write_cache(cache_file, remembered)  # an interrupted check goes on where it was
    return {key: known[key] for key in files}


def _warn_of_sixteen_bit_images(largest: Mapping[Path, int | None], bits: BitsUsed) -> None:
    """Where values stay in the lower half of 16 bits, or go beyond the bits that are set.

    largest: value of each 16-bit image, None for others"""
    if bits == "own_maximum":
        return
    values = {path: value for path, value in largest.items() if value is not None}
    unsuited = {path: value for path, value in values.items() if value >= 2**bits or (bits == 16 and value < 2**15)}
    if unsuited:
        title = f"{_count(len(unsuited), '16-bit image')} would be {'nearly black' if bits == 16 else 'partly white'}"
        highest = max(unsuited.values())
        logger.warning(
            "%s\nthe largest value is %d: data_loader.args.bits_used_of_16 = %d (it is %s) suits it, and "
            '"own_maximum" scales each image by its own largest value',
            _listing(title, [f"{path}: values up to {value}" for path, value in unsuited.items()]),
            highest,
            max(8, highest.bit_length()),
            bits,
        )


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _listing(title: str, items: Sequence[object]) -> str:
    lines = [f"  {item}" for item in items[:_LONGEST_LIST]]
    rest = [f"  ... and {len(items) - _LONGEST_LIST:,} more"] if len(items) > _LONGEST_LIST else []
    return "\n".join([f"{title}:", *lines, *rest])


_Cache = dict[str, list[Any]]
"""By absolute path, of images that can be used: size, time of change, warning, largest 16-bit value."""


def _read_cache(cache_file: Path | None) -> _Cache:
    """Empty where nothing usable is stored."""
    try:
        stored = json.loads(cache_file.read_bytes()) if cache_file else {}
        if stored.get("rules") != _RULES:
            return {}
        for size, changed, warning, largest in stored["files"].values():
            numbers = type(size) is int and type(changed) is int and (largest is None or type(largest) is int)
            if not numbers or not isinstance(warning, str | None):
                return {}
        return stored["files"]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def _write_cache(cache_file: Path | None, files: _Cache) -> None:
    if cache_file is None:
        return
    try:
        cache_file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(cache_file, json.dumps({"rules": _RULES, "files": files}).encode())
    except OSError as error:
        logger.warning(
            "%s: the image check cannot be remembered (%s); it will be done again next time", cache_file, error.strerror
        )
