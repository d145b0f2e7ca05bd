"""The list of runs, their comparison and their explanation, from folders as train.py leaves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiment.run_record import RunRecord
from experiment.runs import compare_configs, explain, summarise_run, summarise_runs
from experiment.schema import SECTIONS
from parse_config import ConfigParser
from scripts import runs as command
from utils.checkpoint.checkpoint_file import write_checkpoint
from utils.config.layers import Override
from utils.errors import CheckpointError, ConfigError, DataError
from utils.run_folders import RunFolders

DEMO = Path("configs/demo.json")


def _make_run(save_dir: Path, run: str, metrics: list[dict[str, Any]], digest: str = "v1", **values: Any) -> Path:
    """A run folder: config.json, run.json and metrics.jsonl."""
    overrides = [Override(key.replace("__", "."), json.dumps(value)) for key, value in values.items()]
    config = ConfigParser.from_file(DEMO, SECTIONS, overrides)
    folders = RunFolders.in_save_dir(save_dir, config["name"], run)
    folders.models.mkdir(parents=True)
    folders.log.mkdir(parents=True)
    folders.write_config(config.resolved)
    record = RunRecord(folders.models)
    record.begin(folders, config, "train.py", {"validation": digest}, DEMO)
    record.end("finished")
    lines = [json.dumps({"epoch": number, **row}) + "\n" for number, row in enumerate(metrics, start=1)]
    (folders.log / "metrics.jsonl").write_text("".join(lines) + '{"epoch": 9, "val', encoding="utf-8")  # torn
    return folders.models


@pytest.fixture
def two_runs(tmp_path: Path) -> tuple[Path, Path]:
    first = _make_run(tmp_path, "20260101", [{"val/f1": 0.5, "val/loss": 2}, {"val/f1": 0.3, "val/loss": 1}])
    second = _make_run(tmp_path, "20260102", [{"val/f1": 0.4, "val/loss": 3}], "v2", optimizer__args__lr=0.25, seed=9)
    return first, second


def test_a_run_is_summarised_at_the_best_epoch_of_its_monitor(two_runs: tuple[Path, Path]) -> None:
    run = summarise_run(two_runs[0])
    assert run.config["trainer"]["monitor"] == "max val/f1"
    assert (run.best_epoch, run.epochs, run.metrics) == (1, 2, {"val/f1": 0.5, "val/loss": 2})
    assert run.validation_digest == "v1"
    assert run.seconds is not None
    assert 0 <= run.seconds < 60
    assert summarise_run(two_runs[1]).changes.items() >= {"optimizer.args.lr": 0.25, "seed": 9}.items()


def test_runs_in_order_without_what_is_no_run(two_runs: tuple[Path, Path]) -> None:
    save_dir = two_runs[0].parents[2]
    (save_dir / "models" / "x" / "y").mkdir(parents=True)
    assert [run.folder for run in summarise_runs(save_dir)] == [*two_runs]
    with pytest.raises(CheckpointError, match=r"config\.json"):
        summarise_run(save_dir / "models" / "x" / "y")


def test_the_folds_of_a_run_are_one_row(tmp_path: Path) -> None:
    values = {"split": {"type": "KFoldSplit", "args": {"folds": 2}}}
    config = ConfigParser.from_file(DEMO, SECTIONS, [Override("split", json.dumps(values["split"]))])
    run = RunFolders.in_save_dir(tmp_path, "demo", "k")
    for number, f1 in enumerate((0.2, 0.6)):
        fold = run.of_fold(number)
        fold.models.mkdir(parents=True)
        fold.log.mkdir(parents=True)
        (fold.log / "metrics.jsonl").write_text(json.dumps({"epoch": 1, "val/f1": f1}) + "\n", encoding="utf-8")
    run.write_config(config.resolved)
    (summary,) = summarise_runs(tmp_path)
    assert summary.metrics == {"val/f1": pytest.approx(0.4)}
    assert (summary.epochs, summary.best_epoch) == (2, None)


def test_compare_configs() -> None:
    one = {"a": {"b": 1, "c": [1, 2]}, "d": 4}
    other = {"a": {"b": 2, "c": [1, 2, 3]}, "e": 5}
    assert compare_configs(one, other) == {"a.b": (1, 2), "a.c.2": (None, 3), "d": (4, None), "e": (None, 5)}


def test_explain_names_the_file_or_the_flag(two_runs: tuple[Path, Path]) -> None:
    ((key, value, origin),) = explain(two_runs[1], "optimizer.args.lr")
    assert (key, value, origin) == ("optimizer.args.lr", 0.25, "--set optimizer.args.lr=0.25")
    assert {key for key, _, _ in explain(two_runs[1], "trainer")} >= {"trainer.epochs", "trainer.monitor"}
    with pytest.raises(ConfigError, match="optimizer"):
        explain(two_runs[1], "optimiser")


def test_the_command_sorts_and_flags_what_cannot_be_compared(
    two_runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    save_dir = str(two_runs[0].parents[2])
    command.main(["--save-dir", save_dir, "--sort", "val/loss"])
    header, first, second, *notes = capsys.readouterr().out.splitlines()
    assert header.startswith("run")
    assert "20260101" in first
    assert "20260102" in second
    assert "optimizer.args.lr=0.25" in second
    assert ("v2 *" in second) != ("v1 *" in first)
    assert len(notes) == 1
    record = two_runs[1] / "run.json"
    sides = {"sides": {"validation": {"images": 0, "persons": 0}}}
    record.write_text(json.dumps(json.loads(record.read_text()) | sides))  # nobody validates, so nothing is unlike
    command.main(["--save-dir", save_dir])
    assert "*" not in capsys.readouterr().out
    with pytest.raises(ConfigError, match="val/f1"):
        command.main(["--save-dir", save_dir, "--sort", "val/nothing"])
    with pytest.raises(DataError):
        command.main(["--save-dir", f"{save_dir}/nothing"])


def test_the_command_diff_and_explain(two_runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    command.main(["diff", *map(str, two_runs)])
    lines = capsys.readouterr().out.splitlines()
    assert "seed: 42 -> 9" in lines
    assert any(line.startswith("val/f1: 0.5000 -> 0.4000") for line in lines)
    assert "different images" in lines[-1]
    command.main(["explain", str(two_runs[1]), "seed"])
    assert capsys.readouterr().out == "seed = 9  (--set seed=9)\n"


def test_what_is_left_out_is_named(two_runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    save_dir = two_runs[0].parents[2]
    for content in ("{", "{}"):
        (two_runs[1] / "config.json").write_text(content)
        command.main(["--save-dir", str(save_dir)])
        assert capsys.readouterr().out.splitlines()[-1].startswith(f"{two_runs[1]}: left out: ")
    with pytest.raises(DataError, match=r"--save-dir .*no such folder"):
        command.main(["--save-dir", f"{save_dir}/nothing"])


def test_a_run_copied_without_its_log_has_what_its_checkpoint_knows(two_runs: tuple[Path, Path]) -> None:
    (RunFolders.in_save_dir(two_runs[0].parents[2], "Demo", "20260101").log / "metrics.jsonl").unlink()
    monitors = [{"mode": "max", "metric": "val/f1", "best": 0.5, "best_epoch": 1}]
    write_checkpoint(two_runs[0] / "last.pth", {"completed_epochs": 2, "monitors": monitors})
    run = summarise_run(two_runs[0])
    assert (run.best_epoch, run.epochs, run.metrics) == (1, 2, {"val/f1": 0.5})


def test_sorted_by_a_metric_its_own_best_epoch_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the monitor's best epoch the order would be the other."""
    first = [{"val/f1": 0.9, "val/accuracy": 0.1}, {"val/f1": 0.2, "val/accuracy": 0.8}]
    _make_run(tmp_path, "one", first)
    _make_run(tmp_path, "two", [{"val/f1": 0.3, "val/accuracy": 0.5}])
    command.main(["--save-dir", str(tmp_path), "--sort", "val/accuracy"])
    _, one, two = capsys.readouterr().out.splitlines()
    assert one.startswith("Demo/one  val/accuracy 0.8000  2 of 2/")
    assert two.startswith("Demo/two  val/accuracy 0.5000  1 of 1/")
    assert summarise_run(tmp_path / "models/Demo/one").metrics["val/accuracy"] == 0.1
    with pytest.raises(ConfigError, match="did you mean"):
        command.main(["--save-dir", str(tmp_path), "--sort", "val/acuracy"])
