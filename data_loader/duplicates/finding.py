"""Photographs that are one picture: exact copies, and those that were resized, encoded again, cropped or mirrored."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from data_loader.duplicates.comparison import difference, small_picture
from data_loader.duplicates.search import Candidates, similar_pairs
from data_loader.records.file_signatures import signatures_of
from data_loader.records.image_check import CHECKED_IMAGES_FILE, inspected_images
from utils.errors import DataError
from utils.files import write_atomically
from utils.images import visit_rgb
from utils.images.fingerprint import FINGERPRINT_RULES
from utils.progress import with_progress
from utils.threads import thread_pool

logger = logging.getLogger(__name__)

DUPLICATES_FOLDER = "duplicates"
"""In a config's save_dir: the duplicates that were found, a file for each set of images."""

MAX_DIFFERENCE = 0.4
"""Up to it two photographs are one picture, see `difference`; measured, see docs/data.md."""

_RULES = 2
"""Raised whenever other duplicates may be found; what was found by other rules is looked for again."""

Item = TypeVar("Item", int, str)
Kind = Literal["exact", "near", "mirrored"]


@dataclass(frozen=True)
class DuplicatePair:
    """Two photographs that are one picture.

    first, second: their rows, the lower one first
    kind: "exact": the same pixels; "mirrored": near the other's mirror image; else "near"
    difference: 0 for the same pixels, at most MAX_DIFFERENCE
    """

    first: int
    second: int
    kind: Kind
    difference: float


def find_duplicates(
    paths: Sequence[Path],
    persons: Sequence[str] | None = None,
    save_dir: Path | None = None,
    show_progress: bool = False,
    extra_pairs: np.ndarray | None = None,
) -> list[DuplicatePair]:
    """The pairs of photographs that are one picture, in order of their rows.

    paths: absolute; what cannot be read is no duplicate of anything
    persons: whose each photograph is; pairs of one person are left out. None: all pairs
    save_dir: where findings are kept, so that a second search of the same files opens none of them
    extra_pairs: (K, 2) rows of pairs to compare beside those of similar fingerprints, as they are and mirrored

    In a group of many copies not every pair is found, but each copy is in one of them (see MAX_CANDIDATES)."""
    numbers = None if persons is None else np.unique(np.array(persons), return_inverse=True)[1]
    signatures = signatures_of(map(str, paths))
    given = [None if each is None else each.tolist() for each in (numbers, extra_pairs)]
    known = (_RULES, FINGERPRINT_RULES, [*signatures.items()], *given)
    digest = hashlib.blake2b(json.dumps(known).encode(), digest_size=16).hexdigest()
    file = None if save_dir is None else save_dir / DUPLICATES_FOLDER / f"{digest}.json"
    if (kept := _read(file)) is not None:
        return kept
    cache_file = None if save_dir is None else save_dir / CHECKED_IMAGES_FILE
    findings = inspected_images(signatures, cache_file, show_progress)
    readable = [row for row, path in enumerate(paths) if findings[str(path)].fingerprint is not None]
    candidates = similar_pairs(
        [str(findings[str(paths[row])].fingerprint) for row in readable],
        None if numbers is None else numbers[readable],
    )
    candidates = Candidates(np.array(readable, dtype=np.int64)[candidates.rows], candidates.mirrored)
    if extra_pairs is not None:
        flags = np.arange(2 * len(extra_pairs)) < len(extra_pairs)
        candidates = Candidates(
            np.concatenate([candidates.rows, extra_pairs, extra_pairs]), np.concatenate([candidates.mirrored, flags])
        )
    best: dict[tuple[int, int], DuplicatePair] = {}
    for pair in sorted(_compared(paths, candidates, show_progress), key=lambda pair: pair.difference):
        best.setdefault((pair.first, pair.second), pair)
    pairs = [best[rows] for rows in sorted(best)]
    _write(file, pairs)
    return pairs


def groups(pairs: Iterable[tuple[Item, Item]]) -> list[list[Item]]:
    """What pairs connect, such as rows or persons: each group in order, and the groups in order."""
    group_of: dict[Item, set[Item]] = {}
    for pair in pairs:
        first, second = (group_of.get(item, {item}) for item in pair)
        if first is not second:
            group_of |= dict.fromkeys(first | second, first | second)
    distinct = {id(group): sorted(group) for group in group_of.values()}
    return sorted(distinct.values())


@dataclass(frozen=True)
class _Picture:
    """pixels: small, uint8; digest: of all pixels"""

    pixels: np.ndarray
    digest: bytes


def _compared(paths: Sequence[Path], candidates: Candidates, show_progress: bool) -> list[DuplicatePair]:
    """Those of the candidates that are one picture."""

    def look(row: int) -> _Picture | None:
        try:
            return visit_rgb(paths[row], lambda rgb: _Picture(small_picture(rgb), _digest(rgb)))
        except DataError:  # it has gone since
            return None

    def compare(pair: tuple[int, int, bool]) -> DuplicatePair | None:
        one, other = pictures[pair[0]], pictures[pair[1]]
        if one is None or other is None:
            return None
        if one.digest == other.digest:
            return DuplicatePair(pair[0], pair[1], "exact", 0.0)
        pixels = np.ascontiguousarray(other.pixels[:, ::-1]) if pair[2] else other.pixels
        found = difference(one.pixels, pixels)
        if found > MAX_DIFFERENCE:
            return None
        return DuplicatePair(pair[0], pair[1], "mirrored" if pair[2] else "near", round(found, 4))

    pairs = (
        list(zip(*candidates.rows.T.tolist(), candidates.mirrored.tolist(), strict=True))
        if len(candidates.rows)
        else []
    )
    needed = np.unique(candidates.rows).tolist()
    with thread_pool() as pool:
        looked_at = with_progress(pool.map(look, needed), len(needed), "looking at similar images", show_progress)
        pictures = dict(zip(needed, looked_at, strict=True))
        compared = with_progress(pool.map(compare, pairs), len(pairs), "comparing pairs of images", show_progress)
        return [pair for pair in compared if pair is not None]


def _digest(rgb: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(rgb).data, digest_size=16).digest() + str(rgb.shape).encode()


def _read(file: Path | None) -> list[DuplicatePair] | None:
    try:
        return None if file is None else [DuplicatePair(*row) for row in json.loads(file.read_bytes())]
    except (OSError, ValueError, TypeError):
        return None


def _write(file: Path | None, pairs: Sequence[DuplicatePair]) -> None:
    if file is None:
        return
    rows = [[pair.first, pair.second, pair.kind, pair.difference] for pair in pairs]
    try:
        write_atomically(file, json.dumps(rows).encode())
    except OSError as error:
        logger.warning("%s: duplicates will be looked for again next time: %s", file, error.strerror)
