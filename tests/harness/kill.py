"""Kills runs at seeded points, resumes them with other numbers of workers, and compares their end with that of a run
that nothing disturbed: python -m tests.harness.kill --trials 200 --seed 1

A trial is a run that is stopped up to three times, half of the times within the writing of a checkpoint, resumed by
`--resume auto`, and answered with by test.py; or a search of two trials, which the same command resumes. Checkpoints,
metrics, TensorBoard's numbers, out-of-fold predictions, the table of a search's trials and the submission are those of
the undisturbed run, no start may meet a half-written file, and no temporary file is left. (A run that is killed before
its first checkpoint begins again in a new folder.)
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from logger.tracker import TIMES
from tests.harness.forked import STOPS_FILE, TEST, TRAIN, TRIALS_FILE, Point, import_all, run_forked, search
from tests.harness.planted import PLANTED
from tests.integration.drawn_road import draw_small_data, write_config
from utils.checkpoint.checkpoint_file import read_checkpoint
from utils.errors import UserError, run_command
from utils.random_streams import numpy_stream

SCENARIOS: dict[str, dict[str, Any]] = {
    "training": {
        "weight_averaging": {"type": "ExponentialMovingAverage", "args": {"decay": 0.9}},
        "mixing": [{"type": "CutMix", "args": {"batch_share": 0.5}}],
    },
    "folds": {"split": {"type": "KFoldSplit", "args": {"folds": 2}}},
    "preparation": {"preparation": [{"type": "FaceCrop", "args": {"detector": "haar"}}]},
    "search": {
        "sweep": {"metric": "min val/loss", "pruner": None, "space": {"optimizer.args.amsgrad": [True, False]}},
    },
}
"""What the configs change. All build a cache on the disk."""

SEARCHED_TRIALS = 2
STOPS, SHARES = (
    ("checkpoint", "file", "cache", "update", "stop", "seconds"),
    (0.5, 0.12, 0.1, 0.12, 0.08, 0.08),
)
MOST_STOPS = 3
HALF_WRITTEN = re.compile("damaged|truncated|is empty|does not have all epochs")
"""What a command says that meets such a file."""


@dataclass
class Reference:
    """A run that nothing disturbed.

    counts: how often it came past each kind of point
    end: what it left
    seconds: that it took
    """

    scenario: str
    config: Path
    counts: dict[str, int]
    end: dict[str, Any]
    seconds: float


@dataclass
class Trial:
    """One run that was stopped and resumed.

    points: where it was to be stopped, and the number of workers of each start
    stops: what it was doing where it was stopped
    wrong: what differs from the undisturbed run; "" for nothing
    """

    number: int
    scenario: str
    points: list[str] = field(default_factory=list)
    stops: list[str] = field(default_factory=list)
    wrong: str = ""

    def __str__(self) -> str:
        return f"trial {self.number} ({self.scenario}; {', '.join(self.points)}): {self.wrong or 'equal'}"


def make_reference(scenario: str, folder: Path, data: Path, plant: Callable[[], None] | None = None) -> Reference:
    """Raises AssertionError where the run itself fails."""
    import_all()
    folder.mkdir()
    config = write_config(folder, data, **SCENARIOS[scenario], submit_dir="submit")
    values = json.loads(config.read_text())
    values["trainer"] |= {"save_dir": "saved", "save_period": 1, "save_best": ["max val/mask_f1"], "verbosity": 1}
    values["trainer"]["tensorboard"] = scenario == "training"
    values["data_loader"]["args"]["cache"] = "disk"
    config.write_text(json.dumps(values))
    begin = time.monotonic()
    code, counts = _start(scenario, config, 0, folder, None, plant)
    seconds = time.monotonic() - begin
    assert code == 0, (folder / "output.txt").read_text()
    return Reference(scenario, config, counts, end_of(folder), seconds)


def end_of(folder: Path) -> dict[str, Any]:
    """What the finished run in a folder holds, or those of the search, once test.py has answered with it. Raises
    AssertionError."""
    models, logs = folder / "saved" / "models" / "Road", folder / "saved" / "log" / "Road"
    runs = sorted(path for path in models.iterdir() if list(path.rglob("last.pth")))
    table = folder / TRIALS_FILE
    assert len(runs) == (SEARCHED_TRIALS if table.exists() else 1), f"{len(runs)} runs have checkpoints"
    named = [str(run.relative_to(folder)) for run in runs]
    code, _ = run_forked(TEST, ["--resume", *named, "--output", "submission.csv"], folder)
    assert code == 0, f"test.py: exit code {code}; see {folder / 'output.txt'}"
    saved = folder / "saved"
    places = (*(run.rglob("*") for run in runs), saved.glob("*"), (saved / "preparation").rglob("*"))
    remains = [path for path in itertools.chain(*places) if path.name.endswith((".tmp", ".pending"))]
    assert remains == [], f"left: {', '.join(str(path.relative_to(folder)) for path in remains)}"
    ends: dict[str, Any] = {"submission": (folder / "submission.csv").read_bytes()}
    if table.exists():
        ends["trials"] = table.read_text()
    for number, run in enumerate(runs):
        for path in sorted([*run.rglob("*.pth"), *run.rglob("out_of_fold.csv")]):
            is_checkpoint = path.suffix == ".pth"
            ends[f"{number}/{path.relative_to(run)}"] = (
                _comparable(read_checkpoint(path)) if is_checkpoint else path.read_bytes()
            )
        log = logs / run.name
        for path in sorted(log.rglob("metrics.jsonl")):
            ends[f"{number}/log/{path.relative_to(log)}"] = path.read_bytes()
        ends[f"{number}/tensorboard"] = _scalars(log)
    return ends


def _scalars(log: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows: by name, step and value; without times."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(log)).Reload()
    names = [name for name in events.Tags()["scalars"] if not name.startswith(TIMES)]
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in sorted(names)}


def _comparable(content: dict[str, Any]) -> dict[str, Any]:
    """Without the run's name, which is a time, and the number of workers."""
    content = {**content, "config": json.loads(json.dumps(content["config"]))}
    del content["config"]["data_loader"]["args"]["num_workers"]
    return {name: value for name, value in content.items() if name not in ("run_name", "trackers")}


def difference(one: Any, other: Any, at: str = "") -> str:
    """The first place where two ends differ; "" if they are equal to the bit."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if one.dtype != other.dtype or one.shape != other.shape:
            return f"{at}: another type or shape"
        differ = one.reshape(-1, 1).view(torch.uint8) != other.reshape(-1, 1).view(torch.uint8)
        return f"{at}: {differ.any(dim=1).sum()} of {one.numel()} values differ" if differ.any() else ""
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return f"{at}: {sorted(map(str, one.keys() ^ other.keys()))} is in one alone"
        pairs = [(f"{at}/{key}", one[key], other[key]) for key in one]
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        pairs = [(f"{at}/{number}", *each) for number, each in enumerate(zip(one, other, strict=True))]
    else:
        equal = type(one) is type(other) and repr(one) == repr(other)  # NaN is NaN, and -0.0 is not 0.0
        return "" if equal else f"{at}: differs"
    return next(filter(None, (difference(a, b, where) for where, a, b in pairs)), "")


def run_trial(
    number: int, seed: int, scenario: str, reference: Reference, folder: Path, plant: Callable[[], None] | None = None
) -> Trial:
    """A run that is stopped and resumed until it ends."""
    stream = numpy_stream(seed, "kill", number)
    trial = Trial(number, scenario)
    folder.mkdir()
    config = folder / reference.config.name
    shutil.copyfile(reference.config, config)
    try:
        for _ in range(int(stream.integers(1, MOST_STOPS + 1))):
            point, workers = draw_point(stream, reference), int(stream.integers(3))
            trial.points.append(f"{point}, {workers} workers")
            code, _ = _start(scenario, config, workers, folder, point, plant)
            if code == 0:
                break
            assert code in (-point.number, 75), f"exit code {code}: {_last_line(folder)}"
        code, _ = _start(scenario, config, int(stream.integers(3)), folder, None, plant)
        assert code == 0, f"exit code {code}: {_last_line(folder)}"
        text = (folder / "output.txt").read_text()
        half = [line for line in text.splitlines() if HALF_WRITTEN.search(line)]
        assert half == [], f"a file was half written: {half[0]}"
        trial.wrong = difference(reference.end, end_of(folder))
    except (AssertionError, TimeoutError, UserError) as error:
        trial.wrong = str(error)
    if (folder / STOPS_FILE).exists():
        trial.stops = (folder / STOPS_FILE).read_text().splitlines()
    return trial


def draw_point(stream: np.random.Generator, reference: Reference) -> Point:
    """Anywhere in a run, or what is left of it."""
    kind = str(stream.choice(STOPS, p=SHARES))
    if kind == "seconds":
        return Point(kind, float(stream.uniform(0, reference.seconds)))
    counted = "update" if kind == "stop" else kind
    number = signal.SIGTERM if kind == "stop" else signal.SIGKILL
    return Point(counted, int(stream.integers(1, reference.counts[counted] + 1)), number)


def _start(
    scenario: str, config: Path, workers: int, folder: Path, point: Point | None, plant: Callable[[], None] | None
) -> tuple[int, dict[str, int]]:
    setting = ["--set", f"data_loader.args.num_workers={workers}"]
    if scenario == "search":
        return run_forked(search, [config.name, "--trials", str(SEARCHED_TRIALS), *setting], folder, point, plant)
    return run_forked(TRAIN, ["-c", config.name, "--resume", "auto", *setting], folder, point, plant)


def _last_line(folder: Path) -> str:
    return (folder / "output.txt").read_text().strip().rpartition("\n")[2]


def _place(stop: str) -> str:
    """Where a process was stopped, in words; stop: a line of stops.txt."""
    kind, _, path = stop.partition(" ")
    if kind != "file":
        return {"update": "after an update", "seconds": path, "cache": "building the cache"}.get(kind, f"in a {kind}")
    places = {"preparation": "preparing pictures", "log": "in the log", "sweeps": "in the study"}
    return next((name for part, name in places.items() if f"saved/{part}" in path), "in another file")


def run_trials(trials: int, seed: int, scenarios: Sequence[str], folder: Path, first: int = 0) -> Iterator[Trial]:
    """Each in a folder of its own, which stays where the trial failed."""
    data = draw_small_data(folder / "data")
    references = {name: make_reference(name, folder / name, data) for name in scenarios}
    for number in range(first, first + trials):
        scenario = scenarios[number % len(scenarios)]
        trial = run_trial(number, seed, scenario, references[scenario], folder / str(number))
        if not trial.wrong:
            shutil.rmtree(folder / str(number))
        yield trial


def find_planted(plant: Callable[[], None], most_trials: int, seed: int, folder: Path, data: Path) -> Trial | None:
    """The first trial that a planted bug makes differ; None: it was not found."""
    reference = make_reference("training", folder / "reference", data, plant)
    trials = (
        run_trial(number, seed, "training", reference, folder / str(number), plant) for number in range(most_trials)
    )
    return next((trial for trial in trials if trial.wrong), None)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.harness.kill", description=(__doc__ or "").split(":")[0])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="the number of the first trial, to share them out")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--planted", action="store_true", help="find each of eight planted bugs within --trials trials")
    parser.add_argument("--folder", type=Path, help="for the runs; those that differ stay there (default: a new one)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it tells what is no longer shown after a resume
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="kill-"))
    folder.mkdir(exist_ok=True)
    begin = time.monotonic()
    if arguments.planted:
        data, found = draw_small_data(folder / "data"), 0
        for plant in PLANTED:
            (folder / plant.__name__).mkdir()
            trial = find_planted(plant, arguments.trials, arguments.seed, folder / plant.__name__, data)
            found += trial is not None
            print(f"{plant.__name__}: {trial or 'not found'} [{time.monotonic() - begin:.0f} s]", flush=True)
        print(f"planted bugs, seed {arguments.seed}: {found} of {len(PLANTED)}")
        sys.exit(found < len(PLANTED))
    good, stops = 0, Counter[str]()
    for trial in run_trials(arguments.trials, arguments.seed, arguments.scenarios, folder, arguments.first):
        good += not trial.wrong
        stops.update(map(_place, trial.stops))
        print(f"{trial} [{time.monotonic() - begin:.0f} s]", flush=True)
    print(f"stops: {', '.join(f'{number} {place}' for place, number in stops.most_common())}")
    print(f"kill, seed {arguments.seed}: {good} of {arguments.trials}")
    if good < arguments.trials:
        sys.exit(f"the runs that differ are in {folder}")


if __name__ == "__main__":
    sys.exit(run_command(main))
