"""Trials of transforms on images of noise, before training: is one random, and what size does it make?"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from utils.config.plugins import plugins_of
from utils.errors import KeyPath, Problem
from utils.random_streams import numpy_stream, python_stream
from utils.wording import first_line

PROBE_SIZES = ((800, 600), (1000, 1100))
"""Height and width of the images that lists of transforms are tried on."""

SMALL_PROBE_SIZE = (90, 70)
"""What some transforms only do to small images, they do to one of this size."""

PROBE_KEYS = 6
"""How often each transform is tried, with other random numbers each time."""


class _Recorder:
    """A random generator that remembers what was drawn from it."""

    def __init__(self, generator: Any) -> None:
        self._generator = generator
        self.drawn: list[bytes] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def draw(*args: Any, **kwargs: Any) -> Any:
            result = getattr(self._generator, name)(*args, **kwargs)
            self.drawn.append(pickle.dumps((name, args, result)))  # with the arguments, which shuffle changes
            return result

        return draw


def check_deterministic(key_path: KeyPath, transforms: Sequence[Any], problems: list[Problem]) -> None:
    """Validation images are never augmented: adds a problem for each random transform.

    A transform is random if its results differ, or the numbers that it draws (for one, whether to act at all,
    0 < p < 1): a difference need not show on the image at hand. A range of one value is not random."""
    image = _noise(*PROBE_SIZES[0])
    for number, transform in enumerate(transforms):
        try:
            (first, drawn), *others = [_try(transform, image, key) for key in range(PROBE_KEYS)]
        except ValueError:
            return  # which `final_size` reports
        if not all(np.array_equal(first, other) and drawn == other_drawn for other, other_drawn in others):
            wrong = (
                f"({type(transform).__name__}) is random (p = {transform.p:g}), and validation images are never "
                "augmented; move it to transforms.train"
            )
            problems.append(Problem((*key_path, number), wrong))
        image = first


def check_reproducible(key_path: KeyPath, transforms: Sequence[Any], problems: list[Problem]) -> None:
    """Adds a problem for each transform of a plug-in that does not follow from its generators: a resumed run would see
    other images."""
    image = _noise(*PROBE_SIZES[0])
    for number, transform in enumerate(transforms):
        if not plugins_of(type(transform)):
            continue
        try:
            results = [_try(transform, image, key=0, force=transform.p > 0)[0] for _ in range(3)]
        except ValueError:
            return  # which `final_size` reports
        if not all(np.array_equal(results[0], other) for other in results[1:]):
            wrong = "draws random numbers of its own; draw them from self.py_random or self.random_generator"
            problems.append(Problem((*key_path, number), f"({type(transform).__name__}) {wrong}"))


def count_deterministic(transforms: Sequence[Any]) -> int:
    """How many transforms, from the first on, make the same of an image each time and draw no random number, whatever
    size the image has."""
    images = [_noise(*size) for size in (*PROBE_SIZES, SMALL_PROBE_SIZE)]
    for number, transform in enumerate(transforms):
        results = []
        for image in images:
            try:
                (first, drawn), (second, drawn_again) = (_try(transform, image, key) for key in range(2))
            except ValueError:
                continue  # the image is too small for it
            if drawn or drawn_again or not np.array_equal(first, second):
                return number
            results.append(first)
        images = results
    return len(transforms)


def final_size(key_path: KeyPath, transforms: Sequence[Any], problems: list[Problem]) -> tuple[int, int] | None:
    """Height and width after the list, which must be the same for images of any size; else None and a problem.

    Each transform is also tried as if its p were 1, so that what it seldom does does not fail in mid-training."""
    sizes = []
    for key, (height, width) in enumerate(PROBE_SIZES * 3):
        image = _noise(height, width)
        for number, transform in enumerate(transforms):
            try:
                image, _ = _try(transform, image, key, force=key >= len(PROBE_SIZES) * 2 and transform.p > 0)
            except ValueError as error:
                problems.append(Problem((*key_path, number), f"({type(transform).__name__}) {error}"))
                return None
        sizes.append((image.shape[0], image.shape[1]))
    if len(set(sizes)) > 1:
        found = " or ".join(f"{height} x {width}" for height, width in dict.fromkeys(sizes))
        problems.append(Problem(key_path, f"does not end in one size (it gave {found} pixels); put a Resize in it"))
        return None
    return sizes[0]


@lru_cache  # to draw it takes longer than most transforms
def _noise(height: int, width: int) -> np.ndarray:
    return numpy_stream(0, "probe", height, width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _try(transform: Any, image: np.ndarray, key: int, force: bool = False) -> tuple[np.ndarray, list[bytes]]:
    """What a transform makes of an image, and the random numbers that it draws. Raises ValueError with what is wrong.

    force: as if its p were 1"""
    recorders = (_Recorder(numpy_stream(0, "probe", key)), _Recorder(python_stream(0, "probe", key)))
    own = transform.random_generator, transform.py_random
    transform.set_random_state(*recorders)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = transform(image=image.copy(), **({"force_apply": True} if force else {}))["image"]
    except Exception as error:
        size = f"{image.shape[0]} x {image.shape[1]}"
        raise ValueError(f"cannot take an image of {size} pixels: {first_line(error)}") from error
    finally:
        transform.set_random_state(*own)
    if not isinstance(result, np.ndarray) or result.dtype != np.uint8 or result.shape[2:] != (3,):
        raise ValueError("does not give an RGB image of whole numbers 0 to 255")
    return result, recorders[0].drawn + recorders[1].drawn
