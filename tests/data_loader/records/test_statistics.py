"""Statistics of a set of images, against numpy over all pixels and counting by hand."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from base.label_space import LabelSpace
from data_loader.records import statistics as data_statistics
from data_loader.records.records import Record
from data_loader.records.statistics import (
    PixelCounts,
    histogram_bins,
    label_statistics,
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


def test_mean_and_std_are_numpys_over_all_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    images = _images()
    expected = _all_pixels(images)
    for at_once in (2**23, 7):
        monkeypatch.setattr(data_statistics, "_PIXELS_AT_ONCE", at_once)
        counts = PixelCounts()
        for image in images:
            counts.add(image)
        mean, std = counts.mean_and_std()
        assert counts.num_pixels == len(expected)
        assert mean == pytest.approx(expected.mean(axis=0), abs=1e-12)
        assert std == pytest.approx(expected.std(axis=0), abs=1e-12)


def test_nothing_is_rounded_off() -> None:
    """A million million pixels of 254 and one of 255: in float64 the sums of squares would lose the difference."""
    counts = PixelCounts()
    counts.counts[:, 254] = 10**12
    counts.counts[:, 255] = 1
    mean, std = counts.mean_and_std()
    assert mean == pytest.approx([254 / 255] * 3)
    assert std == pytest.approx([1e-6 / 255] * 3, rel=1e-9)


def test_images_are_measured_by_side(tmp_path: Path) -> None:
    images = _images(6, seed=1)
    records = []
    for number, image in enumerate(images):
        path = tmp_path / f"{number}.png"
        Image.fromarray(image).save(path)
        records.append(Record(path, path.name, str(number), {}, ""))
    sizes, pixels = measure_images({"train": records[:4], "validation": records[4:]})
    shapes = [image.shape[:2] for image in images]
    assert sizes == {"train": shapes[:4], "validation": shapes[4:]}
    mean, std = pixels.mean_and_std()
    assert mean == pytest.approx(_all_pixels(images[:4]).mean(axis=0))
    assert std == pytest.approx(_all_pixels(images[:4]).std(axis=0))
    (tmp_path / "5.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"5\.png: is empty"):
        measure_images({"train": records})


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
    found = label_statistics(sides, labels)
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
    found = label_statistics({"train": [Record(Path("a.jpg"), "a.jpg", "a", {}, "")]}, labels)["train"]
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
