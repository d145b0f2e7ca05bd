"""Several processes train and predict as one does, and end together."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import test as test_script
from tests.harness.forked import TEST, TRAIN
from tests.harness.group import PLANTED_ERROR, Stop, run_group
from tests.integration.drawn_road import ROOT, files_of, resume, run, weights_and_metrics, write_config
from utils.checkpoint.checkpoint_file import read_checkpoint
from utils.errors import ConfigError

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


def in_processes(number: int, config: Path, *arguments: str, stop: Stop | None = None) -> tuple[bool, str]:
    """Trains; whether to its end, and what was printed."""
    output = config.parent / "output.txt"
    output.unlink(missing_ok=True)
    is_over = run_group(TRAIN, ["-c", str(config), *arguments], config.parent, number, stop)
    return is_over, output.read_text()


def only_run(save_dir: Path) -> Path:
    """It is written by one process."""
    (models,) = (save_dir / "models" / "Road").iterdir()
    return models


def with_unknown_labels(drawn: Path, folder: Path) -> dict[str, Any]:
    """A table of which most genders, and some ages, are unknown: many a batch of a process knows none."""
    rows = []
    for number, path in enumerate(sorted((drawn / "train" / "images").rglob("*.*"))):
        _, gender, _, age = path.parent.name.split("_")
        mask = {"i": "incorrect", "n": "not_wear"}.get(path.stem[0], "wear")
        known_gender = gender if int(path.parent.name[:6]) % 4 == 1 else ""
        rows.append([str(path.relative_to(drawn)), path.parent.name, mask, known_gender, age if number % 3 else ""])
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "person", "mask", "gender", "age"], *rows])
    return {"type": "AttributeTable", "args": {"path": str(folder / "table.csv"), "root": str(drawn)}}


def test_two_processes_equal_one_with_twice_the_batch(tmp_path: Path, drawn: Path) -> None:
    """With a model without batch statistics, and labels of which many are unknown; the images of an odd validation set
    are each scored once. Two are stopped within an epoch, then three within a validation, and one process ends it."""
    config = write_config(tmp_path, drawn, **EVERYTHING, data=[with_unknown_labels(drawn, tmp_path)])
    single = run(config, "--set", "trainer.epochs=2", "--bs", "12")
    several = ["--set", "trainer.epochs=2", "--set", f"trainer.save_dir={tmp_path / 'several'}", "--resume", "auto"]
    is_over, text = in_processes(2, config, *several, "--bs", "6", stop=Stop(1, "SIGTERM", 1))
    models = only_run(tmp_path / "several")
    assert not is_over
    assert "Warning" not in text
    assert text.count("stopped by SIGTERM; saved in") == 1
    assert read_checkpoint(models / "last.pth")["batches_done"] == 2  # of 4: they agree in the next update

    with pytest.raises(ConfigError) as refused:
        run(config, *several, "--bs", "6")
    wrong = "data_loader.args.batch_size = 6 on 1 process, and the run was trained with 6 on 2; --bs 12 keeps"
    assert wrong in str(refused.value)
    flags = ["--bs", "4", "--set", "trainer.verbosity=1"]
    is_over, text = in_processes(3, config, *several, *flags, stop=Stop(2, "validation", 1))
    assert not is_over
    assert text.count("processes that train it: 2 before, 3 now") == 1
    content = read_checkpoint(models / "last.pth")
    assert (content["completed_epochs"], content["batches_done"], content["world_size"]) == (0, 4, 3)
    assert run(config, *several, "--bs", "12") == models

    weights, metrics = weights_and_metrics(models)
    expected, expected_metrics = weights_and_metrics(single)
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=1e-5)
    for line, expected_line in zip(metrics.splitlines(), expected_metrics.splitlines(), strict=True):
        assert json.loads(line).keys() == json.loads(expected_line).keys()
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


def test_two_processes_validate_the_model_that_they_save_and_predict_as_one(tmp_path: Path, drawn: Path) -> None:
    """With batch statistics, which every process has of its own until they are shared; and a loss that in one of them
    is once not finite: both skip that update. test.py's files are equal to the bit."""
    (tmp_path / "once.py").write_text(LOSS)
    config = write_config(
        tmp_path,
        drawn,
        plugins=[str(tmp_path / "once.py")],
        loss={"heads": {"mask": {"type": "OnceNoNumber"}}},
        split={"type": "KFoldSplit", "args": {"folds": 2}},
    )
    is_over, text = in_processes(2, config, "--bs", "4")
    assert is_over, text
    models = only_run(tmp_path / "saved")
    for fold in (models / "fold_0", models / "fold_1"):
        metrics = tmp_path / "saved" / "log" / "Road" / models.name / fold.name / "metrics.jsonl"
        lines = [json.loads(line) for line in metrics.read_text().splitlines()]
        skipped = [1.0 if fold.name == "fold_0" else None] + [None] * (len(lines) - 1)
        assert [each.get("train/skipped_updates") for each in lines] == skipped
        flags = ["--resume", str(fold), "--split", "validation", "--checkpoint", "last"]
        for row in test_script.main(flags).scores:
            prefix = "" if row.name == "answer" else f"{row.name}_"
            assert row.macro_f1 == pytest.approx(lines[-1][f"val/{prefix}f1"])
            assert row.accuracy == pytest.approx(lines[-1][f"val/{prefix}accuracy"])

    before = files_of(models)
    with pytest.raises(ConfigError, match="--bs 8 keeps the global batch of 8"):
        resume(str(models))
    resume(str(models), "--bs", "8")  # it is finished
    assert files_of(models) == before

    flags = ["--resume", str(models), "--bs", "4", "--tta", "flip", "--probabilities", "--parts", "--output"]
    for folder in (tmp_path / "one", tmp_path / "several"):
        folder.mkdir()
    test_script.main([*flags, str(tmp_path / "one" / "x.csv")])
    assert run_group(TEST, [*flags, "x.csv"], tmp_path / "several", 3)
    expected = {path.name: path.read_bytes() for path in (tmp_path / "one").glob("*.csv")}
    assert len(expected) == 6
    assert {path.name: path.read_bytes() for path in (tmp_path / "several").glob("*.csv")} == expected


def test_an_error_of_one_process_ends_all_with_one_line(tmp_path: Path, drawn: Path) -> None:
    config = write_config(tmp_path, drawn)
    is_over, text = in_processes(2, config, "--bs", "4", stop=Stop(1, "error", 2))
    assert not is_over
    said = [line for line in text.splitlines() if "warning" not in line and not line.startswith("config: ")]
    assert said == [PLANTED_ERROR, "torchrun: ChildFailedError"]


def test_what_is_wrong_with_a_config_is_said_once(tmp_path: Path, drawn: Path) -> None:
    """Whether it is wrong before the processes have met, or after."""
    config = write_config(tmp_path, drawn)
    for key, value in (("nonsense", "1"), ("trainer.sync_batch_norm", "true")):
        is_over, text = in_processes(2, config, "--set", f"{key}={value}")
        assert not is_over
        assert text.count(f"{key} ") == 1, text


@pytest.mark.long
def test_torchrun_itself(tmp_path: Path, drawn: Path) -> None:
    """The others are forked by its agent, which is faster."""
    config = write_config(tmp_path, drawn)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "train.py", "-c"]
    for arguments, code in (([str(config), "--bs", "4"], 0), ([str(config), "--bs", "no"], 1)):
        finished = subprocess.run([*command, *arguments], cwd=ROOT, text=True, capture_output=True, check=False)
        assert finished.returncode == code, finished.stderr
        assert finished.stderr.count("--bs no: ") == code
    assert only_run(tmp_path / "saved")
