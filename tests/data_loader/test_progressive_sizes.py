"""Progressive sizes: every epoch's images in its size, from any cache, worker and batch; validation in full size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from base.label_space import LabelSpace
from data_loader.progressive_sizes import ProgressiveSizes
from data_loader.records import Record
from tests.data_loader.label_tables import same_batches, small_loader

PHASES = [[1, 8], [2, 12], [4, 20]]
SIZES_HW = {1: (8, 6), 2: (12, 9), 3: (12, 9), 4: (20, 15), 9: (20, 15)}


def test_each_epoch_has_the_size_of_its_phase() -> None:
    sizes = ProgressiveSizes(PHASES, (20, 15))
    assert {epoch: sizes.image_hw_in(epoch) for epoch in SIZES_HW} == SIZES_HW
    assert sizes.sizes == [(8, 6), (12, 9), (20, 15)]


@pytest.mark.parametrize(
    "phases", [[], [[2, 20]], [[1, 8], [1, 20]], [[1, 8], [3, 12], [2, 20]], [[1, 20], [2, 8]], [[1, 8], [2, 19]]]
)
def test_phases_that_do_not_rise_to_the_full_size_are_refused(phases: list[list[int]]) -> None:
    with pytest.raises(ValueError, match=r"^progressive_sizes = \["):
        ProgressiveSizes(phases, (20, 15))


@pytest.mark.parametrize(("workers", "cache"), [(0, "none"), (2, "none"), (0, "memory"), (2, "disk")])
def test_batches_are_the_full_ones_reduced(
    image_records: list[Record], labels: LabelSpace, tmp_path: Path, workers: int, cache: str
) -> None:
    """By hand, from a loader of one size; from any batch on."""
    given: dict[str, Any] = {"input_size": [20, 15]}
    plain = small_loader(image_records, labels, **given)
    given |= {"num_workers": workers, "cache": cache, "cache_folder": tmp_path}
    progressive = small_loader(image_records, labels, progressive_sizes=PHASES, **given)
    assert progressive.epoch_of_full_size == 4
    for epoch, (height, width) in {4: (20, 15), 1: (8, 6), 3: (12, 9)}.items():
        expected = list(plain.train_batches(epoch))
        found = list(progressive.train_batches(epoch))
        assert len(found) == len(expected) == 5
        for batch, full in zip(found, expected, strict=True):
            assert batch.images.shape == (4, 3, height, width)
            assert torch.equal(batch.indices, full.indices)
            for image, whole in zip(batch.images, full.images, strict=True):
                pixels = np.ascontiguousarray(whole.permute(1, 2, 0).numpy())
                reduced = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
                assert np.array_equal(image.permute(1, 2, 0).numpy(), reduced)
        assert same_batches(list(progressive.train_batches(epoch, 3)), found[3:])
    assert same_batches(list(progressive.validation_batches()), list(plain.validation_batches()))
