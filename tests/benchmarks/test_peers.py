"""The peers' loaders give what they claim."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.peers import teams_loader, timm_loader, torchvision_loader
from benchmarks.workplace import Workplace

SIDE = 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize("make", [teams_loader, timm_loader, torchvision_loader])
@pytest.mark.parametrize("workers", [0, 1])
def test_training_batches_are_whole_and_float32(make: Callable[..., Any], workers: int, workplace: Workplace) -> None:
    paths = workplace.paths[:10]
    loader = make(paths, SIDE, 4, workers)
    for _ in range(2):  # an epoch can be begun again
        batches = list(loader)
        assert [tuple(images.shape) for images, _ in batches] == [(4, 3, SIDE, SIDE)] * 2
        assert all(images.dtype == torch.float32 and images.isfinite().all() for images, _ in batches)
        assert all(len(labels) == 4 for _, labels in batches)


@pytest.mark.parametrize("make", [teams_loader, timm_loader, torchvision_loader])
def test_training_batches_are_augmented(make: Callable[..., Any], workplace: Workplace) -> None:
    """The same photograph eight times comes in several ways."""
    ((images, _),) = make([workplace.paths[0]] * 8, SIDE, 8, 0)
    assert len({image.numpy().tobytes() for image in images}) > 4


def test_evaluation_batches_of_the_teams_are_the_photographs(workplace: Workplace) -> None:
    paths = workplace.paths[:6]
    batches = [images for images, _ in teams_loader(paths, SIDE, 4, 0, augment=False)]
    assert [len(images) for images in batches] == [4, 2]
    for path, image in zip(paths, torch.cat(batches), strict=True):
        decoded = np.array(Image.open(path).convert("RGB"))
        resized = cv2.resize(decoded, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
        expected = (resized / 255 - np.array(MEAN)) / np.array(STD)
        np.testing.assert_allclose(image.permute(1, 2, 0).numpy(), expected, atol=1e-4)
