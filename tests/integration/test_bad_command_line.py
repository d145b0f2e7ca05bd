"""Wrong command lines, devices that are not there, places that cannot be written, and Ctrl-C: one line each."""

from __future__ import annotations

import importlib
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import experiment.builders as builders
from data_loader import datasets
from tests.integration.workplace import Outcome, Workplace
from utils import files
from utils.errors import ConfigError


@pytest.mark.parametrize(
    ("target", "line"),
    [
        pytest.param("gone", ("gone: there is no such",), id="67-no-folder"),
        pytest.param("saved", ("saved: holds no checkpoint", "name a run folder"), id="67-above-the-runs"),
        pytest.param("tiny.json", ("tiny.json: is not a checkpoint",), id="67-a-config"),
    ],
)
@pytest.mark.parametrize("script", ["train", "test"])
def test_resume_of_nothing(trained: Workplace, script: str, target: str, line: tuple[str, ...]) -> None:
    trained.write_config()
    before = trained.files()
    outcome: Outcome = getattr(trained, script)("--resume", target)
    outcome.check_refusal(4, line)
    assert trained.files() == before


def test_67_a_checkpoint_of_no_such_name(trained: Workplace) -> None:
    outcome = trained.test("--resume", trained.run, "--checkpoint", "bset")
    outcome.check_refusal(4, (f"{trained.run}: has no checkpoint 'bset'; it has best_f1, last, model_best",))


def test_67_auto_with_nothing_to_go_on_with_begins(workplace: Workplace) -> None:
    workplace.train("--config", workplace.write_config(), "--resume", "auto").check_success()
    assert len(workplace.runs) == 1


DEVICES = {
    "68-several": ("0,1", "CUDA_VISIBLE_DEVICES=0,1 torchrun --nproc-per-node=2"),
    "68-no-device": ("gpu", "is not a device; name cpu, cuda or cuda:<number>"),
    "68-another-kind": ("mps", "only cpu and cuda are supported"),
}


@pytest.mark.parametrize("case", DEVICES)
def test_a_device_that_is_not_there(trained: Workplace, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    name, expected = DEVICES[case]
    before = trained.files()
    for command in (trained.train, trained.test):
        command("--resume", trained.run, "--device", name).check_refusal(2, (f"--device {name}: ", expected))
    assert trained.files() == before


WRONG_FLAGS = {
    "69-unknown": ("train", ["--spochs=3"], ("--spochs is not a known flag", "--help lists them")),
    "69-a-key": ("train", ["--epochs", "3"], ("--epochs is not a known flag; write --set trainer.epochs=3",)),
    "69-a-key-and-a-flag": ("train", ["--batch-size", "-c", "x"], ("write --set data_loader.args.batch_size=...",)),
    "69-a-key-of-three": (
        "train",
        ["--weight=1"],
        ("--set loss.heads.mask.weight=1 or --set loss.heads.gender.weight=1 or --set loss.heads.age.weight=1",),
    ),
    "69-no-flag": ("train", ["tiny.json"], ("'tiny.json' belongs to no flag", "--help")),
    "69-no-value": ("train", ["--config"], ("--config", "expected one argument")),
    "69-a-typo-of-test": (
        "test",
        ["-r", "x", "--chekpoint", "y"],
        ("--chekpoint is not a known flag", 'did you mean "--checkpoint"?'),
    ),
    "69-nothing-to-test": ("test", [], ("-r/--resume",)),
    "69-no-side": ("test", ["-r", "x", "--split", "tset"], ("--split", "'tset'", "validation")),
    "69-batches-of-none": ("test", ["-r", "x", "--bs", "0"], ("--bs 0: must be at least 1",)),
    "69-fewer-than-no-workers": ("test", ["-r", "x", "--num-workers", "-1"], ("--num-workers -1: must be a whole",)),
}


def test_a_run_that_is_not_there_and_those_that_may_be_meant(trained: Workplace) -> None:
    run = str(trained.run)
    for script in (trained.train, trained.test):
        for path, hint in {
            run.replace("2", "3"): f"did you mean {run}?",
            "nonsense": f"the newest runs are {run}",
            f"{run}/model_bst.pth": 'did you mean "model_best.pth"?',
            f"{run}/x": "its folder holds best_f1.pth, last.pth, model_best.pth",
        }.items():
            script("--resume", path).check_refusal(4, (f"{path}: there is no such run folder or checkpoint; {hint}",))


def test_a_file_of_another_kind_is_no_run(trained: Workplace) -> None:
    """What is named instead can be resumed."""
    trained.write("README.md", "# A project")
    for script in (trained.train, trained.test):
        outcome = script("--resume", "README.md")
        outcome.check_refusal(4, ("README.md: is not a checkpoint", "name a run folder"))
        assert "state_dict" not in outcome.err


@pytest.mark.parametrize("case", WRONG_FLAGS)
def test_a_wrong_flag(empty_workplace: Workplace, case: str) -> None:
    script, argv, expected = WRONG_FLAGS[case]
    outcome: Outcome = getattr(empty_workplace, script)(*argv)
    outcome.check_refusal(2, ("", *expected))
    assert outcome.out == ""


COMMANDS = [
    "data_stats",
    "evaluate",
    "new_project",
    "plot_run",
    "predict",
    "prepare",
    "probe",
    "runs",
    "soup",
    "sweep",
    "tune",
]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_names_itself_as_it_is_called(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^scripts\.{name}: "):
        importlib.import_module(f"scripts.{name}").main(["--nonsense"])


def test_the_environment_of_torchrun_is_checked(empty_workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "first")
    outcome = empty_workplace.train("--config", empty_workplace.write_config())
    outcome.check_refusal(2, ("environment variable RANK = 'first' is not a whole number", "torchrun"))


def test_a_side_that_the_run_does_not_have(trained: Workplace) -> None:
    outcome = trained.test("--resume", trained.run, "--split", "test")
    outcome.check_refusal(2, ("--split test: ", "no test images", "--info-dir"))


@pytest.mark.usefixtures("no_image_is_opened")
@pytest.mark.parametrize(
    ("output", "more", "expected"),
    [
        ("", [], "--output '': names no file"),
        ("data", [], "data: cannot be written"),
        ("tiny.json/answers.csv", [], "tiny.json/answers.csv: cannot be written"),
        ("link to a pipe", [], "link to a pipe: cannot be written: is no regular file"),
        ("link to a table", [], "link to a table: cannot be written: is what this command reads"),
        ("data/train/train.csv", [], "data/train/train.csv: cannot be written: is what this command reads"),
        ("truth.csv", ["--parts"], "truth_part1.csv: cannot be written: is what this command reads"),
        ("x.csv", ["--probabilities"], "x_probabilities.csv: cannot be written: is a folder"),
        ("model.pth", [], "model.pth: cannot be written: is what this command reads"),
    ],
)
def test_an_output_that_must_not_be_written_is_refused_first(
    trained: Workplace, output: str, more: list[str], expected: str
) -> None:
    os.mkfifo(trained.folder / "pipe")
    (trained.folder / "link to a pipe").symlink_to("pipe")
    (trained.folder / "link to a table").symlink_to("data/eval/info.csv")
    trained.write_config()
    (trained.folder / "x_probabilities.csv").mkdir()
    (trained.folder / "model.pth").symlink_to(trained.run / "last.pth")
    trained.write("truth_part1.csv", (trained.info_dir / "info.csv").read_bytes())
    before = trained.files()
    argv = ("--resume", "model.pth", "--answers", "truth_part1.csv", "--output", output, *more)
    trained.test(*argv).check_refusal(2, (expected,))
    assert trained.files() == before


def test_a_full_disk_at_the_submission(trained: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, _data: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(files, "_write_and_flush", full)
    run = trained.run
    outcome = trained.test("--resume", run)
    outcome.check_refusal(74, (f"submit/Tiny_{run.name}.csv: ", "No space left on device"))
    assert list((trained.folder / "submit").iterdir()) == []


def test_ctrl_c_before_training_leaves_no_run(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    def press(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(builders, "read_records", press)
    outcome = workplace.train("--config", workplace.write_config())
    outcome.check_refusal(130, "stopped by SIGINT")
    assert workplace.runs == []


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_a_signal_during_prediction(
    trained: Workplace, number: signal.Signals, exit_code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = datasets.read_rgb

    def signal_and_read(path: Path, bits: Any = 16) -> Any:
        os.kill(os.getpid(), number)
        monkeypatch.setattr(datasets, "read_rgb", real)
        return real(path, bits)

    monkeypatch.setattr(datasets, "read_rgb", signal_and_read)
    outcome = trained.test("--resume", trained.run, "--bs", "2")
    outcome.check_refusal(exit_code, f"stopped by {number.name}")
    assert trained.submissions == []


def test_a_run_begins_only_once_all_is_known_to_be_right(workplace: Workplace) -> None:
    """A schedule that ends before the run is known only when the data is: then no run has begun either."""
    schedule = {"type": "OneCycleLR", "args": {"max_lr": 0.01, "total_steps": 3}}
    outcome = workplace.train("--config", workplace.write_config({"lr_scheduler": schedule}))
    outcome.check_refusal(
        2, ("tiny.json: lr_scheduler.args = ", "ends after 3 steps, and the run takes 5", "leave total_steps")
    )
    assert workplace.runs == []
