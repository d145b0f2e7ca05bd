"""Statistics of a set of images; tests/scripts/test_data_stats.py compares them with numpy over all pixels."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from base.label_space import LabelSpace
from data_loader.records import LabelTable, Record
from data_loader.records.statistics import label_statistics, mean_and_std


def test_nothing_is_rounded_off() -> None:
    """A million million pixels of 254 and one of 255: in float64 the sums of squares would lose the difference."""
    counts = np.zeros((3, 256), np.int64)
    counts[:, 254] = 10**12
    counts[:, 255] = 1
    mean, std = mean_and_std(counts)
    assert mean == pytest.approx([254 / 255] * 3)
    assert std == pytest.approx([1e-6 / 255] * 3, rel=1e-9)


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


def test_an_attribute_that_is_known_of_no_image() -> None:
    labels = LabelSpace({"age": {"bins": [30]}})
    found = label_statistics(LabelTable.from_records([Record(Path("a.jpg"), "a.jpg", "a", {}, "")], labels))
    assert found["attributes"]["age"]["numbers"] == {}
    assert found["attributes"]["age"]["classes"]["<30"] == {"images": 0, "share": 0.0}
    assert found["attributes"]["age"]["unknown"] == {"images": 1, "share": 1.0}
