"""A check of every image before training: each is decoded once, and the result is remembered."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import PIL

from data_loader.records.file_signatures import NO_SIGNATURE, FileSignature, signatures_of
from utils.errors import DataError
from utils.files import short_path, write_atomically
from utils.images import DECODING_RULES, BitsUsed, ImageFinding, inspect_image
from utils.images.fingerprint import FINGERPRINT_RULES
from utils.progress import with_progress
from utils.threads import thread_pool
from utils.wording import counted, on_one_line

logger = logging.getLogger(__name__)

CHECKED_IMAGES_FILE = "checked_images.json"
"""In a config's save_dir: the images that its runs have checked."""

_LONGEST_LIST = 10
"""How many files a message names; the rest are counted."""

_RULES = f"{DECODING_RULES}, 16-bit maxima, without paths, fingerprints {FINGERPRINT_RULES}, Pillow {PIL.__version__}"
"""A file of other rules is ignored."""


def check_images(
    paths: Sequence[Path],
    cache_file: Path | None,
    on_bad: Literal["refuse", "skip", "warn"] = "refuse",
    bits_used_of_16: BitsUsed = 16,
    show_progress: bool = False,
    remedy: str = 'repair them, or leave them out with data_loader.args.on_bad_image = "skip"',
) -> list[Path]:
    """Decodes every image in full, in as many threads as there are cores, and returns those that cannot be used.

    paths: absolute, as those of records
    cache_file: remembers good images by path, size and time of change, so that they are decoded once
    on_bad: "refuse" bad images; "skip" them with a warning; or "warn", of missing ones too, if nothing depends on them
    bits_used_of_16: as which 16-bit images are decoded; a warning where their values do not suit it
    remedy: what to do about bad images

    Doubtful images cause a warning. Raises DataError, unless `on_bad` is "warn", for missing files, before any image is
    opened; and under "refuse" for bad images: the first ten, the count and the remedy.
    """
    found = signatures_of(map(str, paths))
    missing = [short_path(path) for path, signature in found.items() if signature == NO_SIGNATURE]
    if missing and on_bad != "warn":
        title = counted(len(missing), "missing image")
        raise DataError(f"{_listing(title, missing)}\nrestore the files, correct the data's root, or remove their rows")
    findings = inspected_images(found, cache_file, show_progress)
    doubtful = [f"{short_path(path)}: {found.warning}" for path, found in findings.items() if found.warning]
    if doubtful:
        logger.warning("%s", _listing(counted(len(doubtful), "doubtful image"), doubtful))
    _warn_of_sixteen_bit_images(findings, bits_used_of_16)
    bad = {path: f"{short_path(path)}: {found.problem}" for path, found in findings.items() if found.problem}
    if bad:
        left_out = " and left out" if on_bad == "skip" else ""
        listing = _listing(f"{counted(len(bad), 'image')} cannot be read{left_out}", [*bad.values()])
        if on_bad == "refuse":
            raise DataError(f"{listing}\n{remedy}")
        logger.warning("%s%s", listing, f"\n{remedy}" if on_bad == "warn" else "")
    return [Path(path) for path in bad]


def inspected_images(
    signatures: Mapping[str, FileSignature], cache_file: Path | None, show_progress: bool
) -> dict[str, ImageFinding]:
    """By path, in the order of `signatures`: what is remembered of an image, or what is found now.

    cache_file: of what is remembered, see `check_images`"""
    remembered = _read_cache(cache_file)
    findings = {
        path: ImageFinding(None, *remembered[path][2:])
        for path, signature in signatures.items()
        if path in remembered and remembered[path][:2] == [*signature]
    }
    unknown = [path for path in signatures if path not in findings]
    if not unknown:
        return findings
    try:
        with thread_pool() as pool:
            inspected = pool.map(inspect_image, map(Path, unknown))
            found = with_progress(inspected, len(unknown), "checking images", show_progress)
            for path, finding in zip(unknown, found, strict=True):
                findings[path] = finding
                # bad images are checked again: permissions, say, may be corrected without a new signature
                if finding.problem is None:
                    remembered[path] = [*signatures[path], finding.warning, finding.largest_value, finding.fingerprint]
    finally:
        _write_cache(cache_file, remembered)  # so that an interrupted check continues
    return {path: findings[path] for path in signatures}


def _warn_of_sixteen_bit_images(findings: Mapping[str, ImageFinding], bits: BitsUsed) -> None:
    """Where values stay in the lower half of 16 bits, or go beyond the bits that are set."""
    if bits == "own_maximum":
        return
    largest = {path: found.largest_value for path, found in findings.items() if found.largest_value}
    unsuited = {path: value for path, value in largest.items() if value >= 2**bits or (bits == 16 and value < 2**15)}
    if unsuited:
        path, highest = max(unsuited.items(), key=lambda item: item[1])
        logger.warning(
            "%s would be %s: values go up to %d (%s); set data_loader.args.bits_used_of_16 = %d (it is %s), or to "
            '"own_maximum", which scales each image by its own largest value',
            counted(len(unsuited), "16-bit image"), "nearly black" if bits == 16 else "partly white",
            highest, short_path(path), max(8, highest.bit_length()), bits,
        )  # fmt: skip


def _listing(title: str, items: Sequence[str]) -> str:
    more = [f"... and {len(items) - _LONGEST_LIST:,} more"] if len(items) > _LONGEST_LIST else []
    return "\n  ".join([f"{title}:", *map(on_one_line, items[:_LONGEST_LIST]), *more])


def _read_cache(cache_file: Path | None) -> dict[str, list[Any]]:
    """By path, of images that can be used: size, time of change, warning, largest 16-bit value, fingerprint."""
    try:
        stored = json.loads(cache_file.read_bytes()) if cache_file else {}
        return dict(stored["files"]) if stored["rules"] == _RULES else {}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def _write_cache(cache_file: Path | None, files: Mapping[str, list[Any]]) -> None:
    if cache_file is None:
        return
    try:
        cache_file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(cache_file, json.dumps({"rules": _RULES, "files": files}).encode())
    except OSError as error:
        logger.warning("%s: the image check will be repeated next time: %s", cache_file, error.strerror)
