"""Each twin against albumentations: the same image for the same parameters, parameters of the same distribution."""

from __future__ import annotations

import warnings
from typing import Any

import albumentations
import cv2
import numpy as np
import pytest
import scipy.stats  # type: ignore[import-untyped]
import torch

from data_loader.device_transforms import TWINS
from data_loader.device_twins import Twin
from utils.random_streams import numpy_stream, python_stream, uniform_rows

HW = (47, 36)
CPU = torch.device("cpu")
RESIZED_CROP = "RandomResizedCrop"

GEOMETRY: list[tuple[str, dict[str, Any]]] = [
    ("ShiftScaleRotate", {"shift_limit": 0.1, "scale_limit": 0.1, "rotate_limit": 5}),
    ("ShiftScaleRotate", {"shift_limit_x": (0, 0.3), "shift_limit_y": (-0.5, 0), "fill": 255}),
    ("Affine", {"scale": (0.8, 1.2), "translate_percent": (-0.1, 0.1), "rotate": (-20, 20), "shear": (-8, 8)}),
    ("Affine", {"scale": {"x": (0.7, 1.1), "y": (1, 1.3)}, "translate_px": {"x": (-3, 5)}, "fill": (10, 200, 30)}),
    ("Affine", {"scale": (0.5, 1.5), "keep_ratio": True, "rotate": (90, 200), "fill": 77}),
    ("Affine", {"rotate": (-60, 60), "translate_percent": {"x": (0, 0.5)}, "border_mode": cv2.BORDER_REFLECT_101}),
    ("Affine", {"rotate": (-60, 60), "shear": {"x": (-30, 30)}, "border_mode": cv2.BORDER_REFLECT}),
    ("Affine", {"scale": (0.3, 0.6), "rotate": (-9, 9), "border_mode": cv2.BORDER_REPLICATE}),
]
COLOUR: list[tuple[str, dict[str, Any]]] = [
    ("RandomBrightnessContrast", {"brightness_limit": 0.2, "contrast_limit": 0.2}),
    ("RandomBrightnessContrast", {"brightness_limit": (-0.9, 0.1), "contrast_limit": (0.5, 2)}),
    ("RandomBrightnessContrast", {"brightness_by_max": False}),
]
HOLES: list[tuple[str, dict[str, Any]]] = [
    ("CoarseDropout", {}),
    ("CoarseDropout", {"num_holes_range": (1, 3), "fill": (1, 200, 30)}),
    ("CoarseDropout", {"num_holes_range": (2, 5), "hole_height_range": (2, 90), "hole_width_range": (1, 7)}),
    ("Erasing", {"scale": (0.02, 0.4), "ratio": (0.3, 3.3), "fill": 128}),
    ("Erasing", {"scale": (0.3, 0.9), "ratio": (0.4, 1.5)}),
]
CROPS: list[tuple[str, dict[str, Any]]] = [
    ("RandomCrop", {"height": 20, "width": 36}),
    (RESIZED_CROP, {"size": (24, 32)}),
    (RESIZED_CROP, {"size": (90, 70), "scale": (0.5, 1), "ratio": (0.9, 2.5)}),
    (RESIZED_CROP, {"size": HW, "scale": (0.9, 1), "ratio": (1, 1)}),  # seldom fits
    (RESIZED_CROP, {"size": HW, "scale": (0.9, 1), "ratio": (0.3, 0.4)}),
]
FLIPS: list[tuple[str, dict[str, Any]]] = [("HorizontalFlip", {}), ("VerticalFlip", {})]


class _Script:
    """Stands for albumentations' generators: hands out given numbers of [0, 1) in the order of its calls, but for
    `random`, which takes them from the end where `num_last` are kept for it."""

    def __init__(self, uniforms: list[float], num_last: int) -> None:
        cut = len(uniforms) - num_last
        self._rest = iter(uniforms[:cut])
        self._last = iter(uniforms[cut:]) if num_last else self._rest

    def random(self) -> float:
        return next(self._last)

    def uniform(self, low: float, high: float, size: int | None = None) -> Any:
        drawn = [low + (high - low) * next(self._rest) for _ in range(size or 1)]
        return drawn[0] if size is None else np.array(drawn)

    def randint(self, low: int, high: int) -> int:
        return int(low) + int(next(self._rest) * (high - low + 1))

    def integers(self, low: Any, high: Any, size: int | None = None) -> Any:
        if size is None:
            return 0  # the seed of a fill
        return np.array([self.randint(low, high - 1) for low, high in np.broadcast(low, np.broadcast_to(high, size))])


def _transform(kind: str, p: float = 1, **args: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that ShiftScaleRotate is a special case of Affine
        return getattr(albumentations, kind)(**args, p=p)


def _twin(transform: Any, image_hw: tuple[int, int] = HW) -> Twin:
    return TWINS[type(transform).__name__](transform, image_hw, CPU)


def _noise(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, *HW, 3), dtype=np.uint8)


def _found(transform: Any, image: np.ndarray) -> dict[str, Any]:
    """The parameters that albumentations draws, as its `apply` wants them."""
    found = transform.update_transform_params(transform.get_params(), {"image": image})
    return found | transform.get_params_dependent_on_data(found, {"image": image})


def _as_twin(found: dict[str, Any], twin: Twin, image: np.ndarray) -> np.ndarray:
    """albumentations' parameters as the twin has them."""
    if "matrix" in found:
        return np.linalg.inv(found["matrix"])[:2].T.ravel()
    if "alpha" in found:
        return np.array([found["alpha"], found["beta"] / (1 if twin.by_max else image.mean())])  # type: ignore[attr-defined]
    if "holes" in found:
        holes = found["holes"].ravel()
        return np.concatenate([holes, np.zeros(len(twin.identity) - len(holes))])
    if "crop_coords" in found:
        left, top, right, bottom = found["crop_coords"]
        return np.array([top, left] if len(twin.identity) == 2 else [left, top, right - left, bottom - top])
    return np.ones(1)


def _in_order(uniforms: np.ndarray, transform: Any) -> list[float]:
    """A twin's numbers in the order in which albumentations asks for them."""
    if type(transform).__name__ != "CoarseDropout":
        return uniforms.tolist()
    low, high = transform.num_holes_range  # a hole's height, top, width, left; there all heights come first
    number = low + int(uniforms[0] * (high - low + 1))
    by_hole = uniforms[1:].reshape(-1, 4)[:number]
    return [uniforms[0], *by_hole[:, [0, 2, 1, 3]].T.ravel().tolist()]


@pytest.mark.parametrize(("kind", "args"), GEOMETRY + COLOUR + HOLES + CROPS)
def test_equal_numbers_make_equal_parameters(kind: str, args: dict[str, Any]) -> None:
    transform, image = _transform(kind, **args), _noise(1)[0]
    twin = _twin(transform)
    uniforms = np.random.default_rng(5).random((200, twin.num_uniforms))
    expected = []
    for row in uniforms[:, 1:]:
        script = _Script(_in_order(row, transform), 2 if kind == RESIZED_CROP else 0)
        transform.set_random_state(script, script)
        expected.append(_as_twin(_found(transform, image), twin, image))
    assert np.allclose(twin.draw(uniforms), expected, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize(("kind", "args"), GEOMETRY + COLOUR + HOLES + CROPS)
def test_parameters_are_distributed_as_those_of_albumentations(kind: str, args: dict[str, Any]) -> None:
    transform, image = _transform(kind, **args), _noise(1)[0]
    twin = _twin(transform)
    number = 2000
    transform.set_random_state(numpy_stream(0, kind), python_stream(0, kind))
    theirs = np.array([_as_twin(_found(transform, image), twin, image) for _ in range(number)])
    keys = np.arange(number), np.zeros(number, np.int64)
    mine = twin.draw(uniform_rows(0, kind, 0, *keys, twin.num_uniforms))
    assert mine.shape == theirs.shape
    # each alone, and with the one before and two before: a hole's sides and place belong together
    for lag in (0, 1, 2):
        for column in range(lag, mine.shape[1]):
            compared = [
                (drawn[:, column] * (drawn[:, column - lag] if lag else 1)).round(9) for drawn in (theirs, mine)
            ]
            assert scipy.stats.ks_2samp(*compared).pvalue > 1e-3


@pytest.mark.parametrize(("kind", "args"), FLIPS + GEOMETRY[:3] + COLOUR + HOLES + CROPS[-1:])
def test_each_sample_decides_for_itself_and_is_left_as_it_is(kind: str, args: dict[str, Any]) -> None:
    twin = _twin(_transform(kind, p=0.3, **args))
    uniforms = np.random.default_rng(2).random((4000, twin.num_uniforms))
    drawn = twin.draw(uniforms)
    changed = (drawn != twin.identity).any(axis=1)
    assert np.array_equal(changed, uniforms[:, 0] < 0.3)
    assert abs(changed.mean() - 0.3) < 3.5 * np.sqrt(0.3 * 0.7 / 4000)
    always = _twin(_transform(kind, p=1, **args)).draw(uniforms)
    assert np.array_equal(drawn[changed], always[changed])
    images = torch.from_numpy(_noise(6))
    identity = torch.from_numpy(np.tile(twin.identity, (6, 1)))
    assert torch.equal(twin.apply(images, identity), images)


def _both(kind: str, args: dict[str, Any], count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """What albumentations makes of images of noise and what the twin makes of them, with the same parameters."""
    transform, images = _transform(kind, **args), _noise(count)
    twin = _twin(transform)
    transform.set_random_state(numpy_stream(1, kind), python_stream(1, kind))
    params, expected = [], []
    for image in images:
        found = _found(transform, image)
        params.append(_as_twin(found, twin, image))
        expected.append(transform.apply(image, **found))
    before = images.copy()
    made = twin.apply(torch.from_numpy(images), torch.from_numpy(np.array(params)))
    assert np.array_equal(images, before), "the images given were written to"
    assert made.dtype == torch.uint8
    assert made.shape == (count, *twin.out_hw, 3)
    assert made.is_contiguous()
    return np.array(expected), made.numpy()


@pytest.mark.parametrize(("kind", "args"), FLIPS + COLOUR + HOLES + CROPS[:1])
def test_images_are_those_of_albumentations(kind: str, args: dict[str, Any]) -> None:
    expected, made = _both(kind, args)
    assert np.array_equal(made, expected)


@pytest.mark.parametrize(("kind", "args"), GEOMETRY + CROPS[1:])
def test_moved_pixels_are_those_of_albumentations(kind: str, args: dict[str, Any]) -> None:
    """Even of noise, and at the borders: OpenCV's rounding of places is followed, so that only a pixel in a hundred
    is rounded to the next level. Where a crop is resized, OpenCV's weights are rounded, too."""
    expected, made = _both(kind, args)
    difference = np.abs(made.astype(int) - expected)
    assert difference.max() <= 1
    assert difference.mean() < (0.15 if kind == RESIZED_CROP else 0.01)


def test_holes_of_one_colour_each() -> None:
    twin = _twin(_transform("CoarseDropout", num_holes_range=(1, 3), hole_height_range=(0.3, 0.6),
                            hole_width_range=(0.3, 0.6), fill="random_uniform"))  # fmt: skip
    images = _noise(30)
    params = twin.draw(np.random.default_rng(3).random((30, twin.num_uniforms)))
    expected = images.copy()
    for image, row in zip(expected, params.astype(int), strict=True):
        for (left, top, right, bottom), colour in zip(row[:12].reshape(3, 4), row[12:].reshape(3, 3), strict=True):
            image[top:bottom, left:right] = colour
    assert np.array_equal(twin.apply(torch.from_numpy(images), torch.from_numpy(params)).numpy(), expected)
    colours = twin.draw(np.random.default_rng(4).random((3000, twin.num_uniforms)))[:, 12:]
    assert scipy.stats.chisquare(np.bincount(colours.astype(int).ravel(), minlength=256)).pvalue > 1e-3


def _lowbias32(x: np.ndarray) -> np.ndarray:
    """C. Wellons' hash of 32 bits, as it is published in C."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def test_noise_is_even_independent_and_a_function_of_its_key() -> None:
    twin = _twin(_transform("Erasing", scale=(0.1, 0.9), ratio=(0.7, 0.8), fill="random"), (64, 48))
    whole_image = [0, 0, 48, 64]
    keys = np.random.default_rng(0).integers(-(2**31), 2**31, 40)
    params = torch.tensor([[*whole_image, key] for key in keys.tolist()], dtype=torch.float64)
    images = torch.zeros((40, 64, 48, 3), dtype=torch.uint8)
    made = twin.apply(images, params)
    assert scipy.stats.chisquare(np.bincount(made.numpy().ravel(), minlength=256)).pvalue > 1e-3
    values = made.numpy().astype(float)
    columns = [values[..., 0], values[..., 1], values[..., 2], np.roll(values, 1, 0)[..., 0],
               np.roll(values, 1, 1)[..., 0], np.roll(values, 1, 2)[..., 0]]  # fmt: skip
    correlation = np.corrcoef([column.ravel() for column in columns])
    assert np.abs(correlation - np.eye(6)).max() < 4 / np.sqrt(values[..., 0].size)
    pixels = _lowbias32(np.arange(1, 64 * 48 + 1, dtype=np.uint32))
    words = _lowbias32(pixels ^ keys.astype(np.int32).view(np.uint32)[:, None])
    expected = np.stack([words >> np.uint32(8 * channel) & np.uint32(255) for channel in range(3)], axis=2)
    assert np.array_equal(made.numpy().reshape(40, -1, 3), expected)
    assert torch.equal(twin.apply(images[:2], params[[7, 3]]), made[[7, 3]])
    # only within the hole, and keys are drawn from all of their range
    drawn = twin.draw(np.random.default_rng(1).random((2000, twin.num_uniforms)))
    assert scipy.stats.kstest(drawn[:, 4] / 2**32 + 0.5, "uniform").pvalue > 1e-3
    part = twin.apply(images[:1], torch.tensor([[5.0, 6, 20, 30, keys[0]]], dtype=torch.float64))[0]
    assert torch.equal(part[6:30, 5:20], made[0, 6:30, 5:20])
    part[6:30, 5:20] = 0
    assert not part.any()
