"""The share of an epoch that a net waits for data, by how fast the net is: it is simulated, and computes nothing.

A net of 5,000 images/s is busy for 64 / 5,000 s with each batch. As the trainer does on a GPU (trainer/prefetch.py),
the loop asks for the next batch while the net is busy with one, and for no further one. It sleeps in between, so that
only worker processes go on. The same epoch fed from memory says what there is to reach."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.speed.feeding import Epoch, epochs_of, images_of
from benchmarks.speed.measuring import Contender, Figure, Row, Target, interleaved, one_thread, ratios
from benchmarks.speed.peers import teams_loader
from benchmarks.speed.peers_process import PeersProcess
from benchmarks.speed.workplace import Workplace

RATES = (1_000, 2_500, 5_000)
"""Images/s of the nets."""
WORKERS = 2
TARGET = Target(5.0, 1.0, less_is_better=True)
"""Per cent of the epoch, where the images are cached."""


TEAMS, MEMORY = "the teams' way", "synthetic batches in memory"
KEPT = ("memory", "disk")


class SimulatedEpoch(NamedTuple):
    """Seconds of the whole epoch, and of it those in which the net had nothing to do."""

    seconds: float
    waited: float

    @property
    def share_waited(self) -> float:
        """Per cent of the epoch."""
        return 100 * self.waited / self.seconds


Run = Callable[[], SimulatedEpoch]


def simulated_epoch(batches: Iterable[Any], rate: float) -> SimulatedEpoch:
    """A loop over batches with a net of `rate` images/s."""
    begin = free = time.perf_counter()  # free: when the net will be done with what it has
    waited = 0.0
    for batch in batches:
        arrived = time.perf_counter()
        waited += max(0.0, arrived - free)
        started = max(arrived, free)
        free = started + len(images_of(batch)) / rate
        time.sleep(max(0.0, started - time.perf_counter()))
    return SimulatedEpoch(max(free, time.perf_counter()) - begin, waited)


def measure(workplace: Workplace) -> Row:
    scale = workplace.scale
    figures: list[Figure] = []
    for rate in RATES:
        records = workplace.photographs(max(scale.batch_size, int(rate * scale.seconds)))
        runs: dict[str, Run] = {}
        with ExitStack() as stack:
            if rate == min(RATES):
                paths = [record.path for record in records]
                teams = partial(teams_simulated, paths, scale.side, scale.batch_size, rate)
                runs |= stack.enter_context(PeersProcess({TEAMS: teams})).contenders
                runs["JPEG"] = simulated(epochs_of(workplace.loader(records, cache="none", num_workers=WORKERS)), rate)
            for cache in KEPT:
                runs[cache] = simulated(epochs_of(workplace.loader(records, cache=cache, num_workers=WORKERS)), rate)
            figures += measure_rate(workplace, rate, len(records) // scale.batch_size, runs)
    return Row(
        "Waiting for data",
        figures,
        {
            "workers": WORKERS,
            "batch_size": scale.batch_size,
            "side": scale.side,
            "seconds_of_an_epoch": scale.seconds,
        },
        [
            "waiting: the share of the epoch in which the net has nothing to do, while the next batch is asked for one "
            "ahead; the first batch is included, whose share is smaller in a real epoch, which is longer",
            "hidden: the time of the same epoch fed from memory over its time; 100 % is an epoch without waiting",
        ],
    )


def simulated(begin: Epoch, rate: float) -> Run:
    """Begins an epoch each time, with one thread in this process."""

    def run() -> SimulatedEpoch:
        with one_thread():
            return simulated_epoch(begin(), rate)

    return run


def teams_simulated(paths: Sequence[Path], side: int, batch_size: int, rate: float) -> Run:
    return simulated(teams_loader(paths, side, batch_size, WORKERS).__iter__, rate)


def measure_rate(workplace: Workplace, rate: int, steps: int, runs: Mapping[str, Run]) -> list[Figure]:
    """How long each of the loaders lets a net of this rate wait, and how an epoch from memory compares."""
    scale = workplace.scale
    batch = (torch.zeros(scale.batch_size, 3, scale.side, scale.side, dtype=torch.uint8), None)
    shares: dict[str, list[float]] = {}

    def seconds(name: str, run: Run) -> Contender:
        def measure_once() -> float:
            epoch = run()
            shares.setdefault(name, []).append(epoch.share_waited)
            return epoch.seconds

        return measure_once

    everybody = {**runs, MEMORY: simulated(lambda: [batch] * steps, rate)}
    values = interleaved({name: seconds(name, run) for name, run in everybody.items()}, scale.rounds)
    figures = []
    for name in runs:
        target = TARGET if name in KEPT else None
        title = f"net of {rate:,} images/s, {name}"
        figures.append(Figure(f"{title}: waiting", "%", shares[name][1:], target))  # the first round warms up
        hidden = [100 * share for share in ratios(values[MEMORY], values[name])]
        figures.append(Figure(f"{title}: hidden", "%", hidden))
    return figures
