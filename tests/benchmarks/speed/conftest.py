"""A workplace at a hundredth of its size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.speed.workplace import SEED, Scale, Workplace
from scripts.make_demo_data import make_demo_data

TINY = Scale(
    rounds=2,
    people=2,
    eval_people=1,
    decoded_images=12,
    cached_images=20,
    files=20,
    side=32,
    batch_size=4,
    seconds=0.02,
    gpu_images=8,
)


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    make_demo_data(folder, TINY.people, TINY.eval_people, SEED, workers=1)  # which are soon done, and slow to start
    return folder


@pytest.fixture
def workplace(tmp_path: Path, photographs: Path) -> Workplace:
    return Workplace(tmp_path, photographs, TINY, torch.device("cpu"))
