"""Asks commands to stop at seeded points, with SIGTERM, SIGUSR1 or Ctrl-C, gives the same command again, and compares
what it leaves with what an undisturbed one leaves: python -m tests.harness.signals --trials 30 --seed 1

Ctrl-C reaches all processes of a command, as from a terminal. A command ends within MOST_SECONDS and after one more
step at most, with 75 or 130, one line and no traceback. A second signal, in a quarter of the trials, ends it at once.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import data_loader.cache.image_cache
import data_loader.data_loaders
import data_loader.duplicates.finding
import data_loader.preparation.prepared_images
import data_loader.records.image_check
import experiment.probe
import experiment.run
import inference.predictor
import scripts.find_duplicates
import scripts.probe
import scripts.sweep
from tests.harness.forked import TEST, TRAIN, run_forked
from tests.harness.kill import difference, end_of
from tests.integration.drawn_road import draw_small_data, write_config
from trainer.checkpoint import Checkpoints
from trainer.learner import Learner
from utils.errors import SIGNALS, run_command
from utils.random_streams import numpy_stream

MOST_SECONDS = 5.0
"""From the signal to the exit, on a machine that is busy with other things too."""

SECOND_AFTER_SECONDS = 0.02
HITS, SIGNALLED = "hits", "signalled"
"""In a trial's folder: a file a stage with a byte a step; when the signal came, and after how many steps."""

CHANGES: dict[str, Any] = {
    "split": {"type": "KFoldSplit", "args": {"folds": 2}},
    "preparation": [{"type": "FaceCrop", "args": {"detector": "haar"}}],
    "sweep": {"metric": "min val/loss", "pruner": None, "space": {"optimizer.args.lr": [0.01, 0.02]}},
    "duplicates": "warn",
}
IMPORTED_LATE = (
    "experiment.report", "inference.inputs", "inference.run", "inference.scoring.scores", "jinja2", "matplotlib.pyplot",
    "sklearn.linear_model", "sklearn.neighbors", "scipy.optimize", "torch.utils.tensorboard",
)  # fmt: skip
"""By the commands, which would take seconds of each process."""

TRAINED = ["-c", "road.json", "--resume", "auto", "--set", "data_loader.args.num_workers=1"]
RUN = "saved/models/Road/run"
"""Of the commands that answer with a run: made once, and copied."""


@dataclass(frozen=True)
class Command:
    """What is stopped.

    main: of a script
    arguments: of the command line
    end: of a folder: what the command leaves there
    has_run: whether it needs a finished run
    """

    main: Callable[[Sequence[str]], object]
    arguments: list[str]
    end: Callable[[Path], dict[str, Any]]
    has_run: bool = True


def _files(*names: str) -> Callable[[Path], dict[str, Any]]:
    return lambda folder: {name: (folder / name).read_bytes() for name in names}


def _trials(folder: Path) -> dict[str, Any]:
    """Of a sweep: the values and results, without times."""
    rows = (folder / "saved/sweeps/Road/trials.csv").read_text().splitlines()
    columns = [
        number for number, name in enumerate(rows[0].split(",")) if name.startswith(("value", "params", "state"))
    ]
    return {"trials": [[row.split(",")[number] for number in columns] for row in rows]}


COMMANDS = {
    "train": Command(TRAIN, TRAINED, end_of, has_run=False),
    "test": Command(TEST, ["--resume", RUN, "--output", "submission.csv"], _files("submission.csv")),
    "probe": Command(
        scripts.probe.main,
        ["-c", "road.json", "--resume", f"{RUN}/fold_0", "--output", "probed"],
        lambda folder: {"scores": json.loads((folder / "probed/scores.json").read_text())},
    ),
    "duplicates": Command(
        scripts.find_duplicates.main, ["-c", "road.json", "--output", "found"], _files("found/duplicates.csv")
    ),
    "sweep": Command(scripts.sweep.main, ["road.json", "--trials", "2"], _trials, has_run=False),
}


@dataclass(frozen=True)
class Stage:
    """What a command does when the signal comes, by the function that does a step of it.

    owner, name: where the function is looked up
    in_threads: whether several do it at once
    """

    command: str
    owner: Any
    name: str
    in_threads: bool = False


STAGES = {
    "image check": Stage("train", data_loader.records.image_check, "inspect_image", in_threads=True),
    "preparation": Stage("train", data_loader.preparation.prepared_images, "visit_rgb", in_threads=True),
    "cache": Stage("train", data_loader.cache.image_cache, "write_rows", in_threads=True),
    "training": Stage("train", Learner, "update"),
    "validation": Stage("train", Learner, "inputs"),
    "saving": Stage("train", Checkpoints, "save"),
    "out of fold": Stage("train", inference.predictor.Predictor, "predict_batch"),
    "report": Stage("train", experiment.run, "write_report"),
    "prediction": Stage("test", inference.predictor.Predictor, "predict_batch"),
    "embedding": Stage("probe", inference.predictor.Predictor, "predict_batch"),
    "probe": Stage("probe", experiment.probe, "run_probe"),
    "duplicates": Stage("duplicates", data_loader.duplicates.finding, "visit_rgb", in_threads=True),
    "search": Stage("sweep", None, ""),
}


@dataclass
class Reference:
    """An undisturbed command.

    steps: by stage, how many it takes
    end: what it leaves
    """

    steps: dict[str, int]
    end: dict[str, Any]


@dataclass
class Trial:
    """A command that was stopped, and given again.

    seconds: from the signal to the exit
    wrong: "" for nothing
    """

    number: int
    stage: str
    name: str
    twice: bool
    seconds: float = 0.0
    wrong: str = ""

    def __str__(self) -> str:
        signals = f"{self.name} twice" if self.twice else self.name
        return f"trial {self.number} ({self.stage}, {signals}, {self.seconds:.2f} s): {self.wrong or 'equal'}"


def plant(names: Sequence[str], at: int | None, number: signal.Signals, twice: bool) -> Callable[[], None]:
    """In a process that is about to be a command: counts the steps of stages, and sends the signal after step `at` of
    the first. Reports are left out, unless that is the stage: they take most of the time."""

    def send() -> None:
        taken = Path(HITS, names[0]).stat().st_size
        Path(SIGNALLED).write_text(f"{time.monotonic()} {taken}")
        for _ in range(1 + twice):
            if number == signal.SIGINT:
                os.killpg(os.getpgid(0), number)
            else:
                os.kill(os.getpid(), number)
            time.sleep(SECOND_AFTER_SECONDS)

    def install() -> None:
        print_to_the_output()
        Path(HITS).mkdir(exist_ok=True)
        if names[0] != "report":
            experiment.run.write_report = lambda *_: None
        for name in names:
            watch(STAGES[name], Path(HITS, name), at if name == names[0] else None)

    def watch(stage: Stage, hits: Path, due: int | None) -> None:
        leader, lock = os.getpid(), threading.Lock()
        file = os.open(hits, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        if stage.owner is None:
            if due is not None:
                threading.Thread(target=_when_a_trial_trains, args=(send, due), daemon=True).start()
            return
        original = getattr(stage.owner, stage.name)

        def counted(*arguments: Any, **named: Any) -> Any:
            result = original(*arguments, **named)
            if os.getpid() == leader:
                with lock:
                    os.write(file, b".")
                    is_due = hits.stat().st_size == due
                if is_due and threading.current_thread() is threading.main_thread() and not twice:
                    send()
                elif is_due:
                    threading.Thread(target=send, daemon=True).start()
            return result

        setattr(stage.owner, stage.name, counted)

    return install


def import_late() -> None:
    for name in IMPORTED_LATE:
        importlib.import_module(name)


def print_to_the_output() -> None:
    """Also where pytest has put streams of its own in the place of Python's."""
    sys.stdout, sys.stderr = (os.fdopen(os.dup(number), "w", buffering=1) for number in (1, 2))


def _when_a_trial_trains(send: Callable[[], None], at: int) -> None:
    """After so many tenths of a second of the first training: its process is none of ours."""
    while not list(Path("saved/log").rglob("metrics.jsonl")):
        time.sleep(0.01)
    time.sleep(at / 10)
    send()


def prepare(command: Command, folder: Path, made: Path) -> None:
    """A folder where the command can be given; made: one that has a config and a finished run."""
    folder.mkdir()
    shutil.copyfile(made / "road.json", folder / "road.json")
    if command.has_run:
        shutil.copytree(made / "saved", folder / "saved", ignore=shutil.ignore_patterns("image_cache", "*.lock"))


def make_run(folder: Path, data: Path, has_run: bool) -> None:
    """The config, and its run, named "run", if some command needs it. Raises AssertionError."""
    folder.mkdir()
    config = write_config(folder, data, submit_dir="submit", **CHANGES)
    values = json.loads(config.read_text())
    values["trainer"] |= {"save_dir": "saved", "save_period": 1, "epochs": 2, "verbosity": 1}
    values["data_loader"]["args"]["cache"] = "disk"
    config.write_text(json.dumps(values))
    if has_run:
        code, _ = run_forked(TRAIN, ["-c", "road.json", "--run-id", "run"], folder)
        assert code == 0, (folder / "output.txt").read_text()


def make_reference(command: Command, folder: Path, made: Path, names: Sequence[str]) -> Reference:
    """An undisturbed command. Raises AssertionError where it fails."""
    prepare(command, folder, made)
    code, _ = run_forked(command.main, command.arguments, folder, None, plant(names, None, signal.SIGTERM, False))
    assert code == 0, (folder / "output.txt").read_text()
    steps = {name: (folder / HITS / name).stat().st_size or 10 for name in names}
    return Reference(steps, command.end(folder))


def run_trial(number: int, seed: int, name: str, made: Path, reference: Reference, folder: Path) -> Trial:
    """A command that is stopped after some step of the stage `name`, and given again."""
    stream, stage = numpy_stream(seed, "signals", number), STAGES[name]
    sent, twice = SIGNALS[int(stream.integers(len(SIGNALS)))], bool(stream.random() < 0.25)
    trial = Trial(number, name, sent.name, twice)
    command = COMMANDS[stage.command]
    prepare(command, folder, made)
    steps = reference.steps[name]
    at = int(stream.integers(1, steps + 1))
    try:
        code, _ = run_forked(command.main, command.arguments, folder, None, plant([name], at, sent, twice))
        ended = time.monotonic()
        output = (folder / "output.txt").read_text()
        assert (folder / SIGNALLED).exists(), f"came to no step {at} of {steps}; exit code {code}: {output[-300:]}"
        began, taken = (float(text) for text in (folder / SIGNALLED).read_text().split())
        trial.seconds = ended - began
        more = (folder / HITS / name).stat().st_size - int(taken)
        expected = 130 if sent == signal.SIGINT else 75
        assert code == expected, f"exit code {code} after step {at} of {steps}: {output[-300:]}"
        assert "Traceback" not in output, "a traceback was printed"
        assert "Exception ignored" not in output, "an exception was ignored"
        last = output.strip().rpartition("\n")[2]
        assert twice or f"stopped by {sent.name}" in last, f"the last line is {last!r}"
        assert trial.seconds <= MOST_SECONDS, "it took too long"
        assert stage.in_threads or more <= 1, f"{more} steps followed"
        code, _ = run_forked(command.main, command.arguments, folder, None, plant([name], None, sent, False))
        assert code == 0, f"given again: exit code {code}: {(folder / 'output.txt').read_text()[-300:]}"
        trial.wrong = difference(reference.end, command.end(folder))
    except (AssertionError, TimeoutError, OSError) as error:
        trial.wrong = str(error)
    return trial


def run_trials(
    trials: int, seed: int, stages: Sequence[str], folder: Path, data: Path | None = None
) -> Iterator[Trial]:
    """Each in a folder of its own, which stays where the trial failed. data: drawn faces; None: they are drawn here"""
    made = folder / "made"
    make_run(
        made, data or draw_small_data(folder / "data"), any(COMMANDS[STAGES[name].command].has_run for name in stages)
    )
    references: dict[str, Reference] = {}
    for number in range(trials):
        name = stages[number % len(stages)]
        command = STAGES[name].command
        if command not in references:
            names = [each for each in stages if STAGES[each].command == command and each != "report"] or ["report"]
            references[command] = make_reference(COMMANDS[command], folder / f"undisturbed {command}", made, names)
            references[command].steps["report"] = 3  # of two folds and of the run
        trial = run_trial(number, seed, name, made, references[command], folder / str(number))
        if not trial.wrong:
            shutil.rmtree(folder / str(number))
        yield trial


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.harness.signals", description="Asks commands to stop at seeded points."
    )
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--folder", type=Path, help="for the runs; those that differ stay there (default: a new one)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    import_late()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="signals-"))
    folder.mkdir(exist_ok=True)
    begin, good, seconds = time.monotonic(), 0, []
    for trial in run_trials(arguments.trials, arguments.seed, arguments.stages, folder):
        good += not trial.wrong
        seconds += [] if trial.twice else [trial.seconds]
        print(f"{trial} [{time.monotonic() - begin:.0f} s]", flush=True)
    with contextlib.suppress(statistics.StatisticsError):
        print(f"from one signal to the exit: median {statistics.median(seconds):.2f} s, at most {max(seconds):.2f} s")
    print(f"signals, seed {arguments.seed}: {good} of {arguments.trials}")
    if good < arguments.trials:
        sys.exit(f"the runs that differ are in {folder}")


if __name__ == "__main__":
    sys.exit(run_command(main))
