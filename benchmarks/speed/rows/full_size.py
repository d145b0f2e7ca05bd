"""Memory and start of a run of the competition's size: 18,900 files to train on, 12,600 to answer.

Drawing them takes half an hour on two cores; name a folder with --data, and they are drawn once. A folder that
`python -m scripts.make_demo_data --train-table ...` has drawn will do, too."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.speed.measuring import Figure, Row, Target
from benchmarks.speed.processes import Watched, run_watched, seconds_to_line
from benchmarks.speed.workplace import SMALL_MODEL, Scale, Workplace
from data_loader.records.sources import read_evaluation_folder

SCALE = Scale(people=2_700, eval_people=1_800)
WORKERS = 2
TARGET = Target(10.0, 10.0, less_is_better=True)
"""Seconds, of a start from a warm cache."""
DRY_RUN_DONE = "dry run: "
"""How the line begins with which train.py tells that it would train now."""
GIB = 2**30


def measure(workplace: Workplace) -> Row:
    file = workplace.config_file(
        {
            "data_loader": {"args": {"cache": "disk", "num_workers": WORKERS, "valid_batch_size": 128}},
            "trainer": {"epochs": 1, "verbosity": 1},
        },
        "full_size",
    )
    dry_run = [sys.executable, "train.py", "--config", str(file), "--dry-run"]
    cold = run_watched(dry_run)
    warm = [seconds_to_line(dry_run, DRY_RUN_DONE) for _ in range(workplace.scale.rounds)]
    training = run_watched([sys.executable, "train.py", "--config", str(file)])
    run = newest_run(workplace.folder / "full_size" / "models")
    answers = run_watched(
        [
            sys.executable, "test.py", "--resume", str(run), "--checkpoint", "last", "--num-workers", str(WORKERS),
            "--output", str(workplace.folder / "full_size.csv"),
        ]
    )  # fmt: skip
    return Row(
        "A run of full size",
        [
            Figure("first start, the files checked and the cache built", "s", [cold.seconds]),
            Figure("start from a warm cache", "s", warm, TARGET),
            *memory_figures("first start", cold),
            Figure("training, one epoch and its validation", "s", [training.seconds]),
            *memory_figures("training", training),
            Figure("test.py, all answers", "s", [answers.seconds]),
            *memory_figures("test.py", answers),
        ],
        {
            "files": {
                "training": len(workplace.records),
                "evaluation": len(read_evaluation_folder(workplace.data / "eval")),
            },
            "side": workplace.scale.side,
            "workers": WORKERS,
            "cache": "disk",
            "model": SMALL_MODEL,
        },
        [
            "a start is train.py --dry-run from the call until it says that all went through: imports, tables, checks, "
            "model, loader, one update, one validation batch; the first one to the command's end, its memory looked at",
            "memory is that of all processes, sampled, what they share counted once; the pages of files (the cache on "
            "disk) are the system's to take back",
        ],
    )


def memory_figures(name: str, watched: Watched) -> list[Figure]:
    return [
        Figure(f"{name}: peak memory of all processes, without pages of files", "GiB", [watched.peak_own / GIB]),
        Figure(f"{name}: peak memory of all processes", "GiB", [watched.peak.whole / GIB]),
    ]


def newest_run(models: Path) -> Path:
    """The run that was begun last; their names sort by time."""
    return max(models.glob("*/*"), key=lambda run: run.name)
