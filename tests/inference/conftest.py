"""What the tests of answering share: small untrained models in checkpoints, and a few images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from base.label_space import LabelSpace
from base.preprocessing import Preprocessing
from data_loader.records.records import Record
from inference.ensemble import EnsemblePrediction
from inference.predictor import Probabilities
from model.model import BaselineCNN
from utils.checkpoint.checkpoint_file import write_checkpoint
from utils.random_streams import numpy_stream

MakeCheckpoint = Callable[..., Path]


def joint_of(predicted: Probabilities | EnsemblePrediction) -> torch.Tensor:
    assert predicted.joint is not None
    return predicted.joint


def resize(height: int, width: int) -> list[dict[str, Any]]:
    return [{"type": "Resize", "args": {"height": height, "width": width}}]


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> MakeCheckpoint:
    """Writes the checkpoint of an untrained model, sharpened so that its answers differ between images."""

    def make(
        labels: LabelSpace,
        seed: int = 1,
        image_hw: tuple[int, int] = (24, 20),
        mean: tuple[float, float, float] = (0.5, 0.4, 0.3),
        name: str = "run/model_best.pth",
        config: dict[str, Any] | None = None,
        **content: Any,
    ) -> Path:
        torch.manual_seed(seed)
        model = BaselineCNN({head: each.num_classes for head, each in labels.heads.items()}, width=4)
        for head in labels.heads:
            model.heads.get_parameter(f"head_{head}.weight").data *= 300
        content = {
            "model": model.state_dict(),
            "config": {
                "name": "Test",
                "arch": {"type": "BaselineCNN", "args": {"width": 4}},
                "data_loader": {"args": {"num_workers": 0}},
                "trainer": {},
                "data": [],
                **(config or {}),
            },
            "labels": labels.to_config(),
            "preprocessing": Preprocessing(image_hw, mean, (0.2, 0.25, 0.3), resize(*image_hw)).to_config(),
            "run_name": "run",
            "completed_epochs": 3,
            **content,
        }
        write_checkpoint(tmp_path / name, content)
        return tmp_path / name

    return make


@pytest.fixture
def records(tmp_path: Path) -> list[Record]:
    stream = numpy_stream(1, "images")
    found = []
    for number in range(7):
        path = tmp_path / f"{number}.png"
        Image.fromarray(stream.integers(0, 256, (40 + number, 30, 3)).astype("uint8")).save(path)
        found.append(Record(path, path.name, path.name, {}, "test"))
    return found
