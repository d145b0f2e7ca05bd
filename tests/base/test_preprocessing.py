"""Preprocessing: normalisation on the device equals albumentations', and it survives a checkpoint."""

from __future__ import annotations

import json

import albumentations
import numpy as np
import pytest
import torch

from base.preprocessing import Preprocessing

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PREPROCESSING = Preprocessing((20, 16), MEAN, STD, [{"type": "Resize", "args": {"height": 20, "width": 16}}])


def _images() -> np.ndarray:
    images = np.random.default_rng(0).integers(0, 256, (3, 20, 16, 3), dtype=np.uint8)
    images[0, 0, :2] = ((0, 0, 0), (255, 255, 255))
    return images


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_normalisation_equals_that_of_albumentations(memory_format: torch.memory_format) -> None:
    expected = np.stack([albumentations.Normalize(MEAN, STD)(image=image)["image"] for image in _images()])
    images = torch.from_numpy(_images()).permute(0, 3, 1, 2)
    for layout in (images, images.contiguous()):
        normalised = PREPROCESSING.normalise(layout, memory_format=memory_format)
        assert normalised.dtype == torch.float32
        assert normalised.is_contiguous(memory_format=memory_format)
        np.testing.assert_allclose(normalised.permute(0, 2, 3, 1).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_half_precision_is_rounded_once() -> None:
    images = torch.from_numpy(_images()).permute(0, 3, 1, 2)
    exact = (images.double() / 255 - torch.tensor(MEAN).double().view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    half = PREPROCESSING.normalise(images, torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert torch.allclose(half.double(), exact, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_other_devices_make_the_same_layout(dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    """On torch's "meta", which knows shapes and layouts."""
    images = torch.from_numpy(_images()).permute(0, 3, 1, 2)
    found = PREPROCESSING.normalise(images.to("meta"), dtype, memory_format)
    expected = PREPROCESSING.normalise(images, dtype, memory_format)
    assert (found.dtype, found.shape, found.stride()) == (expected.dtype, expected.shape, expected.stride())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_gpu_computes_the_same(dtype: torch.dtype) -> None:
    images = torch.from_numpy(_images()).permute(0, 3, 1, 2)
    found = PREPROCESSING.normalise(images.cuda(), dtype, torch.channels_last)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.cpu(), PREPROCESSING.normalise(images, dtype), rtol=2**-8, atol=1e-6)


def test_plain_data_and_back() -> None:
    plain = json.loads(json.dumps(PREPROCESSING.to_config()))
    assert Preprocessing.from_config(plain) == PREPROCESSING


@pytest.mark.parametrize(
    "change", [{"mean": None}, {"std": [0.1, 0.2]}, {"std": [0, 1, 1]}, {"image_hw": [3]}, {"eval_transforms": [1]}]
)
def test_a_damaged_preprocessing_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="preprocessing"):
        Preprocessing.from_config({**PREPROCESSING.to_config(), **change})
