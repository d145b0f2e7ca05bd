"""Stops one of several processes that train together, restarts them, and compares their end with that of a run that
nothing disturbed: python -m tests.harness.ranks --trials 20 --seed 1

A trial is a run of two or three processes on the CPU. One is killed, told to stop, or fails, or torchrun is told to
stop; torchrun restarts them (`--max-restarts`), or a second command does, with as many processes or with another
number. With as many the end is equal to the bit, else to float tolerance: sums are made in another order.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch

from tests.harness.forked import TRAIN
from tests.harness.group import PLANTED_ERROR, Stop, run_group
from tests.harness.kill import difference, end_of
from tests.integration.drawn_road import draw_small_data, write_config
from utils.errors import run_command
from utils.random_streams import numpy_stream

GLOBAL_BATCH = 12
KINDS = ("SIGKILL", "SIGTERM", "error", "all", "checkpoint")
UPDATES = 16
DATA = "data"

SCENARIOS: dict[str, dict[str, Any]] = {
    "as_many": {
        "weight_averaging": {"type": "ExponentialMovingAverage", "args": {"decay": 0.9}},
        "mixing": [{"type": "CutMix", "args": {"batch_share": 0.5}}],
    },
    "another_number": {
        "arch": {"type": "TimmModelMulti", "args": {"model_name": "test_convnext", "pretrained": False}},
        "optimizer": {"type": "SGD", "args": {"lr": 0.05, "momentum": 0.9}},
        "lr_scheduler": None,
    },
}
"""What the configs change. Dropout, mixing and batch statistics are each process's own, so they are equal among as many
processes alone."""

TOLERANCE = 1e-4
"""Of weights and metrics after another number of processes."""


@dataclass
class Trial:
    """One run that was stopped and restarted.

    events: what happened
    wrong: what differs from the undisturbed run; "" for nothing
    """

    number: int
    scenario: str
    events: list[str] = field(default_factory=list)
    wrong: str = ""

    def __str__(self) -> str:
        return f"trial {self.number} ({self.scenario}; {', '.join(self.events)}): {self.wrong or 'equal'}"


def write_ranks_config(scenario: str, folder: Path, data: Path) -> Path:
    """A run of four epochs of four updates."""
    folder.mkdir()
    config = write_config(folder, data, **SCENARIOS[scenario], submit_dir="submit")
    values = json.loads(config.read_text())
    values["trainer"] |= {"epochs": 4, "save_dir": "saved", "precision": "float32", "save_period": 2}
    values["data_loader"]["args"]["cache"] = "disk"
    config.write_text(json.dumps(values))
    return config


def train_together(config: Path, processes: int, stop: Stop | None = None, restarts: int = 0) -> bool:
    """See `run_group`. The global batch is one, whatever the number of processes."""
    arguments = ["-c", config.name, "--resume", "auto", "--bs", str(GLOBAL_BATCH // processes)]
    return run_group(TRAIN, arguments, config.parent, processes, stop, restarts)


def make_reference(scenario: str, processes: int, folder: Path, data: Path) -> dict[str, Any]:
    """The end of a run that nothing disturbed. Raises AssertionError where it fails."""
    config = write_ranks_config(scenario, folder, data)
    assert train_together(config, processes), (folder / "output.txt").read_text()
    return end_of(folder)


def run_trial(number: int, seed: int, reference_of: Callable[[str, int], dict[str, Any]], folder: Path) -> Trial:
    """reference_of: by scenario and number of processes, the end of a run that nothing disturbed"""
    stream = numpy_stream(seed, "ranks", number)
    scenario = list(SCENARIOS)[number % 2]
    trial = Trial(number, scenario)
    config = write_ranks_config(scenario, folder, folder.parent / DATA)
    processes = int(stream.choice([2, 3]))
    kind = KINDS[number // 2 % len(KINDS)]
    rank = 0 if kind == "checkpoint" else int(stream.integers(processes))
    stop = Stop(rank, kind, int(stream.integers(1, UPDATES)))
    by_torchrun = scenario == "as_many" and kind != "all" and bool(stream.integers(2))
    trial.events.append(f"{processes} processes, {stop}")
    try:
        is_over = train_together(config, processes, stop, restarts=int(by_torchrun))
        text = (folder / "output.txt").read_text()
        if kind == "error":
            assert text.count(PLANTED_ERROR) == 1, "the error is not said once"
        assert "Traceback" not in text, "a traceback"
        if by_torchrun:
            trial.events.append("torchrun restarts them")
            assert is_over, "the restarted processes fail"
        if not is_over:
            others = [each for each in (1, 2, 3) if each != processes]
            processes = processes if scenario == "as_many" else int(stream.choice(others))
            trial.events.append(f"resumed by {processes}")
            assert train_together(config, processes), "the resumed processes fail"
        expected, end = reference_of(scenario, processes), end_of(folder)
        trial.wrong = difference(expected, end) if scenario == "as_many" else far_from(expected, end)
    except (AssertionError, TimeoutError) as error:
        trial.wrong = str(error)
    return trial


def far_from(one: dict[str, Any], other: dict[str, Any]) -> str:
    """The first weights or metrics that differ by more than the tolerance; "" for none."""
    if one.keys() != other.keys():
        return f"{sorted(one.keys() ^ other.keys())} is in one alone"
    for name, weight in one["0/last.pth"]["model"].items():
        if not torch.allclose(weight, other["0/last.pth"]["model"][name], rtol=TOLERANCE, atol=TOLERANCE):
            return f"{name}: differs by {(weight - other['0/last.pth']['model'][name]).abs().max():.2g}"
    lines = zip(*(end["0/log/metrics.jsonl"].splitlines() for end in (one, other)), strict=True)
    for first, second in ((json.loads(a), json.loads(b)) for a, b in lines):
        for name, value in first.items():
            if abs(value - second[name]) > TOLERANCE * max(1, abs(value)):
                return f"{name}: {second[name]}, and not {value}"
    return ""


def run_trials(trials: int, seed: int, folder: Path) -> Iterator[Trial]:
    """Each in a folder of its own, which stays where the trial failed."""
    data = draw_small_data(folder / DATA)

    @cache
    def reference_of(scenario: str, processes: int) -> dict[str, Any]:
        return make_reference(scenario, processes, folder / f"{scenario}_{processes}", data)

    for number in range(trials):
        trial = run_trial(number, seed, reference_of, folder / str(number))
        if not trial.wrong:
            shutil.rmtree(folder / str(number))
        yield trial


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.harness.ranks", description=(__doc__ or "").split(":")[0])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="for the runs; those that differ stay there (default: a new one)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = (arguments.folder or Path(tempfile.mkdtemp(prefix="ranks-"))).resolve()
    folder.mkdir(exist_ok=True)
    begin, good = time.monotonic(), 0
    for trial in run_trials(arguments.trials, arguments.seed, folder):
        good += not trial.wrong
        print(f"{trial} [{time.monotonic() - begin:.0f} s]", flush=True)
    print(f"ranks, seed {arguments.seed}: {good} of {arguments.trials}")
    if good < arguments.trials:
        sys.exit(f"the runs that differ are in {folder}")


if __name__ == "__main__":
    sys.exit(run_command(main))
