"""A search's trials are runs like any other: their values, their ends, and what is left of them after a kill."""

from __future__ import annotations

import csv
import json
import logging
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from experiment.run_record import read_record
from experiment.search.settings import SweepSettings
from experiment.search.study import Sweep
from experiment.search.worker import OWNER, Progress, Worker
from inference.out_of_fold import OUT_OF_FOLD_FILE
from logger.log import LOG_NAME
from scripts import runs, sweep
from tests.integration.workplace import ROOT, Outcome, Workplace
from utils.errors import InvalidConfig, dotted
from utils.run_folders import read_kept_config
from utils.signals import StopSignals

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


@pytest.fixture(autouse=True)
def _in_processes_that_know_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture(scope="module")
def database_server() -> Iterator[str]:
    """A PostgreSQL server of its own, as a URL without a database."""
    pytest.importorskip("psycopg")
    found = shutil.which("initdb") or next(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")), None)
    if found is None:
        pytest.skip("PostgreSQL is not installed")
    programs = Path(found).resolve().parent
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        user = None
        if os.getuid() == 0:  # which PostgreSQL refuses to run as
            user = "nobody"
            shutil.chown(folder, user)
        options: dict[str, Any] = {"user": user, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        data = ["-D", f"{folder}/data"]
        options_of_data = ["--auth=trust", "--username=me", "--no-sync", "--locale=C", "--encoding=UTF8"]
        subprocess.run([str(programs / "initdb"), *data, *options_of_data], check=True, cwd=folder, **options)
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
        free.close()
        command = [str(programs / "postgres"), *data, "-k", folder, "-h", "127.0.0.1", "-p", port, "-F"]
        with subprocess.Popen(command, cwd=folder, **options) as server:
            while subprocess.run([str(programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", port]).returncode:
                assert server.poll() is None
                time.sleep(0.05)
            yield f"postgresql+psycopg://me@127.0.0.1:{port}"
            server.send_signal(signal.SIGINT)


@pytest.fixture
def postgresql(database_server: str) -> str:
    """The URL of an empty database."""
    import psycopg

    name = f"sweeps_{time.monotonic_ns()}"
    with psycopg.connect(f"{database_server.replace('+psycopg', '')}/postgres", autocommit=True) as connection:
        connection.execute(f"create database {name}")
    return f"{database_server}/{name}"


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
        search(empty_workplace, config).check_refusal(2, ("search.json: sweep.metric ", word))
    config = write_config(empty_workplace, {"trainer.epoch": [1, 2]})
    search(empty_workplace, config).check_refusal(2, ("search.json: sweep.space.trainer.epoch ", "epochs"))


def test_values_are_checked_beside_each_other(workplace: Workplace) -> None:
    """SGD's momentum, which the config's own optimizer does not have."""
    space = {"optimizer.type": ["SGD"], LR: [0.1], "optimizer.args.momentum": {"low": 0.0, "high": 0.9}}
    Sweep(write_config(workplace, space)).check_space()


def test_a_config_that_extends_a_sweep_may_try_something_else(workplace: Workplace) -> None:
    write_config(workplace, SPACE)
    changes: dict[str, Any] = {"space": {"optimizer.type": {"low": 1, "high": 2}, LR: None, "seed": [1, 2]}}
    workplace.write("child.json", json.dumps({"extends": "search.json", "sweep": changes}))
    changes = {"pruner": "hyperband"}
    grandchild = workplace.write("grandchild.json", json.dumps({"extends": "child.json", "sweep": changes}))
    settings = Sweep(grandchild).settings
    assert settings.space == {"optimizer.type": {"low": 1, "high": 2}, "seed": [1, 2]}
    assert (settings.metric, settings.pruner) == ("min val/loss", "hyperband")


def test_a_config_without_a_sweep_is_refused(workplace: Workplace) -> None:
    search(workplace, workplace.write_config()).check_refusal(2, ("tiny.json: ", '"sweep"'))


def test_wilcoxon_needs_several_models(workplace: Workplace) -> None:
    config = write_config(workplace, SPACE, {"sweep.pruner": "wilcoxon"})
    search(workplace, config).check_refusal(2, ("search.json: sweep.pruner ", "one model"))


def test_without_optuna_it_says_how_to_install_it(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    search(workplace, write_config(workplace, SPACE)).check_refusal(2, ("scripts.sweep ", "pip install optuna"))


def test_trials_are_runs_with_the_studys_values(workplace: Workplace) -> None:
    pytest.importorskip("optuna")
    space = SPACE | {"data_loader.args.input_size": [32, [32, 24]], "trainer.accumulation_steps": {"low": 1, "high": 2}}
    config = write_config(workplace, space)
    search(workplace, config, "--trials", "2", "--set", "loss.heads.age.weight=1.5").check_success()
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
        assert kept["loss"]["heads"]["age"]["weight"] == 1.5
        (line,) = metrics_of(workplace, "Search", run).splitlines()
        assert float(row["value"]) == pytest.approx(json.loads(line)["val/loss"])
    assert rows[0][f"params_{LR}"] != rows[1][f"params_{LR}"]

    best = min(rows, key=lambda row: float(row["value"]))
    path = Path("saved/sweeps/Search/best.json")
    assert json.loads(path.read_text())["optimizer"]["type"] == best["params_optimizer.type"]
    workplace.train("-c", path, "--run-id", "best").check_success()
    assert metrics_of(workplace, "Search", "best") == metrics_of(workplace, "Search", f"Search-000{best['number']}")

    for name in ("optimization_history", "parallel_coordinate"):
        with Image.open(path.parent / f"{name}.png") as picture:
            assert min(picture.size) > 400
    listed = workplace._run(runs.main, ()).out.splitlines()
    assert any(line.startswith("Search/Search-0000 ") for line in listed)
    assert f"sweep {path.parent}" in listed
    assert listed[listed.index(f"sweep {path.parent}") + 1].startswith("2 of 2 trials finished")

    search(workplace, config, "--trials", "2", "--set", "loss.heads.age.weight=2").check_refusal(
        2, ("--set loss.heads.age.weight=2", "1.5"), "change them back"
    )


class Once(threading.Thread):
    """Does something in the middle of a search: once a run has so many epochs.

    trial: the name of that run, from then on
    act: takes the process that trains it
    """

    def __init__(self, workplace: Workplace, epochs: int, act: Callable[[int], None]) -> None:
        super().__init__(daemon=True)
        self._workplace, self._epochs, self._act = workplace, epochs, act
        self.trial = ""
        self.start()

    def run(self) -> None:
        while not self.trial:
            time.sleep(0.01)
            for metrics in self._workplace.save_dir.glob("log/Search/*/metrics.jsonl"):
                if len(metrics.read_bytes().splitlines()) >= self._epochs:
                    self.trial = metrics.parent.name
                    lock = self._workplace.save_dir / "models/Search" / self.trial / ".lock"
                    self._act(int(lock.read_text().split()[1]))
                    return


def kill_with_its_worker(training: int) -> None:
    worker = parent_of(training)
    os.kill(training, signal.SIGKILL)
    os.kill(worker, signal.SIGKILL)


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def sessions_of(workplace: Workplace, run: str) -> list[str]:
    return [each["outcome"] for each in read_record(workplace.save_dir / "models/Search" / run)["sessions"]]


def check_resumed_exactly(workplace: Workplace, config: Path, run: str) -> None:
    """The same values, trained in one go by train.py, give the same bytes."""
    row = next(row for row in trials_of(workplace) if run.endswith(row["number"]))
    workplace.train("-c", config, "--run-id", "whole", "--set", f"{LR}={row[f'params_{LR}']}").check_success()
    assert metrics_of(workplace, "Search", run) == metrics_of(workplace, "Search", "whole")


@pytest.mark.parametrize(("killed", "storage"), [("a worker and its training", "journal"), ("a worker", "postgresql")])
def test_a_killed_worker_is_replaced_and_its_trial_resumed_exactly(
    killed: str, storage: str, workplace: Workplace, request: pytest.FixtureRequest
) -> None:
    pytest.importorskip("optuna")
    config = write_config(workplace, {LR: [1e-4, 1e-3, 1e-2]}, {"trainer.epochs": 15, "sweep.pruner": None})
    url = ["--storage", request.getfixturevalue("postgresql")] if storage == "postgresql" else []
    act = kill_with_its_worker if "training" in killed else lambda each: os.kill(parent_of(each), signal.SIGKILL)
    once = Once(workplace, 2, act)
    outcome = search(workplace, config, "--trials", "3", "--workers", "2", *url)
    outcome.check_success()
    assert "killed by signal 9; another takes its place" in outcome.out
    assert [row["state"] for row in trials_of(workplace)] == ["COMPLETE"] * 3
    for number in range(3):
        outcomes = sessions_of(workplace, f"Search-000{number}")
        ended = "running" if "training" in killed else "StopSignal"
        assert outcomes == ([ended, "finished"] if once.trial.endswith(str(number)) else ["finished"])
    check_resumed_exactly(workplace, config, once.trial)


def test_ctrl_c_saves_the_trial_and_the_same_command_resumes_it(workplace: Workplace) -> None:
    pytest.importorskip("optuna")
    config = write_config(workplace, {LR: [1e-4, 1e-3]}, {"trainer.epochs": 15})
    command = (config, "--trials", "1", "--devices", "cpu")
    once = Once(workplace, 2, lambda _: os.kill(os.getpid(), signal.SIGINT))
    outcome = search(workplace, *command)
    outcome.check_refusal(130, "stopped by SIGINT")
    assert "0 of 1 trials finished" in outcome.out
    assert sessions_of(workplace, once.trial) == ["StopSignal"]
    search(workplace, *command).check_success()
    assert sessions_of(workplace, once.trial) == ["StopSignal", "finished"]
    check_resumed_exactly(workplace, config, once.trial)


def test_a_worker_that_died_as_it_asked_for_a_trial_leaves_neither_a_gap_nor_a_torn_journal(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Optuna would append to a half-written line, and read nothing after it."""
    pytest.importorskip("optuna")
    monkeypatch.setattr(logging.getLogger(LOG_NAME), "handlers", [caplog.handler])
    config = workplace.folder / write_config(workplace, {LR: [1e-4, 1e-3]}, {"trainer.epochs": 1})
    monkeypatch.chdir(workplace.folder)
    Sweep(config).study().ask()
    (journal,) = workplace.save_dir.glob("sweeps/Search/journal.log")
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code":4,"worker')
    with StopSignals() as stop:
        Worker(Sweep(config), None, stop).work(1, math.inf)
    assert journal.read_bytes().startswith(whole)
    assert [(each.number, each.state.name) for each in Sweep(config).study().get_trials()] == [(0, "COMPLETE")]
    assert "journal.log: its last line is half written" in caplog.messages[0]


def test_what_the_command_started_ends_when_it_is_killed(workplace: Workplace) -> None:
    """In a process of its own, which is killed. The study goes on in the next one."""
    pytest.importorskip("optuna")
    config = write_config(workplace, {LR: [1e-4, 1e-3]}, {"trainer.epochs": 25})
    command = [sys.executable, "-m", "scripts.sweep", str(config), "--trials", "1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        processes: list[int] = []

        def act(training: int) -> None:
            processes.extend([training, parent_of(training)])
            process.kill()

        once = Once(workplace, 2, act)
        assert process.wait() == -signal.SIGKILL
    once.join()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{each}").exists() for each in processes) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert sessions_of(workplace, once.trial) == ["StopSignal"]
    search(workplace, config, "--trials", "1").check_success()
    check_resumed_exactly(workplace, config, once.trial)


def test_two_machines_share_a_study_and_each_resumes_its_own_trials(workplace: Workplace, postgresql: str) -> None:
    """Two save_dirs, as of machines that share nothing but the database. Where one was stopped, the other trains what
    is left, and no longer waits."""
    pytest.importorskip("optuna")
    config = write_config(workplace, {LR: [1e-4, 1e-3]}, {"trainer.epochs": 15})
    command = (config, "--trials", "2", "--storage", postgresql)
    once = Once(workplace, 2, lambda _: os.kill(os.getpid(), signal.SIGINT))
    assert search(workplace, *command).exit_code == 130
    other = search(workplace, *command, "--set", "trainer.save_dir=other")
    other.check_success()
    assert "1 of 2 trials finished" in other.out
    assert [path.name for path in workplace.folder.glob("other/models/Search/*")] == ["Search-0001"]
    assert json.loads((workplace.folder / "other/sweeps/Search/best.json").read_text())["name"] == "Search"
    search(workplace, *command).check_success()
    assert [row["state"] for row in trials_of(workplace)] == ["COMPLETE"] * 2
    assert [path.name for path in workplace.runs] == ["Search-0000"]
    check_resumed_exactly(workplace, config, once.trial)


def test_a_trial_without_a_result_is_counted_and_the_search_goes_on(workplace: Workplace) -> None:
    """One that diverges, and one that is killed as the kernel does where memory ends."""
    pytest.importorskip("optuna")
    config = write_config(workplace, {LR: [1e-3, 1e30]}, {"trainer.epochs": 8, "sweep.sampler": "random"})
    once = Once(workplace, 2, lambda training: os.kill(training, signal.SIGKILL))
    outcome = search(workplace, config, "--trials", "6")
    outcome.check_success()
    for row in trials_of(workplace):
        killed, diverged = once.trial.endswith(row["number"]), row[f"params_{LR}"] == "1e+30"
        assert row["state"] == ("FAIL" if killed or diverged else "COMPLETE")
        assert ("killed by signal 9" if killed else "finite" if diverged else "") in row["user_attrs_error"]
    states = [row["state"] for row in trials_of(workplace)]
    assert f"{states.count('COMPLETE')} of 6 trials finished, 0 pruned, {states.count('FAIL')} fail" in outcome.out
    assert {"COMPLETE", "FAIL"} == set(states)


def test_the_mean_over_seeds_and_folds_counts(workplace: Workplace) -> None:
    pytest.importorskip("optuna")
    folds = {"split": {"type": "KFoldSplit", "args": {"folds": 2, "stratify": []}}}
    space = {LR: {"low": 1e-4, "high": 1e-2}}
    changes = {"sweep.seeds": [1, 2], "sweep.pruner": "wilcoxon", "trainer.epochs": 2} | folds
    search(workplace, write_config(workplace, space, changes), "--trials", "1").check_success()
    (row,) = trials_of(workplace)
    best = [
        min(json.loads(line)["val/loss"] for line in path.read_text().splitlines())
        for path in workplace.save_dir.glob("log/Search/Search-0000-seed[12]/fold_[01]/metrics.jsonl")
    ]
    assert len(best) == 4
    assert float(row["value"]) == pytest.approx(sum(best) / 4)
    seeds = [read_kept_config(path)["seed"] for path in workplace.runs]  # type: ignore[index]
    assert seeds == [1, 2]


def test_no_trial_begins_after_the_timeout(workplace: Workplace) -> None:
    pytest.importorskip("optuna")
    config = write_config(workplace, {LR: {"low": 1e-4, "high": 1e-2}})
    search(workplace, config, "--timeout", "0").check_success()
    assert workplace.runs == []
    outcome = search(workplace, config, "--timeout", "2", "--workers", "2")
    outcome.check_success()
    states = [row["state"] for row in trials_of(workplace)]
    assert 1 <= len(states) < 100
    assert set(states) == {"COMPLETE"}


@pytest.mark.parametrize("pruner", ["median", "hyperband", "wilcoxon"])
@pytest.mark.parametrize("direction", ["min", "max"])
def test_a_trial_that_lags_behind_is_pruned_by_epoch_or_across_folds(
    pruner: str, direction: str, workplace: Workplace
) -> None:
    """Optuna's own pruners on the files of runs: the epochs of a model, or the best of each of nine folds. Hyperband
    compares some trials at the first epoch, others later."""
    pytest.importorskip("optuna")
    across_folds = pruner == "wilcoxon"
    split = {"split": {"type": "KFoldSplit", "args": {"folds": 9}}} if across_folds else {}
    metric, better = ("val/loss", -1) if direction == "min" else ("val/f1", 1)
    changes = {"sweep.pruner": pruner, "sweep.metric": f"{direction} {metric}", "trainer.epochs": 9} | split
    sweep = Sweep(write_config(workplace, SPACE, changes))
    study = sweep.study()
    ends = []
    for number in range(12):
        trial = study.ask()
        models = sweep.models(number)
        progress = Progress(trial, models, f"{direction} {metric}", not across_folds, 0)
        offset = better * (0.1 if number < 6 else -0.1)
        for step in range(1, 10):
            model, epoch = (models[step - 1], 1) if across_folds else (models[0], step)
            for folder in (model.log, model.models):
                folder.mkdir(parents=True, exist_ok=True)
            with (model.log / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"epoch": epoch, metric: 0.5 + offset + step / 1000}) + "\n")
            if across_folds:
                (model.models / OUT_OF_FOLD_FILE).touch()
            progress.update(is_over=False)
            if progress.is_pruned:
                break
        assert [*study.trials[number].intermediate_values] == [*range(1, step + 1)]
        ends.append(step if progress.is_pruned else None)
        study.tell(trial, 0.5 + offset)
    assert set(ends[:6]) == {None}
    lagging: dict[str, set[int | None]] = {"median": {1}, "hyperband": {1, 3, 9, None}, "wilcoxon": {4}}
    assert set(ends[6:]) <= lagging[pruner]
    assert any(ends[6:])


def test_a_pruned_trial_ends_early(workplace: Workplace) -> None:
    """After five that were better from their first epoch on."""
    optuna: Any = pytest.importorskip("optuna")
    config = write_config(workplace, {LR: [1e-3]}, {"trainer.epochs": 100})
    study = Sweep(config).study()
    for _ in range(5):
        values = dict.fromkeys(range(1, 101), 0.0)
        trial = optuna.trial.create_trial(value=0.0, intermediate_values=values, user_attrs={OWNER: "another"})
        study.add_trial(trial)
    search(workplace, config, "--trials", "6").check_success()
    assert trials_of(workplace)[-1]["state"] == "PRUNED"
    assert len(metrics_of(workplace, "Search", "Search-0005").splitlines()) < 100
    assert sessions_of(workplace, "Search-0005") == ["StopSignal"]


def test_a_device_that_is_not_there_is_refused_before_anything_begins(empty_workplace: Workplace) -> None:
    outcome = search(empty_workplace, write_config(empty_workplace, SPACE), "--devices", "cpu", "cuda:77")
    outcome.check_refusal(2, ("--devices cuda:77", "CUDA device"))
    assert not empty_workplace.save_dir.exists()


def test_a_key_that_is_searched_is_not_set(empty_workplace: Workplace) -> None:
    config = write_config(empty_workplace, SPACE)
    outcome = search(empty_workplace, config, "--set", f"{LR}=0.1")
    outcome.check_refusal(2, (f"--set {LR}: ", "search.json", "sweep.space"))


def test_a_storage_that_is_none(empty_workplace: Workplace) -> None:
    pytest.importorskip("optuna")
    config = write_config(empty_workplace, SPACE)
    outcome = search(empty_workplace, config, "--storage", "foo")
    outcome.check_refusal(2, ("--storage foo: ", "sqlite:///"))
    outcome = search(empty_workplace, config, "--storage", "sqlite:////nowhere/me:secret@x.db?password=hidden")
    outcome.check_refusal(2, ("--storage sqlite://", "...@x.db: ", "sqlite:///"))
    assert "secret" not in outcome.err
    assert "hidden" not in outcome.err


def test_a_search_without_a_result_does_not_end_well(empty_workplace: Workplace) -> None:
    """Without data; two trials are too few to be refused in a row."""
    pytest.importorskip("optuna")
    outcome = search(empty_workplace, write_config(empty_workplace, SPACE), "--trials", "2")
    outcome.check_refusal(1, ("no trial finished; trial 1: ", "data/train", "--trials"))


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
