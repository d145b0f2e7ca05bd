"""Small data sets, made on the fly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from base.label_space import LabelSpace
from data_loader.cache import MemoryCache
from data_loader.records import Record


@pytest.fixture(autouse=True)
def _nothing_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """No images that an earlier test has cached."""
    monkeypatch.setattr(MemoryCache, "_kept", {})


STEMS = ("mask1", "mask2", "mask3", "mask4", "mask5", "incorrect_mask", "normal")


@pytest.fixture(scope="session")
def labels() -> LabelSpace:
    return LabelSpace(
        {
            "mask": {"classes": ["wear", "incorrect", "not_wear"]},
            "gender": {"classes": ["male", "female"]},
            "age": {"bins": [30, 60], "limits": [0, 120]},
        }
    )


@pytest.fixture
def competition(tmp_path: Path) -> Callable[[list[tuple[str, str, str]]], Path]:
    """A function of (id, gender, age) rows that makes train.csv and the folders of empty photographs."""

    def make(people: list[tuple[str, str, str]]) -> Path:
        root = tmp_path / "my_train_data"
        rows = ["id,gender,race,age,path"]
        for identity, gender, age in people:
            folder = f"{identity}_{gender}_Asian_{age}"
            (root / "images" / folder).mkdir(parents=True)
            for stem in STEMS:
                (root / "images" / folder / f"{stem}.jpg").touch()
            rows.append(f"{identity},{gender},Asian,{age},{folder}")
        (root / "train.csv").write_text("\n".join(rows) + "\n")
        return root

    return make


@pytest.fixture(scope="session")
def image_records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """26 photographs of noise, 40 x 30, as JPEG files; every third gender is unknown."""
    folder = tmp_path_factory.mktemp("images")
    stream = np.random.default_rng(0)
    records = []
    for number in range(26):
        path = folder / f"{number:02}.jpg"
        cv2.imwrite(str(path), stream.integers(0, 256, (40, 30, 3), dtype=np.uint8))
        attributes = {
            "mask": ("wear", "incorrect", "not_wear")[number % 3],
            "gender": None if number % 3 == 0 else "female",
            "age": str(20 + 2 * number),
        }
        records.append(Record(path, path.name, f"person{number // 2}", attributes, f"row {number}"))
    return records
