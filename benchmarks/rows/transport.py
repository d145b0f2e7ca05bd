"""Images/s from worker to main process where the worker only copies: through torch's pipe, and in shared slots."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.feeding import drained
from benchmarks.measuring import Contender, Figure, Row, interleaved, ratios
from benchmarks.workplace import Workplace
from data_loader.samplers import BatchKeys, EvaluationBatchSampler
from data_loader.workers.feeding import BatchFeed


class OneImage(Dataset[tuple[Tensor, int]]):
    """The same tensor for every number."""

    def __init__(self, image: Tensor, count: int) -> None:
        self.image, self.count = image, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.image, 0


class OneImageInSlots:
    """The same image for every key, as data_loader.datasets.BatchImages has it."""

    copies_only = False  # which would keep the feed from having workers

    def __init__(self, image: np.ndarray, count: int) -> None:
        self.image, self.count = image, count
        self.sizes = [(image.shape[0], image.shape[1])]

    def __len__(self) -> int:
        return self.count

    def contiguous(self, keys: BatchKeys) -> None:  # noqa: ARG002
        return None

    def fill(self, keys: BatchKeys, out: Sequence[np.ndarray]) -> None:  # noqa: ARG002
        for made in out:
            made[:] = self.image


def measure(workplace: Workplace) -> Row:
    scale = workplace.scale
    contenders: dict[str, Contender] = {}
    for workers in (1, 2):
        contenders[f"slots, workers: {workers}"] = slots(scale.side, scale.batch_size, scale.cached_images, workers)
        for dtype in (torch.uint8, torch.float32):
            name = f"pipe, {str(dtype).removeprefix('torch.')}, workers: {workers}"
            contenders[name] = pipe(dtype, scale.side, scale.batch_size, scale.cached_images, workers)
    values = interleaved(contenders, scale.rounds)
    figures = [Figure(name, "images/s", each) for name, each in values.items()]
    for name in ("pipe, uint8", "pipe, float32"):
        over = ratios(values["slots, workers: 2"], values[f"{name}, workers: 2"])
        figures.append(Figure(f"slots / {name}, workers: 2", "x", over))
    return Row(
        "Transport alone",
        figures,
        {"images": scale.cached_images, "side": scale.side, "batch_size": scale.batch_size},
        ["a worker copies one image into its batch again and again: what is left is the way to the main process"],
    )


def slots(side: int, batch_size: int, images: int, workers: int) -> Contender:
    """Ours."""
    source = OneImageInSlots(np.full((side, side, 3), 127, np.uint8), images)
    feed = BatchFeed(source, EvaluationBatchSampler(images, batch_size), workers)
    return drained(lambda: ((torch.from_numpy(arrays[0]), keys) for keys, arrays in feed))


def pipe(dtype: torch.dtype, side: int, batch_size: int, images: int, workers: int) -> Contender:
    """torch's, with its own collation."""
    dataset = OneImage(torch.full((3, side, side), 127, dtype=dtype), images)
    loader = DataLoader(dataset, batch_size, num_workers=workers, persistent_workers=True)
    return drained(loader.__iter__)
