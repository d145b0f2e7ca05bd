"""Several views of one image: decoded once, each as its own pipeline alone would make it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from base.preprocessing import Preprocessing
from data_loader import datasets
from data_loader.cache import DiskCache
from data_loader.data_loaders import TTALoader
from data_loader.records import Record
from data_loader.transforms import eval_pipeline
from utils.errors import DataError
from utils.images import read_rgb


def _preprocessing(*specs: dict[str, Any], side: int = 16) -> Preprocessing:
    resize = {"type": "Resize", "args": {"height": side, "width": side}}
    return Preprocessing((side, side), (0.5,) * 3, (0.5,) * 3, [resize, *specs])


PLAIN = _preprocessing()
FLIPPED = _preprocessing({"type": "HorizontalFlip", "args": {"p": 1}})
SMALL = _preprocessing(side=8)


@pytest.mark.parametrize("workers", [0, 1])
def test_views_are_what_each_pipeline_alone_makes(image_records: list[Record], workers: int) -> None:
    preparations = [PLAIN, FLIPPED, PLAIN, SMALL]
    loader = TTALoader(image_records, [eval_pipeline(each) for each in preparations], 4, workers)
    assert len(loader) == 7
    for _ in range(2):
        batches = list(loader)
        assert torch.cat([indices for _, indices in batches]).tolist() == list(range(26))
        for number, preprocessing in enumerate(preparations):
            pipeline = eval_pipeline(preprocessing)
            alone = np.stack([pipeline(read_rgb(record.path)) for record in image_records])
            made = torch.cat([images[number] for images, _ in batches])
            assert made.dtype == torch.uint8
            assert torch.equal(made, torch.from_numpy(alone).permute(0, 3, 1, 2))
    images, _ = batches[0]
    assert torch.equal(images[1], images[0].flip(3))


def test_views_from_a_cache_are_the_same(image_records: list[Record], tmp_path: Path) -> None:
    pipelines = [eval_pipeline(each) for each in (PLAIN, FLIPPED, PLAIN, SMALL)]
    plain = list(TTALoader(image_records, pipelines, 4))
    for _ in range(2):
        cached = list(TTALoader(image_records, pipelines, 4, 1, cache=DiskCache(tmp_path, 1)))
        for (images, indices), (expected, rows) in zip(cached, plain, strict=True):
            assert torch.equal(indices, rows)
            assert all(torch.equal(view, other) for view, other in zip(images, expected, strict=True))


def test_views_of_images_that_come_out_in_another_size(image_records: list[Record], tmp_path: Path) -> None:
    pad = {"type": "PadIfNeeded", "args": {"min_height": 40, "min_width": 40}}
    pipelines = [eval_pipeline(Preprocessing((40, 40), PLAIN.mean, PLAIN.std, [pad]))]
    large = tmp_path / "large.png"
    Image.new("RGB", (50, 44)).save(large)
    first = image_records[0]
    odd = [*image_records[:3], Record(large, large.name, first.person, first.attributes, first.origin)]
    cache = DiskCache(tmp_path, 1)
    with pytest.raises(DataError, match=r"large\.png: the transforms make 44 x 50 pixels"):
        list(TTALoader(odd, pipelines, 4, cache=cache))
    ((plain,), _), ((cached,), _) = (next(iter(TTALoader(odd[:3], pipelines, 4, cache=each))) for each in (None, cache))
    assert torch.equal(plain, cached)


def test_an_answer_does_not_fail_for_its_cache(
    image_records: list[Record], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    for folder, budget_gib in ((tmp_path, 1e-6), (tmp_path / "file", 1)):
        loader = TTALoader(image_records, [eval_pipeline(PLAIN)], 4, cache=DiskCache(folder, budget_gib))
        assert sum(len(indices) for _, indices in loader) == 26
        assert "The images are decoded anew" in caplog.messages[-1]


def test_an_image_is_decoded_once_and_equal_pipelines_run_once(
    image_records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Path] = []

    def spy(path: Path, bits: Any = 16) -> np.ndarray:
        decoded.append(path)
        return read_rgb(path, bits)

    monkeypatch.setattr(datasets, "read_rgb", spy)
    pipelines = [eval_pipeline(each) for each in (PLAIN, FLIPPED, _preprocessing())]
    images, _ = next(iter(TTALoader(image_records[:5], pipelines, 5)))
    assert decoded == [record.path for record in image_records[:5]]
    assert images[0] is images[2]
    assert images[0] is not images[1]
