"""Images and their targets, by key."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from base.batch import Batch
from base.label_space import LabelSpace
from data_loader.batch_samplers import SampleKey
from data_loader.pipeline import AugmentationKey, Pipeline
from data_loader.records import Record
from utils.errors import UserError
from utils.image_decoding import read_rgb


@dataclass(frozen=True)
class Sample:
    """image (H, W, 3) uint8; targets by head and scoring targets by attribute, -1 = unknown; index in the records."""

    image: np.ndarray
    targets: dict[str, int]
    scoring_targets: dict[str, int]
    index: int


class AttributeDataset(Dataset[Sample]):
    """The records' images through a pipeline. What a key gives depends on it and the seed, and nothing else.

    seed: None for a pipeline without chance."""

    def __init__(
        self, records: Sequence[Record], label_space: LabelSpace, pipeline: Pipeline, seed: int | None
    ) -> None:
        self.records = records
        self.pipeline = pipeline
        self.seed = seed
        targets = [label_space.targets(record.attributes) for record in records]
        scoring_targets = [label_space.scoring_targets(record.attributes) for record in records]
        self.targets = _columns(targets, label_space.heads)
        self.scoring_targets = _columns(scoring_targets, label_space.predicted_attributes)

    def __len__(self) -> int:
        return len(self.records)

    def image(self, key: SampleKey) -> np.ndarray:
        """(H, W, 3) uint8. Raises DataError for an image that cannot be read or that the transforms cannot take."""
        path = self.records[key.index].path
        random = None if self.seed is None else AugmentationKey(self.seed, key.epoch, key.index, key.repeat)
        return self.pipeline(read_rgb(path), random, str(path))

    def __getitem__(self, key: SampleKey) -> Sample:
        return Sample(
            self.image(key),
            {head: int(targets[key.index]) for head, targets in self.targets.items()},
            {name: int(targets[key.index]) for name, targets in self.scoring_targets.items()},
            key.index,
        )

    def __getitems__(self, keys: Sequence[SampleKey]) -> Batch | UserError:
        """A whole batch. An error of the user's is returned: raised in a worker, it would come with a traceback.

        The images keep the decoder's order of bytes, (B, H, W, 3); the batch's (B, 3, H, W) is a view of them."""
        try:
            images = np.stack([self.image(key) for key in keys])
        except UserError as error:
            return error
        indices = torch.tensor([key.index for key in keys])
        return Batch(
            torch.from_numpy(images).permute(0, 3, 1, 2),
            {head: targets[indices] for head, targets in self.targets.items()},
            {name: targets[indices] for name, targets in self.scoring_targets.items()},
            indices,
        )


class Views(NamedTuple):
    """Several views of the same images: images (B, 3, h_k, w_k) uint8, one tensor a pipeline; indices (B,) int64, the
    images' rows in the records."""

    images: list[Tensor]
    indices: Tensor


class ViewsDataset(Dataset[Views]):
    """The records' images, each decoded once and put through several pipelines without chance."""

    def __init__(self, records: Sequence[Record], pipelines: Sequence[Pipeline]) -> None:
        self.records = records
        self.pipelines: list[Pipeline] = []  # those that differ
        self._places = []  # of each that was given, its place among them
        for pipeline in pipelines:
            known = [place for place, other in enumerate(self.pipelines) if pipeline.does_the_same_as(other)]
            if not known:
                self.pipelines.append(pipeline)
            self._places.append(known[0] if known else len(self.pipelines) - 1)

    def __len__(self) -> int:
        return len(self.records)

    def __getitems__(self, keys: Sequence[SampleKey]) -> Views | UserError:
        """As `AttributeDataset.__getitems__`. Equal pipelines share one tensor."""
        by_pipeline: list[list[np.ndarray]] = [[] for _ in self.pipelines]
        try:
            for key in keys:
                path = self.records[key.index].path
                image = read_rgb(path)
                for made, pipeline in zip(by_pipeline, self.pipelines, strict=True):
                    made.append(pipeline(image, name=str(path)))
        except UserError as error:
            return error
        images = [torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2) for made in by_pipeline]
        return Views([images[place] for place in self._places], torch.tensor([key.index for key in keys]))


def _columns(rows: Sequence[dict[str, int]], names: Iterable[str]) -> dict[str, Tensor]:
    return {name: torch.tensor([row[name] for row in rows], dtype=torch.int64) for name in names}
