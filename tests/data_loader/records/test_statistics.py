"""Statistics of a set of images, against numpy over all pixels and counting by hand."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from base.label_space import LabelSpace
from data_loader.records import LabelTable, Record
from data_loader.records.statistics import (
    histogram_bins,
    label_statistics,
    mean_and_std,
    measure_images,
    size_statistics,
)
from utils.errors import DataError


def _images(count: int = 5, seed: int = 0) -> list[np.ndarray]:
    """Of unlike sizes, dark and light."""
    stream = np.random.default_rng(seed)
    shapes = [(int(stream.integers(3, 40)), int(stream.integers(3, 40)), 3) for _ in range(count)]
    return [stream.integers(0, 40 * (number + 1), shape, dtype=np.uint8) for number, shape in enumerate(shapes)]


def _all_pixels(images: list[np.ndarray]) -> np.ndarray:
    """(N, 3) in units of 0 to 1."""
    return np.concatenate([image.reshape(-1, 3) for image in images]).astype(np.float64) / 255


def test_nothing_is_rounded_off() -> None:
    """A million million pixels of 254 and one of 255: in float64 the sums of squares would lose the difference."""
    counts = np.zeros((3, 256), np.int64)
    counts[:, 254] = 10**12
    counts[:, 255] = 1
    mean, std = mean_and_std(counts)
    assert mean == pytest.approx([254 / 255] * 3)
    assert std == pytest.approx([1e-6 / 255] * 3, rel=1e-9)


def test_images_are_measured_by_side(tmp_path: Path) -> None:
    images = _images(6, seed=1)
    records = []
    for number, image in enumerate(images):
        path = tmp_path / f"{number}.png"
        Image.fromarray(image).save(path)
        records.append(Record(path, path.name, str(number), {}, ""))
    sizes, counts = measure_images({"train": records[:4], "validation": records[4:]})
    shapes = [image.shape[:2] for image in images]
    assert sizes == {"train": shapes[:4], "validation": shapes[4:]}
    mean, std = mean_and_std(counts)
    assert counts.sum() == 3 * sum(height * width for height, width in shapes[:4])
    assert mean == pytest.approx(_all_pixels(images[:4]).mean(axis=0))
    assert std == pytest.approx(_all_pixels(images[:4]).std(axis=0))
    (tmp_path / "5.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"5\.png: is empty"):
        measure_images({"train": records})


MEASURED_WITH_EIGHT_THREADS = """
import os, resource, sys
from pathlib import Path
os.sched_getaffinity = lambda _: set(range(8))
from data_loader.records.records import Record
from data_loader.records.statistics import measure_images
records = [Record(Path(path), path, path, {}, "") for path in sys.argv[1:]]
measure_images({"train": records[:1]})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
measure_images({"train": records[1:]})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_of_large_images_one_is_in_memory_at_a_time(tmp_path: Path) -> None:
    """Each is 48 MB as RGB and takes five times as much while it is decoded and counted; eight threads ask for them."""
    paths = [tmp_path / f"{number}.png" for number in range(9)]
    for number, path in enumerate(paths):
        side = 4000 if number else 8
        grey = np.tile(np.arange(side, dtype=np.uint16 if number % 2 else np.uint8), (side, 1))
        Image.fromarray(grey).save(path, compress_level=1)
    command = [sys.executable, "-c", MEASURED_WITH_EIGHT_THREADS, *map(str, paths)]
    made = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3])
    assert int(made.stdout) < 350 * 1024


def test_labels_are_counted_on_each_side() -> None:
    labels = LabelSpace(
        {"gender": {"classes": ["male", "female"]}, "age": {"bins": [30, 60], "training_bins": [20, 30, 60]}}
    )
    stream = np.random.default_rng(3)
    records = []
    for number in range(200):
        gender = ("male", "female", "")[stream.integers(3)]
        age = (None, str(stream.integers(18, 71)))[stream.integers(2)]
        name = f"{number}.jpg"
        records.append(Record(Path(name), name, f"p{number // 3}", {"gender": gender, "age": age}, ""))
    sides = {"train": records[:150], "validation": records[150:]}
    found = label_statistics({side: LabelTable.of(own, labels) for side, own in sides.items()})
    for side, own in sides.items():
        statistics: dict[str, Any] = found[side]
        genders = Counter(record.attributes["gender"] for record in own)
        assert statistics["images"] == len(own)
        assert statistics["persons"] == len({record.person for record in own})
        gender = statistics["attributes"]["gender"]
        assert gender["unknown"] == {"images": genders[""], "share": genders[""] / len(own)}
        known = len(own) - genders[""]
        assert gender["classes"]["male"] == {"images": genders["male"], "share": genders["male"] / known}
        ages = [int(record.attributes["age"]) for record in own if record.attributes["age"]]
        numbers = statistics["attributes"]["age"]["numbers"]
        assert (numbers["lowest"], numbers["median"], numbers["highest"]) == (min(ages), np.median(ages), max(ages))
        assert numbers["histogram"] == {
            f"{low}-{low + 4}": sum(low <= age < low + 5 for age in ages) for low in range(15, 71, 5)
        }
        both = Counter(
            f"{record.attributes['gender']} {'<30' if int(record.attributes['age']) < 30 else ''}"
            for record in own
            if record.attributes["age"] and record.attributes["gender"]
        )
        assert statistics["answer"]["classes"]["male <30"]["images"] == both["male <30"]
        assert statistics["answer"]["unknown"]["images"] == len(own) - both.total()
        assert statistics["training_classes"]["age"]["20-29"] == sum(20 <= age < 30 for age in ages)
    assert "numbers" not in found["train"]["attributes"]["gender"]


def test_what_is_known_of_no_image() -> None:
    labels = LabelSpace({"age": {"bins": [30]}})
    table = LabelTable.of([Record(Path("a.jpg"), "a.jpg", "a", {}, "")], labels)
    found = label_statistics({"train": table})["train"]
    assert found["attributes"]["age"]["numbers"] == {}
    assert found["attributes"]["age"]["classes"]["<30"] == {"images": 0, "share": 0.0}
    assert found["attributes"]["age"]["unknown"] == {"images": 1, "share": 1.0}


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([18, 21], ["18", "19", "20", "21"]),
        ([7], ["7"]),
        ([18, 60], ["15-19", "20-24", "25-29", "30-34", "35-39", "40-44", "45-49", "50-54", "55-59", "60-64"]),
        ([0.25, 0.5], ["0.25-0.3", "0.3-0.35"]),
        ([0, 900.5], ["0-100", "100-200"]),
        ([-3, 3], ["-3", "-2"]),
        ([], []),
    ],
)
def test_bins_of_a_histogram(values: list[float], names: list[str]) -> None:
    width, found = histogram_bins(values)
    assert len(found) <= 12
    assert list(found.values())[: len(names)] == names
    assert {math.floor(value / width) for value in values} <= found.keys()


@pytest.mark.parametrize("seed", range(50))
def test_any_numbers_fit_in_few_bins(seed: int) -> None:
    stream = np.random.default_rng(seed)
    values = (stream.normal(size=30) * 10.0 ** stream.integers(-4, 5)).tolist()
    width, names = histogram_bins(values)
    assert 1 <= len(names) <= 12
    assert {int(np.floor(value / width)) for value in values} <= names.keys()


def test_sizes() -> None:
    sizes = [(512, 384)] * 3 + [(100, 50), (90, 600), (90, 600), (1, 2), (3, 4)]
    assert size_statistics(sizes) == {
        "height": {"lowest": 1, "median": 95.0, "highest": 512},
        "width": {"lowest": 2, "median": 384.0, "highest": 600},
        "most_frequent": [
            {"height": 512, "width": 384, "images": 3},
            {"height": 90, "width": 600, "images": 2},
            {"height": 100, "width": 50, "images": 1},
        ],
    }
