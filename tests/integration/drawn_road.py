"""What the tests of whole runs on drawn faces share: a config of a few lines, the commands, and what they leave."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import train as train_script
from scripts.make_demo_data import make_demo_data
from trainer.learner import Learner
from utils.checkpoint.checkpoint_file import read_checkpoint

ROOT = Path(__file__).parents[2]


def draw_small_data(folder: Path) -> Path:
    """Ten drawn people to train on, three to answer; a quarter of the size, as hundreds of runs decode them."""
    make_demo_data(folder, 10, 3, seed=5, workers=1)
    for path in folder.rglob("images/**/*.*"):
        with Image.open(path) as photograph:
            small = photograph.reduce(4)
        small.save(path)
    return folder


def write_config(folder: Path, drawn: Path, **changes: Any) -> Path:
    values = {
        "extends": os.path.relpath(ROOT / "configs" / "demo.json", folder),
        "name": "Road",
        "data": [{"type": "CompetitionFolder", "args": {"root": str(drawn / "train")}}],
        "split": {"args": {"validation_share": 0.3}},
        "data_loader": {"args": {"batch_size": 8, "valid_batch_size": 5, "input_size": [40, 32], "num_workers": 0}},
        "arch": {"type": "BaselineCNN", "args": {"width": 4, "drop_rate": 0.2}},
        "optimizer": {"type": "Adam", "args": {"lr": 0.01, "amsgrad": True}},
        "lr_scheduler": {"type": "OneCycleLR", "args": {"max_lr": 0.02}},
        "trainer": {"epochs": 3, "save_dir": str(folder / "saved"), "verbosity": 0, "tensorboard": False},
        "submit_dir": str(folder / "submit"),
        "info_dir": str(drawn / "eval"),
        **changes,
    }
    path = folder / "road.json"
    path.write_text(json.dumps(values))
    return path


def run(config: Path, *arguments: str) -> Path:
    """Trains in this process and returns the run's folder of checkpoints."""
    result = train_script.main(["-c", str(config), *arguments])
    assert result is not None
    return result.folders.models


def stop_after_updates(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """SIGTERM after the `count`th update of this process, whatever model it is of."""
    update, updates = Learner.update, itertools.count(1)

    def update_and_stop(learner: Learner, *arguments: Any) -> bool:
        result = update(learner, *arguments)
        if next(updates) == count:
            signal.raise_signal(signal.SIGTERM)
        return result

    monkeypatch.setattr(Learner, "update", update_and_stop)


def resume(*arguments: str) -> None:
    train_script.main(["--resume", *arguments])


def weights_and_metrics(models: Path) -> tuple[dict[str, torch.Tensor], bytes]:
    log = models.parents[2] / "log" / models.parent.name / models.name
    return read_checkpoint(models / "last.pth")["model"], (log / "metrics.jsonl").read_bytes()


def assert_same_weights(first: Path, second: Path) -> None:
    """Of two folders of checkpoints."""
    weights, others = (read_checkpoint(models / "last.pth")["model"] for models in (first, second))
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        assert torch.equal(tensor, others[name]), name


def assert_same_end(first: Path, second: Path) -> None:
    """Of two runs: the weights, and the metrics of all epochs."""
    assert_same_weights(first, second)
    assert weights_and_metrics(first)[1] == weights_and_metrics(second)[1]


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def start(config: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "train.py", "-c", str(config), *arguments],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
