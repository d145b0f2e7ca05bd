"""The augmentation recipes that people used, at their sizes, on photographs of 512 x 384 pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from data_loader.transforms import AugmentationKey, TransformLists, build_transforms

IMAGE = np.random.default_rng(0).integers(0, 256, (512, 384, 3), dtype=np.uint8)
OWN = ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def _one(kind: str, **args: Any) -> dict[str, Any]:
    return {"type": kind, "args": args}


def _choice(*specs: dict[str, Any], p: float) -> dict[str, Any]:
    return _one("OneOf", transforms=list(specs), p=p)


RESIZE, CENTRE, FLIP = _one("Resize"), _one("CenterCrop"), _one("HorizontalFlip", p=0.5)
B4_NORMALISE = _one("Normalize", mean=[0.548, 0.504, 0.479], std=[0.237, 0.247, 0.246])
DEFAULT = [
    RESIZE,
    _one("ShiftScaleRotate", shift_limit=0.1, scale_limit=0.1, rotate_limit=5, p=0.5),
    _one("RandomBrightnessContrast", brightness_limit=0.2, contrast_limit=0.2, p=0.5),
    FLIP,
    _one("CoarseDropout", p=0.5),
]
LIGHT = _one("RandomBrightnessContrast", brightness_limit=0.1, contrast_limit=0.1, p=0.5)
ERASING = _one("Erasing", scale=[0.02, 0.33], ratio=[0.3, 3.3], p=0.5)  # torchvision's RandomErasing
STRONG = [
    RESIZE,
    FLIP,
    _one("Affine", translate_percent=[-0.1, 0.1], scale=[0.8, 1.2], rotate=[-20, 20], shear=[-8, 8], p=0.7),
    _choice(
        _one("RandomBrightnessContrast", brightness_limit=0.3, contrast_limit=0.3),
        *map(_one, ("RandomGamma", "CLAHE", "Equalize", "HueSaturationValue", "RGBShift", "ColorJitter")),
        p=0.8,
    ),
    _choice(
        *map(_one, ("GaussianBlur", "MotionBlur", "MedianBlur", "GaussNoise", "ISONoise", "Downscale")),
        _one("ImageCompression", quality_range=[40, 90]),
        p=0.5,
    ),
    _choice(*map(_one, ("GridDistortion", "OpticalDistortion", "ElasticTransform", "Perspective")), p=0.3),
    _one("SomeOf", transforms=[_one(kind, p=1) for kind in ("ToGray", "Posterize", "Solarize", "Sharpen")], n=1, p=0.2),
    _choice(ERASING, *map(_one, ("CoarseDropout", "GridDropout")), p=0.5),
]


@pytest.mark.parametrize(
    ("train", "evaluation", "input_size"),
    [
        pytest.param(DEFAULT, [RESIZE], 240, id="default"),
        pytest.param([CENTRE, LIGHT], [CENTRE], [400, 200], id="b4"),
        pytest.param([_one("CenterCrop", height=400, width=200), RESIZE, LIGHT],
                     [_one("CenterCrop", height=400, width=200), RESIZE], 380, id="b4 resized"),
        pytest.param([CENTRE, FLIP], [CENTRE], 384, id="bust 384"),
        pytest.param([RESIZE, FLIP], [RESIZE], [128, 96], id="resize"),
        pytest.param([CENTRE, ERASING], [CENTRE], [400, 200], id="random erasing, narrow"),
        pytest.param(STRONG, [RESIZE], 224, id="strong"),
    ],
)  # fmt: skip
def test_a_recipe_runs_at_its_size(
    train: list[dict[str, Any]], evaluation: list[dict[str, Any]], input_size: int | list[int]
) -> None:
    lists: TransformLists = {"train": [*train, B4_NORMALISE], "eval": [*evaluation, B4_NORMALISE]}
    built = build_transforms(lists, input_size, *OWN)
    height, width = (input_size, input_size) if isinstance(input_size, int) else input_size
    assert built.preprocessing.image_hw == (height, width)
    assert list(built.preprocessing.mean) == B4_NORMALISE["args"]["mean"]
    images = [built.train(IMAGE, AugmentationKey(0, 0, index)) for index in range(12)]
    assert {image.shape for image in images} == {(height, width, 3)}
    assert len({image.tobytes() for image in images}) > 1
    prepared = built.evaluation(IMAGE)
    assert np.array_equal(prepared, built.evaluation(IMAGE))
    if evaluation == [CENTRE]:
        top, left = (512 - height) // 2, (384 - width) // 2
        assert np.array_equal(prepared, IMAGE[top : top + height, left : left + width])
