"""The rewritten transforms against albumentations itself: the same images to the bit, and the same draws."""

from __future__ import annotations

import inspect
import pickle
import warnings
from typing import Any

import albumentations
import cv2
import numpy as np
import pytest

from data_loader.transforms import TRANSFORMS, AugmentationKey, DeterministicPrefix, Pipeline, fast
from data_loader.transforms.fast import COMPARED_RELEASE, ByAlbumentations, fast_transform
from utils.random_streams import StreamPair, numpy_stream, python_stream

NO_PREFIX = DeterministicPrefix([], [], None)

SIZES = {(32, 32): 40, (37, 51): 40, (64, 23): 40, (240, 240): 10, (1, 9): 8, (9, 1): 8, (2, 2): 8}
"""Height and width of the images, and the number of keys that each is tried with."""

FAST: list[tuple[str, dict[str, Any]]] = [
    ("HorizontalFlip", {}),
    ("VerticalFlip", {"p": 0.3}),
    ("RandomBrightnessContrast", {}),
    ("RandomBrightnessContrast", {"brightness_limit": (-1, 1), "contrast_limit": (-1, 3), "p": 1}),
    ("RandomBrightnessContrast", {"brightness_limit": 0, "contrast_limit": (0.3, 0.3), "p": 1}),  # float32 shows
    ("CoarseDropout", {}),
    ("CoarseDropout", {"num_holes_range": (1, 8), "fill": (1, 20, 255), "p": 1}),
    ("CoarseDropout", {"hole_height_range": (0.0, 0.9), "hole_width_range": (0.3, 0.3), "fill": 7, "p": 1}),
    ("CoarseDropout", {"num_holes_range": (2, 5), "fill": "random", "p": 1}),
    ("CoarseDropout", {"fill": "inpaint_telea", "p": 1}),
    ("CoarseDropout", {"hole_height_range": (0, 99), "hole_width_range": (0, 99), "num_holes_range": (1, 4), "p": 1}),
    ("CoarseDropout", {"hole_height_range": (8, 16), "hole_width_range": (4, 30), "p": 1}),
    ("ShiftScaleRotate", {"shift_limit": 0.1, "scale_limit": 0.1, "rotate_limit": 5}),
    ("ShiftScaleRotate", {"p": 1}),
    ("ShiftScaleRotate", {"rotate_limit": (180, 180), "border_mode": cv2.BORDER_REFLECT_101, "p": 1}),
    ("ShiftScaleRotate", {"shift_limit_x": 0.5, "shift_limit_y": (0, 0.1), "scale_limit": (-0.9, 2), "p": 1}),
    ("ShiftScaleRotate", {"interpolation": cv2.INTER_CUBIC, "fill": 50.0, "p": 1}),
    ("ShiftScaleRotate", {"interpolation": cv2.INTER_LANCZOS4, "border_mode": cv2.BORDER_WRAP, "p": 1}),
]
IDLE: list[tuple[str, dict[str, Any]]] = [
    ("ShiftScaleRotate", {"shift_limit": 0, "scale_limit": 1e-9, "rotate_limit": 1e-8, "p": 1}),
    ("VerticalFlip", {"p": 0}),
    ("RandomBrightnessContrast", {"brightness_limit": 0, "contrast_limit": 0, "p": 1}),
    ("ShiftScaleRotate", {"shift_limit": 0, "scale_limit": 0, "rotate_limit": 0, "p": 1}),
]
"""These leave each image as it is, and those below each go through albumentations."""
BY_ALBUMENTATIONS: list[tuple[str, dict[str, Any]]] = [
    ("RandomBrightnessContrast", {"brightness_by_max": False, "p": 1}),
    ("RandomBrightnessContrast", {"ensure_safe_range": True, "p": 1}),
    ("CoarseDropout", {"hole_height_range": (0.1, 0.2), "hole_width_range": (1, 2)}),
    ("Affine", {"rotate": (-45, 45), "p": 1}),
    ("Rotate", {"p": 1}),
    ("GaussNoise", {"p": 1}),
]


def _made(kind: str, args: dict[str, Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(albumentations, kind)(**args)


def _image(height: int, width: int) -> np.ndarray:
    image = numpy_stream(0, "image", height, width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image.setflags(write=False)
    return image


def _outcome(transform: Any, step: Any, image: np.ndarray, key: int) -> tuple[Any, Any, Any]:
    """The image or the error, and what both generators are left with; through albumentations if `step` is None."""
    try:
        if step is None:
            generator, python = numpy_stream(3, "augmentation", key), python_stream(3, "augmentation", key)
            transform.set_random_state(generator, python)
            made = transform(image=image)["image"]
        else:
            streams = StreamPair()
            streams.set_key(3, "augmentation", key)
            made = step(image, streams)
            generator, python = streams.numpy, streams.python
    except Exception as error:
        return type(error), str(error), None
    return made, str(generator.bit_generator.state), python.getstate()


@pytest.mark.parametrize(("kind", "args"), [*FAST, *IDLE, *BY_ALBUMENTATIONS])
def test_every_step_does_what_albumentations_does(kind: str, args: dict[str, Any]) -> None:
    transform = _made(kind, args)
    step = fast_transform(transform)
    assert isinstance(step, ByAlbumentations) == ((kind, args) in BY_ALBUMENTATIONS)
    num_compared = num_changed = 0
    for hw, num_keys in SIZES.items():
        image = _image(*hw)
        for key in range(num_keys):
            expected, *expected_state = _outcome(transform, None, image, key)
            found, *state = _outcome(transform, step, image, key)
            assert state == expected_state
            if isinstance(expected, type):  # some cannot take the smallest
                assert found is expected
                continue
            assert found.dtype == expected.dtype
            assert found.flags.c_contiguous
            np.testing.assert_array_equal(found, expected)
            assert (found is image) == (expected is image) or isinstance(step, ByAlbumentations)
            num_compared += 1
            num_changed += not np.array_equal(found, image)
    if (kind, args) in FAST:
        assert num_changed > 5
    if (kind, args) in IDLE:
        assert num_changed == 0
    assert num_compared > 40 or (kind, args) in BY_ALBUMENTATIONS


def test_what_is_not_covered_goes_through_albumentations() -> None:
    class OwnFlip(albumentations.HorizontalFlip):
        pass

    assert isinstance(fast_transform(OwnFlip()), ByAlbumentations)
    step = fast_transform(albumentations.HorizontalFlip(p=1))
    streams = StreamPair()
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    np.testing.assert_array_equal(step(grey, streams), grey[:, ::-1])
    floats = _image(3, 4).astype(np.float32)
    np.testing.assert_array_equal(step(floats, streams), floats[:, ::-1])
    np.testing.assert_array_equal(step(_image(5, 5)[::2, 1:], streams), _image(5, 5)[::2, 1:][:, ::-1])


def test_another_release_goes_through_albumentations(monkeypatch: pytest.MonkeyPatch) -> None:
    assert albumentations.__version__ == COMPARED_RELEASE
    monkeypatch.setattr(fast.albumentations, "__version__", "2.0.99")
    assert isinstance(fast_transform(albumentations.HorizontalFlip()), ByAlbumentations)


def _by_albumentations(transforms: list[Any], image: np.ndarray, index: int) -> np.ndarray:
    generator, python = numpy_stream(1, "augmentation", 0, index), python_stream(1, "augmentation", 0, index)
    for transform in transforms:
        transform.set_random_state(generator, python)
    for transform in transforms:
        image = transform(image=image)["image"]
    return image


def test_a_row_of_transforms_shares_one_pair_of_generators() -> None:
    """Each draws where the one before stopped, whoever runs it; also from a copy, as workers have it."""
    transforms = [
        _made("ShiftScaleRotate", {"rotate_limit": 5}),
        _made("GaussNoise", {}),
        _made("CoarseDropout", {}),
        _made("OneOf", {"transforms": [_made("HorizontalFlip", {}), _made("RandomGamma", {})], "p": 0.6}),
        _made("Erasing", {"fill": "random"}),
        _made("RandomBrightnessContrast", {}),
        _made("PixelDropout", {}),
    ]
    pipeline = Pipeline(NO_PREFIX, transforms, (37, 51))
    image = _image(37, 51)
    expected = [_by_albumentations(transforms, image, index) for index in range(200)]
    assert len({made.tobytes() for made in expected}) > 190
    copy = pickle.loads(pickle.dumps(pipeline))
    for index in reversed(range(200)):
        np.testing.assert_array_equal(pipeline.finish(image, AugmentationKey(1, 0, index)), expected[index])
        np.testing.assert_array_equal(copy(image, AugmentationKey(1, 0, index)), expected[index])


NEEDED: dict[str, dict[str, Any]] = {
    "Crop": {"x_max": 20, "y_max": 24},
    "CropAndPad": {"px": 3},
    "GridElasticDeform": {"num_grid_xy": (4, 4), "magnitude": 3},
    "LongestMaxSize": {"max_size": 24},
    "RandomSizedCrop": {"min_max_height": (8, 20), "size": (20, 24)},
    "SmallestMaxSize": {"max_size": 24},
}
NO_IMAGE_ALONE = {  # need boxes, masks, other images or a font
    "BBoxSafeRandomCrop", "CropNonEmptyMaskIfExists", "FDA", "HistogramMatching", "MaskDropout", "Mosaic",
    "OverlayElements", "PixelDistributionAdaptation", "RandomCropNearBBox", "RandomSizedBBoxSafeCrop", "TextImage",
}  # fmt: skip


@pytest.mark.filterwarnings(
    "ignore:Neither valid mask nor bboxes", "ignore:The image is already an RGB", "ignore:The given NumPy"
)
@pytest.mark.parametrize("kind", [name for name in TRANSFORMS if name not in NO_IMAGE_ALONE])
def test_no_transform_writes_into_the_image(kind: str) -> None:
    """Not even where it could; and a read-only image, such as a cache keeps, is all that it needs."""
    transform = _made(kind, _arguments(kind))
    step = fast_transform(transform)
    read_only = _image(48, 40)
    for key in range(2):
        writable = read_only.copy()
        expected, *expected_state = _outcome(transform, None, read_only, key)
        assert not isinstance(expected, type), expected_state
        for image in (read_only, writable):
            for way in (None, step):
                found, *state = _outcome(transform, way, image, key)
                np.testing.assert_array_equal(found, expected)
                assert state == expected_state
        np.testing.assert_array_equal(writable, read_only)


def _arguments(kind: str) -> dict[str, Any]:
    """Arguments with which a transform always does something to an image of 48 x 40 pixels."""
    sizes: dict[str, Any] = {"height": 20, "width": 24, "size": (20, 24)}
    parameters = inspect.signature(TRANSFORMS[kind]).parameters
    filled = {name: value for name, value in sizes.items() if name in parameters and not _has_default(parameters[name])}
    if "transforms" in parameters:
        filled["transforms"] = [_made("HorizontalFlip", {"p": 0.5}), _made("GaussNoise", {"p": 1})]
    return {**filled, **NEEDED.get(kind, {}), "p": 1}


def _has_default(parameter: inspect.Parameter) -> bool:
    return parameter.default is not parameter.empty
