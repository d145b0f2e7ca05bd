"""A search's trials are runs like any other: their values, their ends, and what is left of them after a kill."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from experiment.run_record import read_record
from experiment.schema import SECTIONS
from experiment.search import Sweep
from experiment.search_settings import SweepSettings
from scripts import sweep
from tests.integration.workplace import ROOT, Outcome, Workplace
from utils.errors import InvalidConfig, dotted
from utils.run_folders import read_kept_config

LR = "optimizer.args.lr"
SPACE: dict[str, Any] = {"optimizer.type": ["Adam", "RMSprop"], LR: {"low": 1e-4, "high": 1e-2, "log": True}}


def search(workplace: Workplace, *argv: str | Path) -> Outcome:
    return workplace._run(sweep.main, argv)


def write_config(workplace: Workplace, space: dict[str, Any], changes: dict[str, Any] | None = None) -> Path:
    given = {"name": "Search", "sweep.metric": "min val/loss", "sweep.space": space, "trainer.early_stop": 0}
    return workplace.write_config(given | (changes or {}), "search.json")


def trials_of(workplace: Workplace) -> list[dict[str, str]]:
    with (workplace.save_dir / "sweeps/Search/trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def metrics_of(workplace: Workplace, name: str, run: str) -> bytes:
    return (workplace.save_dir / "log" / name / run / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("changes", "key_path"),
    [
        ({"metric": "off"}, "metric"),
        ({"metric": "val/f1"}, "metric"),
        ({"space": {}}, "space"),
        ({"space": {"optimizer.type": []}}, "space.optimizer.type"),
        ({"space": {LR: {"low": 1.0, "high": 1.0}}}, f"space.{LR}"),
        ({"space": {LR: {"low": 0, "high": 1.0, "log": True}}}, f"space.{LR}"),
        ({"space": {LR: {"low": 1.0, "high": 2.0, "log": True, "step": 0.1}}}, f"space.{LR}"),
        ({"space": {LR: {"low": 1.0, "high": 2.0, "step": 0}}}, f"space.{LR}"),
        ({"space": {"trainer.save_dir": ["a", "b"]}}, "space.trainer.save_dir"),
        ({"space": {"sweep.seed": [1]}}, "space.sweep.seed"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [1, 1]}, "seeds"),
        ({"seeds": [1, 2], "space": {"seed": [3, 4]}}, "space.seed"),
    ],
)
def test_a_section_that_cannot_be(changes: dict[str, Any], key_path: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        SweepSettings(**({"metric": "max val/f1", "space": SPACE} | changes))
    assert [dotted(problem.key_path) for problem in caught.value.problems] == [key_path]


def test_every_choice_and_both_ends_are_checked_before_anything_begins(empty_workplace: Workplace) -> None:
    space = {"optimizer.type": ["Adam", "Adamm"], LR: {"low": -1.0, "high": 0.1}, "trainer.epochs": [1, 2, 0]}
    config = write_config(empty_workplace, space)
    before = empty_workplace.files()
    search(empty_workplace, config).check_refusal(
        2,
        ("search.json: sweep.space.optimizer.type ", '"Adamm"'),
        (f"search.json: sweep.space.{LR} ", "-1.0"),
        ("search.json: sweep.space.trainer.epochs ", "has 0: "),
    )
    assert empty_workplace.files() == before


def test_a_metric_that_does_not_exist_or_gets_better_the_other_way_is_refused(empty_workplace: Workplace) -> None:
    for metric, word in (("max val/f2", "val/f2"), ("max val/loss", "min val/loss")):
        config = write_config(empty_workplace, SPACE, {"sweep.metric": metric})
        outcome = search(empty_workplace, config)
        assert outcome.exit_code == 2
        assert "sweep.metric" in outcome.lines[0]
        assert word in outcome.lines[0]


def test_values_are_checked_beside_each_other(workplace: Workplace) -> None:
    """SGD's momentum, which the config's own optimizer does not have."""
    space = {"optimizer.type": ["SGD"], LR: [0.1], "optimizer.args.momentum": {"low": 0.0, "high": 0.9}}
    Sweep(write_config(workplace, space), SECTIONS).check_space()


def test_a_config_that_extends_a_sweep_may_try_something_else(workplace: Workplace) -> None:
    write_config(workplace, SPACE)
    changes = {"sweep": {"space": {"optimizer.type": {"low": 1, "high": 2}, LR: None, "seed": [1, 2]}}}
    child = workplace.write("child.json", json.dumps({"extends": "search.json"} | changes))
    settings = Sweep(child, SECTIONS).settings
    assert settings.space == {"optimizer.type": {"low": 1, "high": 2}, "seed": [1, 2]}


def test_a_config_without_a_sweep_is_refused(workplace: Workplace) -> None:
    search(workplace, workplace.write_config()).check_refusal(2, ("tiny.json: ", '"sweep"'))


def test_without_optuna_it_says_how_to_install_it(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    search(workplace, write_config(workplace, SPACE)).check_refusal(2, ("scripts.sweep ", "pip install optuna"))


def test_trials_are_runs_with_the_studys_values(workplace: Workplace) -> None:
    pytest.importorskip("optuna")
    space = SPACE | {"data_loader.args.input_size": [32, [32, 24]], "trainer.accumulation_steps": {"low": 1, "high": 2}}
    config = write_config(workplace, space)
    search(workplace, config, "--trials", "2", "--set", "loss.heads.age.args.gamma=1.5").check_success()
    rows = trials_of(workplace)
    assert [row["state"] for row in rows] == ["COMPLETE"] * 2
    for number, row in enumerate(rows):
        run = f"Search-{number:04d}"
        kept = read_kept_config(workplace.save_dir / "models/Search" / run)
        assert kept is not None
        optimizer, loader = kept["optimizer"], kept["data_loader"]["args"]
        assert optimizer["type"] == row["params_optimizer.type"]
        assert optimizer["args"]["lr"] == pytest.approx(float(row[f"params_{LR}"]))
        assert 1e-4 <= optimizer["args"]["lr"] <= 1e-2
        assert json.dumps(loader["input_size"]) == row["params_data_loader.args.input_size"]
        assert str(kept["trainer"]["accumulation_steps"]) == row["params_trainer.accumulation_steps"]
        assert kept["loss"]["heads"]["age"]["args"]["gamma"] == 1.5
        (line,) = metrics_of(workplace, "Search", run).splitlines()
        assert float(row["value"]) == pytest.approx(json.loads(line)["val/loss"])
    assert rows[0][f"params_{LR}"] != rows[1][f"params_{LR}"]

    best = min(rows, key=lambda row: float(row["value"]))
    path = Path("saved/sweeps/Search/best.json")
    assert json.loads(path.read_text())["optimizer"]["type"] == best["params_optimizer.type"]
    workplace.train("-c", path, "--run-id", "best").check_success()
    assert metrics_of(workplace, "Search", "best") == metrics_of(workplace, "Search", f"Search-000{best['number']}")

    search(workplace, config, "--trials", "2", "--set", "loss.heads.age.args.gamma=2").check_refusal(
        2, ("--set loss.heads.age.args.gamma=2", "1.5"), "change them back"
    )


def test_a_killed_worker_is_replaced_and_its_trial_resumed_exactly(workplace: Workplace) -> None:
    pytest.importorskip("optuna")
    config = write_config(workplace, {LR: [1e-4, 1e-3, 1e-2]}, {"trainer.epochs": 40, "sweep.pruner": None})
    command = [sys.executable, "-m", "scripts.sweep", str(config), "--trials", "3", "--workers", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (workplace.folder / "output.txt").open("w") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        killed = None
        while process.poll() is None and killed is None:
            killed = _kill_a_worker(process.pid, workplace)
            time.sleep(0.01)
        process.wait(timeout=240)
    text = (workplace.folder / "output.txt").read_text()
    assert process.returncode == 0, text
    assert killed is not None, text
    assert "Traceback" not in text
    rows = trials_of(workplace)
    assert [row["state"] for row in rows] == ["COMPLETE"] * 3
    for number in range(3):
        run = f"Search-{number:04d}"
        sessions = read_record(workplace.save_dir / "models/Search" / run)["sessions"]
        assert len(sessions) == (2 if run == killed else 1), run
        assert sessions[-1]["outcome"] == "finished"

    lr = next(row[f"params_{LR}"] for row in rows if killed.endswith(row["number"]))
    workplace.train("-c", config, "--run-id", "whole", "--set", f"{LR}={lr}").check_success()
    assert metrics_of(workplace, "Search", killed) == metrics_of(workplace, "Search", "whole")


def _kill_a_worker(supervisor: int, workplace: Workplace) -> str | None:
    """Kills a worker and its train.py in the middle of a trial, whose run it returns; None where none is there yet."""
    for worker in _children(supervisor):
        for training in _children(worker):
            words = Path(f"/proc/{training}/cmdline").read_bytes().decode().split("\0")
            run = words[words.index("--run-id") + 1] if "--run-id" in words else ""
            metrics = workplace.save_dir / "log/Search" / run / "metrics.jsonl"
            if run and metrics.exists() and len(metrics.read_bytes().splitlines()) >= 2:
                os.kill(worker, signal.SIGKILL)
                os.kill(training, signal.SIGKILL)
                return run
    return None


def _children(process: int) -> list[int]:
    try:
        return [int(each) for each in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def test_a_pruned_trial_ends_early(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    optuna: Any = pytest.importorskip("optuna")
    pruner: Any = optuna.pruners.BasePruner

    class PrunesTheSecond(pruner):
        def prune(self, study: Any, trial: Any) -> bool:  # noqa: ARG002
            return bool(trial.number == 1 and trial.last_step >= 2)

    monkeypatch.setattr(optuna.pruners, "MedianPruner", PrunesTheSecond)
    config = write_config(workplace, {LR: [1e-3]}, {"trainer.epochs": 100})
    search(workplace, config, "--trials", "2", "--set", "data_loader.args.num_workers=0").check_success()
    assert [row["state"] for row in trials_of(workplace)] == ["COMPLETE", "PRUNED"]
    records = [read_record(workplace.save_dir / f"models/Search/Search-000{number}") for number in (0, 1)]
    assert records[0]["epochs"] == 100
    assert 2 <= records[1]["epochs"] < 100
    assert records[1]["sessions"][-1]["outcome"] == "StopSignal"


def test_trials_that_are_refused_in_a_row_end_the_search(empty_workplace: Workplace) -> None:
    """Without data; and where runs of an earlier search are in the way, which are left alone."""
    pytest.importorskip("optuna")
    config = write_config(empty_workplace, {LR: [1e-3, 1e-4]})
    outcome = search(empty_workplace, config, "--trials", "9")
    outcome.check_refusal(3, ("3 trials in a row ", "data/train"))
    assert [row["state"] for row in trials_of(empty_workplace)] == ["FAIL"] * 3
    for number in (0, 1, 2):
        empty_workplace.write(f"saved/models/Other/Other-000{number}/note.txt", "kept")
    outcome = search(empty_workplace, config, "--trials", "9", "--set", "name=Other")
    outcome.check_refusal(2, ("3 trials in a row ", "saved/models/Other/Other-0002", "earlier sweep"))
    assert len(list(empty_workplace.folder.glob("saved/models/Other/*/note.txt"))) == 3
