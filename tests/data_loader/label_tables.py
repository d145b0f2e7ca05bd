"""Splits and loaders of records that a test has made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from base.batch import Batch
from base.label_space import LabelSpace
from data_loader.data_loaders import AttributeDataLoader
from data_loader.records import LabelTable, Record
from data_loader.splits import Split
from data_loader.transforms import TransformLists

LISTS: TransformLists = {
    "train": [{"type": "Resize"}, {"type": "HorizontalFlip"}, {"type": "RandomBrightnessContrast", "args": {"p": 1}}],
    "eval": [{"type": "Resize"}],
}
HALF = (0.5, 0.5, 0.5)


def split_of(
    labels: LabelSpace, train: Sequence[Record], validation: Sequence[Record] = (), test: Sequence[Record] = ()
) -> Split:
    return Split(*(LabelTable.from_records(side, labels) for side in (train, validation, test)))


def small_loader(records: Sequence[Record], labels: LabelSpace, **args: Any) -> AttributeDataLoader:
    """The first 20 records train, the others validate."""
    given: dict[str, Any] = {"input_size": 16, "batch_size": 4, "num_workers": 0, **args}
    return AttributeDataLoader(split_of(labels, records[:20], records[20:]), LISTS, HALF, HALF, 3, **given)


def same_batches(first: Sequence[Batch], second: Sequence[Batch]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a.images, b.images)
        and torch.equal(a.indices, b.indices)
        and all(torch.equal(a.targets[head], b.targets[head]) for head in a.targets)
        for a, b in zip(first, second, strict=True)
    )
