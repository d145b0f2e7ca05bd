"""The peers' loaders give what they claim."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks.speed.peers import teams_loader, timm_loader, torchvision_loader
from benchmarks.speed.workplace import Workplace

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
