"""A run that is stopped, resumed, extended or refused loses nothing."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
import torch

import train as train_script
from experiment import run as experiment_run
from tests.integration.drawn_road import (
    assert_same_end,
    files_of,
    resume,
    run,
    start,
    weights_and_metrics,
    write_config,
)
from utils.checkpoint.checkpoint_file import read_checkpoint, write_checkpoint
from utils.errors import ConfigError, KeyboardStop, StopSignal
from utils.signals import StopSignals

EPOCHS = 30
"""So many that a run is still busy when its signal comes."""


def test_a_run_that_is_stopped_twice_and_resumed_ends_as_an_uninterrupted_one(config: Path, tmp_path: Path) -> None:
    whole = run(config, "--set", f"trainer.epochs={EPOCHS}")
    save_dir, completed = tmp_path / "stopped", 0
    models, metrics = save_dir / "models" / "Road" / "r", save_dir / "log" / "Road" / "r" / "metrics.jsonl"
    flags = ["--set", f"trainer.epochs={EPOCHS}", "--set", f"trainer.save_dir={save_dir}"]
    for number, exit_code, more in (
        (signal.SIGTERM, 75, ["--run-id", "r"]),
        (signal.SIGINT, 130, ["--resume", str(models)]),
    ):
        process = start(config, *flags, *more)
        deadline = time.monotonic() + 60
        while not (metrics.exists() and metrics.read_bytes().count(b"\n") > completed) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == exit_code, errors
        assert len(errors.strip().splitlines()) == 1
        assert f"stopped by {number.name}; saved in" in errors
        earlier, completed = completed, read_checkpoint(models / "last.pth")["completed_epochs"]
        assert earlier < completed < EPOCHS

    resume(str(models), "--set", "data_loader.args.num_workers=1")
    assert_same_end(whole, models)


def test_resume_auto_begins_resumes_and_leaves_a_finished_run_alone(config: Path) -> None:
    first = run(config, "--resume", "auto")
    before = {path.name: path.stat().st_mtime_ns for path in first.glob("*.pth")}
    assert run(config, "--resume", "auto") == first
    assert {path.name: path.stat().st_mtime_ns for path in first.glob("*.pth")} == before
    longer = run(config, "--resume", "auto", "--set", "trainer.epochs=3", "--set", "seed=7")
    assert longer != first


def test_a_resume_that_is_refused_or_finds_nothing_to_do_changes_no_file(config: Path, tmp_path: Path) -> None:
    models = run(config, "--set", "trainer.save_period=1", "--set", "trainer.tensorboard=true")
    before = files_of(tmp_path / "saved")
    resume(str(models))
    for changes in (["trainer.epochs=5"], ["data_loader.args.batch_size=4"], ["trainer.precision=float16"], ["seed=1"]):
        for file in (models, models / "checkpoint-epoch2.pth"):
            with pytest.raises(ConfigError):
                resume(str(file), "--set", *changes)
    assert files_of(tmp_path / "saved") == before


def test_a_finished_run_writes_its_damaged_files_again(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its config is damaged, too: `--resume auto` finds it all the same."""
    models = run(config, "--set", "trainer.save_period=1")
    end = weights_and_metrics(models)
    for name in ("last.pth", "config.json"):
        data = (models / name).read_bytes()
        (models / name).unlink()  # else the copy of the epoch is damaged, too
        (models / name).write_bytes(data[:-9])
    (tmp_path / "saved" / "log" / "Road" / models.name / "metrics.jsonl").write_bytes(end[1][:-9])
    capsys.readouterr()
    assert run(config, "--resume", "auto", "--set", "trainer.save_period=1") == models
    told = capsys.readouterr().out
    assert told.count(f"warning: {models / 'last.pth'}: ") == told.count(f"warning: {models / 'config.json'}: ") == 1
    again = weights_and_metrics(models)
    assert again[1] == end[1]
    assert all(torch.equal(again[0][name], tensor) for name, tensor in end[0].items())


def test_a_dry_run_of_a_finished_run_changes_nothing(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its OneCycleLR has no step left."""
    models = run(config)
    before = files_of(tmp_path / "saved")
    capsys.readouterr()
    train_script.main(["--resume", str(models), "--dry-run", "--set", "trainer.verbosity=1"])
    assert f"{models} is finished (after 3 epochs; --set trainer.epochs" in capsys.readouterr().out
    assert files_of(tmp_path / "saved") == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_stops_before_its_first_step_names_how_to_resume(
    config: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """As its images are prepared."""
    models = run(config)

    def stopped(*_: object) -> None:
        stop = StopSignals()
        stop.received = number
        stop.raise_if_requested()

    monkeypatch.setattr(experiment_run.builders, "build_data_loader", stopped)
    kind = KeyboardStop if number == signal.SIGINT else StopSignal
    with pytest.raises(kind, match=f"{number.name}.*--resume {models}$") as caught:
        resume(str(models))
    assert type(caught.value) is kind
    with pytest.raises(kind, match=f"^stopped by {number.name}$"):
        run(config)


def test_resuming_an_earlier_epoch_discards_what_came_after_it(tmp_path: Path, drawn: Path) -> None:
    config = write_config(tmp_path, drawn, lr_scheduler=None)
    models = run(config, "--set", "trainer.save_period=1")
    end = weights_and_metrics(models)
    resume(str(models / "checkpoint-epoch1.pth"))
    again = weights_and_metrics(models)
    assert again[1] == end[1]
    assert all(torch.equal(again[0][name], tensor) for name, tensor in end[0].items())


def test_a_kill_before_the_trackers_begin_does_not_lose_their_runs(
    tmp_path: Path, drawn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resume of an earlier epoch saves last.pth, then cuts the metrics, then connects to wandb."""
    models = run(write_config(tmp_path, drawn, lr_scheduler=None), "--set", "trainer.save_period=1")
    earlier = models / "checkpoint-epoch1.pth"
    write_checkpoint(earlier, {**read_checkpoint(earlier), "trackers": {"wandb": {"run_id": "abc"}}})

    def killed(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(experiment_run.builders, "build_trackers", killed)
    with pytest.raises(ZeroDivisionError):
        resume(str(earlier))
    last = read_checkpoint(models / "last.pth")
    assert (last["completed_epochs"], last["trackers"]) == (1, {"wandb": {"run_id": "abc"}})


@pytest.mark.parametrize("log", ["moved too", "gone"])
def test_a_run_that_was_renamed_resumes_where_it_is(config: Path, tmp_path: Path, log: str) -> None:
    flags = ("--set", "lr_scheduler=null")
    whole = run(config, *flags)
    began = run(config, *flags, "--set", "trainer.epochs=2")
    first_log = tmp_path / "saved" / "log" / "Road" / began.name
    moved = began.rename(began.with_name("renamed"))
    if log == "moved too":
        first_log.rename(first_log.with_name("renamed"))
    resume(str(moved), "--set", "trainer.epochs=3")
    weights, _ = weights_and_metrics(whole)
    resumed, metrics = weights_and_metrics(moved)
    assert all(torch.equal(resumed[name], tensor) for name, tensor in weights.items())
    epochs = [json.loads(line)["epoch"] for line in metrics.splitlines()]
    assert epochs == [1, 2, 3]  # the checkpoint has what was logged


def test_a_run_that_was_moved_out_of_its_save_dir_keeps_its_log_in_itself(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = run(config, "--set", "lr_scheduler=null", "--set", "trainer.epochs=2").rename(tmp_path / "elsewhere")
    before = files_of(tmp_path / "saved")
    resume(str(moved / "last.pth"), "--set", "trainer.epochs=3")
    assert [json.loads(line)["epoch"] for line in (moved / "log" / "metrics.jsonl").open()] == [1, 2, 3]
    assert str(moved / "log") in capsys.readouterr().out
    assert files_of(tmp_path / "saved") == before


@pytest.mark.parametrize("way", ["name alone", "dot", "from the side", "link"])
def test_a_run_is_found_by_any_path_to_it(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    models = run(config, "--set", "trainer.epochs=2", "--set", "lr_scheduler=null")
    if way == "link":
        (tmp_path / "latest").symlink_to(models)
    places = {
        "name alone": (models.parent, models.name),
        "dot": (models, "."),
        "from the side": (models, f"../{models.name}"),
        "link": (tmp_path, "latest"),
    }
    monkeypatch.chdir(places[way][0])
    resume(places[way][1], "--set", "trainer.epochs=3")
    assert len(weights_and_metrics(models)[1].splitlines()) == 3
    assert [path.name for path in (tmp_path / "saved" / "models" / "Road").iterdir()] == [models.name]


def test_resume_auto_begins_anew_where_a_run_was_killed_in_its_first_save(config: Path) -> None:
    models = run(config)
    for path in models.glob("*.pth"):
        path.unlink()
    (models / ".pending").write_bytes(b"half")
    assert run(config, "--resume", "auto") != models


def test_a_run_that_an_earlier_version_augmented_on_the_gpu_resumes_with_a_warning(
    tmp_path: Path, drawn: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, drawn, lr_scheduler=None)
    models = run(config, "--set", "data_loader.args.cache=device")
    content = read_checkpoint(models / "last.pth")
    assert content["config"]["data_loader"]["args"]["cache"] == "disk"
    content["config"]["data_loader"]["args"]["cache"] = "device"
    write_checkpoint(models / "last.pth", content)
    assert run(config, "--resume", "auto", "--set", "data_loader.args.cache=device") == models  # it is finished
    assert "other random numbers" not in capsys.readouterr().out
    for epochs in (4, 5):
        resume(str(models), "--set", f"trainer.epochs={epochs}")
        assert ("warning: " in (printed := capsys.readouterr().out) and "other random numbers" in printed) == (
            epochs == 4
        )
    assert read_checkpoint(models / "last.pth")["completed_epochs"] == 5
