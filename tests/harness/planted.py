"""Eight bugs for the harness to find: `python -m tests.harness.kill --planted`. Each is planted in the processes of a
trial, and in those of the run that it is compared with."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from logger import json_lines_tracker
from trainer import learner as learner_module
from trainer.epoch_metrics import EpochMetrics
from trainer.learner import Learner
from trainer.schedule import Schedule
from trainer.trainer import Trainer
from utils import files
from utils.random_streams import StreamPair


def _replace(owner: Any, name: str, value: Any) -> None:
    assert hasattr(owner, name), f"{name} has another name by now"
    setattr(owner, name, value)


def optimizer_not_restored() -> None:
    _replace(learner_module, "_load_optimizer_state", lambda _optimizer, _saved: None)


def schedule_not_restored() -> None:
    _replace(Schedule, "load_state_dict", lambda _self, _state: None)


def batches_done_not_restored() -> None:
    load = Trainer.load_state_dict

    def load_at_the_epoch_s_begin(trainer: Trainer, state: Mapping[str, Any], path: Path | None = None) -> None:
        load(trainer, state, path)
        trainer.batches_done = 0

    _replace(Trainer, "load_state_dict", load_at_the_epoch_s_begin)


def metric_counts_not_restored() -> None:
    _replace(EpochMetrics, "load_state_dict", lambda _self, _state: None)


def log_not_cut() -> None:
    _replace(json_lines_tracker, "_lines_up_to", lambda stored, _last_epoch: stored)


def random_state_not_restored() -> None:
    """The generators go on where they are, and begin anew with a process."""
    seed = Learner.seed_generators
    is_seeded: list[bool] = []

    def seed_once(learner: Learner, purpose: str, _epoch: int, _batch: int) -> None:
        if not is_seeded:
            is_seeded.append(True)
            seed(learner, purpose, 0, 0)

    _replace(Learner, "seed_generators", seed_once)


def augmentation_in_the_order_of_workers() -> None:
    """Each process counts its own images."""
    set_key = StreamPair.set_key
    counts: dict[int, int] = {}

    def set_count(streams: StreamPair, seed: int, purpose: str, *_numbers: int) -> None:
        counts[os.getpid()] = counts.get(os.getpid(), 0) + 1
        set_key(streams, seed, purpose, counts[os.getpid()])

    _replace(StreamPair, "set_key", set_count)


def write_not_atomic() -> None:
    def replace_in_place(path: Path, make: Callable[[Path], None]) -> None:
        temporary = path.with_name(f".{path.name}.whole")
        make(temporary)
        data = temporary.read_bytes()
        temporary.unlink()
        with path.open("wb", buffering=0) as file:
            for half in (data[: len(data) // 2], data[len(data) // 2 :]):
                file.write(half)
                os.fsync(file.fileno())

    _replace(files, "_replace", replace_in_place)


PLANTED = (
    optimizer_not_restored,
    schedule_not_restored,
    batches_done_not_restored,
    metric_counts_not_restored,
    log_not_cut,
    random_state_not_restored,
    augmentation_in_the_order_of_workers,
    write_not_atomic,
)
