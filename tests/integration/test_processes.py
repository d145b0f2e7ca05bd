"""Two processes train as one does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import test as test_script
from tests.integration.drawn_road import ROOT, run, weights_and_metrics, write_config

EVERYTHING: dict[str, Any] = {
    "arch": {"type": "TimmModelMulti", "args": {"model_name": "test_convnext", "pretrained": False}},
    "optimizer": {
        "type": "SGD",
        "args": {"lr": 0.05, "momentum": 0.9},
        "sharpness_aware": {"rho": 0.05},
        "layer_decay": 0.8,
    },
    "lr_scheduler": None,
    "loss": {"head_weights": "learned", "heads": {"age": {"args": {"class_weights": "balanced"}}}},
    "sampler": {"type": "RepeatSampler", "args": {"times": {"mask": {"incorrect": 2}}}},
    "freezing": {"stages": 1, "epochs": 1},
    "preparation": [{"type": "FaceCrop", "args": {"detector": "haar"}}],
    "weight_averaging": {"type": "ExponentialMovingAverage", "args": {"decay": 0.9}},
}


def run_in_two_processes(config: Path, save_dir: Path, *arguments: str) -> Path:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "train.py",
        "-c", str(config), "--bs", "4", "--set", f"trainer.save_dir={save_dir}", *arguments,
    ]  # fmt: skip
    finished = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=120, check=False)
    assert finished.returncode == 0, finished.stderr
    assert "Warning" not in finished.stdout + finished.stderr
    (models,) = (save_dir / "models" / "Road").iterdir()  # written by one process
    return models


def test_two_processes_equal_one_with_twice_the_batch(tmp_path: Path, drawn: Path) -> None:
    """With a model without batch statistics; the images of an odd validation set are each scored once."""
    config = write_config(tmp_path, drawn, **EVERYTHING)
    single = run(config, "--set", "trainer.epochs=2")
    both = run_in_two_processes(config, tmp_path / "both", "--set", "trainer.epochs=2")
    weights, metrics = weights_and_metrics(both)
    expected, expected_metrics = weights_and_metrics(single)
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=1e-5)
    for line, expected_line in zip(metrics.splitlines(), expected_metrics.splitlines(), strict=True):
        for name, value in json.loads(expected_line).items():
            assert json.loads(line)[name] == pytest.approx(value, rel=1e-3, abs=1e-6), name


LOSS = """
import os
import torch
from model.loss import CrossEntropyLoss

class OnceNoNumber(CrossEntropyLoss):
    calls = 0

    def per_sample(self, logits, target):
        type(self).calls += torch.is_grad_enabled() and logits.requires_grad
        wrong = os.environ.get("RANK") == "1" and self.calls == 2
        return super().per_sample(logits, target) * (float("nan") if wrong else 1.0)
"""


def test_two_processes_validate_the_model_that_they_save(tmp_path: Path, drawn: Path) -> None:
    """With batch statistics, which every process has of its own until they are shared; and a loss that in one of them
    is once not finite: both skip that update."""
    (tmp_path / "once.py").write_text(LOSS)
    config = write_config(
        tmp_path, drawn, plugins=[str(tmp_path / "once.py")], loss={"heads": {"mask": {"type": "OnceNoNumber"}}}
    )
    models = run_in_two_processes(config, tmp_path / "both")
    lines = [json.loads(line) for line in weights_and_metrics(models)[1].splitlines()]
    assert [each.get("train/skipped_updates") for each in lines] == [1.0] + [None] * (len(lines) - 1)
    line = lines[-1]
    flags = ["--resume", str(models), "--split", "validation", "--checkpoint", "last"]
    for row in test_script.main(flags).scores:
        prefix = "" if row.name == "answer" else f"{row.name}_"
        assert row.macro_f1 == pytest.approx(line[f"val/{prefix}f1"])
        assert row.accuracy == pytest.approx(line[f"val/{prefix}accuracy"])
