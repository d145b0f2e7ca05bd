"""Which of many photographs may be one picture: those with similar fingerprints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from utils.images.fingerprint import FREQUENCY, IS_ODD, cropped, fingerprint_array

MIN_SIMILARITY = 0.85
"""Cosine of weighted fingerprints; measured, see docs/data.md."""

CROP = 0.05
"""Of a side: where a picture resembles another with so much cut off at each side, they are looked at, too."""

MAX_CANDIDATES = 50
"""Of one photograph. Where more are alike, they are so to each other, too, and end in the same group."""

FEW = 100
"""Photographs. What all have in common is taken off where there are many more: of few, copies would be all of it."""

_ROWS_AT_ONCE = 512
_WEIGHTS = np.sqrt(np.maximum(FREQUENCY, 1))
"""Low frequencies have the largest amplitudes (Field 1987), and are alike in all portraits."""


class Candidates(NamedTuple):
    """Pairs of photographs to look at.

    rows: (K, 2) int64, each pair once, the first row below the second
    mirrored: (K,) bool, whether the one resembles the other's mirror image more than the other
    """

    rows: np.ndarray
    mirrored: np.ndarray


def similar_pairs(fingerprints: Sequence[str], persons: np.ndarray | None = None) -> Candidates:
    """The pairs whose fingerprints are similar, as they are, mirrored or cropped.

    persons: (N,) int64 of each; pairs of one person are left out. None: all pairs

    All pairs are compared, by matrix products: 380 N^2 FLOP."""
    values = fingerprint_array(fingerprints)
    weight = max(0, 1 - FEW / max(1, len(values)))
    mean = weight * np.where(IS_ODD, 0, values.mean(axis=0)) if weight else 0  # of odd values 0, with the mirrored ones
    whole = _Halves.of(values, mean)
    found = []
    for other in (whole, _Halves.of(cropped(values, CROP), mean)):
        for start in range(0, len(values), _ROWS_AT_ONCE):
            rows = np.arange(start, min(start + _ROWS_AT_ONCE, len(values)))
            of_odd = whole.odd[rows] @ other.odd.T
            similarity = whole.even[rows] @ other.even.T + np.abs(of_odd)
            similarity[rows - start, rows] = -1
            if persons is not None:
                similarity[persons[rows, None] == persons] = -1
            first, second = _highest(similarity)
            is_mirrored = of_odd[first, second] < 0
            first = first + start
            found.append(np.stack([np.minimum(first, second), np.maximum(first, second), is_mirrored], axis=1))
    if not found:
        return Candidates(np.zeros((0, 2), np.int64), np.zeros(0, bool))
    pairs = np.concatenate(found)
    _, once = np.unique(pairs[:, :2], axis=0, return_index=True)
    return Candidates(pairs[once, :2], pairs[once, 2] == 1)


class _Halves(NamedTuple):
    """Weighted fingerprints of length 1, by their even and their odd values: with a and b, the cosine is the sum of the
    products of both; with the mirror image of b, their difference."""

    even: np.ndarray
    odd: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, mean: np.ndarray | float) -> _Halves:
        weighted = (values - mean) * _WEIGHTS
        weighted = (weighted / np.maximum(np.linalg.norm(weighted, axis=1, keepdims=True), 1e-6)).astype(np.float32)
        return cls(np.ascontiguousarray(weighted[:, ~IS_ODD]), np.ascontiguousarray(weighted[:, IS_ODD]))


def _highest(similarity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each value from MIN_SIMILARITY on, at most MAX_CANDIDATES a row."""
    first, second = np.nonzero(similarity >= MIN_SIMILARITY)
    order = np.lexsort((-similarity[first, second], first))
    first, second = first[order], second[order]
    rank = np.arange(len(first)) - np.searchsorted(first, first)
    return first[rank < MAX_CANDIDATES], second[rank < MAX_CANDIDATES]


def nearest_pairs(features: np.ndarray, number: int) -> np.ndarray:
    """(K, 2) int64: each row with the `number` rows whose features are nearest, by the cosine of what differs from the
    mean; each pair once, the first row below the second.

    features: (N, F)"""
    centred = (features - features.mean(axis=0)).astype(np.float32)
    centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-6)
    found = [np.zeros((0, 2), np.int64)]
    for start in range(0, len(centred), _ROWS_AT_ONCE):
        rows = np.arange(start, min(start + _ROWS_AT_ONCE, len(centred)))
        similarity = centred[rows] @ centred.T
        similarity[rows - start, rows] = -2
        nearest = np.argsort(-similarity, axis=1)[:, : min(number, len(centred) - 1)]
        found.append(np.stack([np.repeat(rows, nearest.shape[1]), nearest.ravel()], axis=1))
    return np.unique(np.sort(np.concatenate(found), axis=1), axis=0)
