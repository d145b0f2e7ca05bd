"""Loaders: one stream of batches for any number of workers, from any batch on; errors that stay one line."""

from __future__ import annotations

import multiprocessing
import subprocess
import time
from pathlib import Path
from typing import Any

import albumentations
import cv2
import numpy as np
import pytest
import torch

from base.label_space import LabelSpace
from base.preprocessing import Preprocessing
from data_loader.data_loaders import AttributeDataLoader, TTALoader
from data_loader.records import Record
from data_loader.transforms import eval_pipeline
from tests.data_loader.label_tables import HALF, LISTS, same_batches, small_loader, split_of
from utils.errors import DataError


def test_a_batch_holds_images_and_targets(image_records: list[Record], labels: LabelSpace) -> None:
    loader = small_loader(image_records, labels, valid_batch_size=5)
    first, second = list(loader.validation_batches())
    assert (len(first), len(second), loader.num_validation) == (5, 1, 6)
    assert first.images.shape == (5, 3, 16, 16)
    assert first.images.dtype == torch.uint8
    assert first.indices.tolist() == [0, 1, 2, 3, 4]
    for image, record in zip(first.images, image_records[20:], strict=False):
        decoded = cv2.imread(str(record.path))
        assert decoded is not None
        expected = albumentations.Resize(16, 16)(image=decoded[:, :, ::-1])["image"]
        assert np.abs(image.permute(1, 2, 0).numpy().astype(int) - expected).max() <= 2  # decoders differ by a level
    assert {head: target.tolist() for head, target in first.targets.items()} == {
        "mask": [2, 0, 1, 2, 0],
        "gender": [1, -1, 1, 1, -1],
        "age": [2, 2, 2, 2, 2],
    }
    assert first.scoring_targets.keys() == labels.attributes.keys()
    assert loader.preprocessing == Preprocessing(
        (16, 16), HALF, HALF, [{"type": "Resize", "args": {"height": 16, "width": 16}}]
    )


def test_batches_are_the_same_for_any_number_of_workers(image_records: list[Record], labels: LabelSpace) -> None:
    expected = {epoch: list(small_loader(image_records, labels).train_batches(epoch)) for epoch in (0, 1)}
    assert len(expected[0]) == 5
    validation = list(small_loader(image_records, labels).validation_batches())
    by_index = [
        {
            int(index): image
            for batch in expected[epoch]
            for index, image in zip(batch.indices, batch.images, strict=True)
        }
        for epoch in (0, 1)
    ]
    assert list(by_index[0]) != list(by_index[1])
    assert sum(torch.equal(image, by_index[1][index]) for index, image in by_index[0].items()) < 3  # augmented anew
    for workers in (1, 2):
        loader = small_loader(image_records, labels, num_workers=workers)
        for epoch in (1, 0):
            assert same_batches(list(loader.train_batches(epoch)), expected[epoch])
        next(loader.train_batches(0))  # abandoned
        for start in (3, 0, 5):
            assert same_batches(list(loader.train_batches(1, start)), expected[1][start:])
        assert same_batches(list(loader.validation_batches()), validation)


@pytest.mark.parametrize("cache", ["memory", "disk", "device"])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_from_a_cache(
    image_records: list[Record], labels: LabelSpace, tmp_path: Path, cache: str, workers: int
) -> None:
    plain = small_loader(image_records, labels)
    for _ in range(2):  # the second time from what the first has left
        cached = small_loader(image_records, labels, cache=cache, cache_folder=tmp_path, num_workers=workers)
        for epoch in (0, 1):
            assert same_batches(list(cached.train_batches(epoch)), list(plain.train_batches(epoch)))
        assert same_batches(list(cached.validation_batches()), list(plain.validation_batches()))
    assert bool(list(tmp_path.iterdir())) == (cache != "memory")


@pytest.mark.parametrize("workers", [0, 1])
def test_loading_draws_nothing_from_torchs_own_generator(
    image_records: list[Record], labels: LabelSpace, workers: int
) -> None:
    before = torch.get_rng_state()
    loader = small_loader(image_records, labels, num_workers=workers)
    for epoch in range(2):
        list(loader.train_batches(epoch))
    assert torch.equal(torch.get_rng_state(), before)


def test_two_processes_see_what_one_sees(image_records: list[Record], labels: LabelSpace) -> None:
    one = small_loader(image_records, labels)
    two = [small_loader(image_records, labels, batch_size=2, rank=rank, world_size=2) for rank in (0, 1)]
    assert one.steps_per_epoch == two[0].steps_per_epoch == two[1].steps_per_epoch == 5
    pairs = zip(two[0].train_batches(2), two[1].train_batches(2), strict=True)
    for whole, (first, second) in zip(one.train_batches(2), pairs, strict=True):
        assert torch.equal(whole.images, torch.cat([first.images, second.images]))
    shares = [[batch.indices.tolist() for batch in loader.validation_batches()] for loader in two]
    assert shares == [[[0, 2], [4]], [[1, 3], [5]]]


def test_evaluation_needs_only_the_checkpoints_preprocessing(image_records: list[Record], labels: LabelSpace) -> None:
    loader = small_loader(image_records, labels)
    preprocessing = Preprocessing.from_config(loader.preprocessing.to_config())
    evaluation = TTALoader(image_records[20:], [eval_pipeline(preprocessing)], batch_size=4)
    assert len(evaluation) == 2
    for _ in range(2):
        made = torch.cat([images[0] for images, _ in evaluation])
        assert torch.equal(made, torch.cat([batch.images for batch in loader.validation_batches()]))


@pytest.mark.parametrize("cache", ["none", "memory", "disk"])
def test_no_validation(image_records: list[Record], labels: LabelSpace, tmp_path: Path, cache: Any) -> None:
    given: dict[str, Any] = {"input_size": 8, "num_workers": 0, "batch_size": 5, "drop_last": False, "cache": cache}
    split = split_of(labels, image_records)
    loader = AttributeDataLoader(split, LISTS, HALF, HALF, 0, cache_folder=tmp_path, **given)
    assert (loader.num_validation, list(loader.validation_batches())) == (0, [])
    assert sum(len(batch) for batch in loader.train_batches(0)) == 26


def test_an_image_too_small_for_a_crop_is_named(image_records: list[Record], labels: LabelSpace) -> None:
    crop = {"type": "CenterCrop", "args": {"height": 64, "width": 64}}
    split = split_of(labels, image_records)
    loader = AttributeDataLoader(split, {"train": [crop], "eval": [crop]}, HALF, HALF, 0, num_workers=0, batch_size=2)
    with pytest.raises(DataError, match=r"\.jpg: CenterCrop cannot take this image of 40 x 30 pixels .*Resize"):
        list(loader.train_batches(0))


def test_workers_leave_signals_to_the_main_process(image_records: list[Record], labels: LabelSpace) -> None:
    before = set(multiprocessing.active_children())
    loader = small_loader(image_records, labels, num_workers=1, batch_size=1)
    batches = loader.train_batches(0)
    received = [next(batches)]
    (worker,) = set(multiprocessing.active_children()) - before
    assert worker.pid is not None
    for name in ("INT", "TERM", "USR1"):  # from another process, as a terminal or a scheduler sends them to all
        subprocess.run(["kill", f"-{name}", str(worker.pid)], check=True)
        time.sleep(0.05)
    received += list(batches)
    assert same_batches(received, list(small_loader(image_records, labels, batch_size=1).train_batches(0)))
