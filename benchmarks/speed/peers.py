"""What people feed their models with today, written as they write it.

The teams' way: PIL, a Compose of albumentations that ends in Normalize and ToTensorV2, float32 through torch's
DataLoader. timm's create_loader and torchvision's v2 transforms have augmentations of their own; each has what comes
nearest to the recipe of config.json (crop or shift, colours, flip, erasing).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from benchmarks.speed.feeding import drained
from benchmarks.speed.measuring import Contender


class PhotographSet(Dataset[tuple[Any, int]]):
    """Photographs through a function of a PIL image; every label is 0."""

    def __init__(self, paths: Sequence[Path], transform: Callable[[Image.Image], Any] | None = None) -> None:
        self.paths = list(paths)
        self.transform = transform  # timm's create_loader sets its own

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        assert self.transform is not None
        return self.transform(Image.open(self.paths[index]).convert("RGB")), 0


def teams_loader(paths: Sequence[Path], side: int, batch_size: int, workers: int) -> Iterable[Any]:
    """Batches ((B, 3, side, side) float32, labels), shuffled, whole and augmented."""
    import albumentations
    from albumentations.pytorch import ToTensorV2

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it would rather be called Affine
        shift = albumentations.ShiftScaleRotate(shift_limit=0.1, scale_limit=0.1, rotate_limit=5, p=0.5)
    compose = albumentations.Compose(
        [
            albumentations.Resize(side, side),
            shift,
            albumentations.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.2, p=0.5),
            albumentations.HorizontalFlip(p=0.5),
            albumentations.CoarseDropout(p=0.5),
            albumentations.Normalize(),
            ToTensorV2(),
        ]
    )
    return _loader(_Composed(paths, compose), batch_size, workers)


class _Composed(PhotographSet):
    """A Compose of albumentations takes and gives arrays by name."""

    def __init__(self, paths: Sequence[Path], compose: Any) -> None:
        super().__init__(paths, lambda image: compose(image=np.array(image))["image"])


def torchvision_loader(paths: Sequence[Path], side: int, batch_size: int, workers: int) -> Iterable[Any]:
    """Batches as the teams', by torchvision.transforms.v2. Raises ImportError where it is not installed."""
    from torchvision.transforms import v2

    compose = v2.Compose(
        [
            v2.Resize((side, side)),
            v2.RandomAffine(5, (0.1, 0.1), (0.9, 1.1)),
            v2.ColorJitter(0.2, 0.2),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.5,) * 3, (0.5,) * 3),
            v2.RandomErasing(),
        ]
    )
    return _loader(PhotographSet(paths, compose), batch_size, workers)


def timm_loader(
    paths: Sequence[Path], side: int, batch_size: int, workers: int, device: torch.device | None = None
) -> Iterable[Any]:
    """Batches as timm's create_loader makes them; on a GPU its prefetcher normalises there.

    Raises ImportError where timm is not installed."""
    from timm.data import create_loader

    device = device or torch.device("cpu")
    return create_loader(
        PhotographSet(paths),
        (3, side, side),
        batch_size,
        is_training=True,
        num_workers=workers,
        use_prefetcher=device.type == "cuda",
        color_jitter=0.2,
        re_prob=0.5,
        device=device,
        persistent_workers=workers > 0,
    )


def _loader(dataset: PhotographSet, batch_size: int, workers: int) -> DataLoader[Any]:
    return DataLoader(
        dataset,
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def drained_peer(make: Callable[..., Iterable[Any]], *arguments: Any) -> Contender:
    """Images/s of a peer's loader, which `make` makes of the arguments; see `drained`."""
    return drained(make(*arguments).__iter__)
