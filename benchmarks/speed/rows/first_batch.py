"""Seconds from nothing to the first training batch: the loader alone, with a new cache and with a warm one."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import PROJECT
from benchmarks.speed.measuring import Contender, Figure, Row, Target, interleaved
from benchmarks.speed.workplace import Workplace, read_config
from data_loader.records import LabelTable, Record
from data_loader.splits import Split
from experiment.builders import build_data_loader, build_model, read_label_table
from experiment.folds import splits_of
from utils.allocator import keep_freed_memory
from utils.errors import run_and_exit

TARGET = Target(0.2, 0.1, less_is_better=True)
"""Seconds, for a warm cache."""
SMALL_SIDE = 64


def measure(workplace: Workplace) -> Row:
    records = workplace.records
    contenders: dict[str, Contender] = {}
    for workers in (0, 2):
        contenders[f"JPEG, {workers} workers"] = fresh_loader(workplace, records, cache="none", num_workers=workers)
        contenders[f"new cache on disk, {workers} workers"] = with_new_cache(workplace, records, workers)
        contenders[f"warm cache on disk, {workers} workers"] = fresh_loader(
            workplace, records, cache="disk", num_workers=workers
        )
    warm = {"cache": "disk", "num_workers": 2}
    contenders["warm cache on disk, 2 workers, fresh process"] = in_fresh_process(workplace, records, **warm)
    many = workplace.files(workplace.scale.files)
    small = {"input_size": SMALL_SIDE}  # since the disk need not hold gigabytes for one batch
    title = f"warm cache on disk of {len(many):,} small images"
    contenders[f"{title}, 0 workers"] = fresh_loader(workplace, many, cache="disk", num_workers=0, **small)
    contenders[f"{title}, 2 workers, fresh process"] = in_fresh_process(workplace, many, **warm, **small)
    values = interleaved(contenders, workplace.scale.rounds)
    figures = [Figure(name, "s", each, TARGET if name.startswith("warm") else None) for name, each in values.items()]
    return Row(
        "Time to the first batch",
        figures,
        {
            "images": len(records),
            "side": workplace.scale.side,
            "small_side": SMALL_SIDE,
            "batch_size": workplace.scale.batch_size,
        },
        [
            "from making the loader to its first batch; that the files are sound is remembered from an earlier run",
            "a fresh process has imported the modules, read the tables and built the model before the clock starts",
        ],
    )


def first_batch_seconds(make: Callable[[], Any]) -> float:
    """From the call that makes the loader to its first batch in hand."""
    begin = time.perf_counter()
    batches = make().train_batches(1)
    next(batches)
    seconds = time.perf_counter() - begin
    batches.close()
    return seconds


def fresh_loader(workplace: Workplace, records: list[Record], **arguments: Any) -> Contender:
    make = workplace.loader_maker(records, **arguments)
    return lambda: first_batch_seconds(make)


def with_new_cache(workplace: Workplace, records: list[Record], workers: int) -> Contender:
    """A cache that is built anew each time; the check of the files is kept."""
    make = workplace.loader_maker(records, save_dir="new", cache="disk", num_workers=workers)

    def measure_once() -> float:
        workplace.forget_images(records, "new")
        return first_batch_seconds(make)

    return measure_once


def in_fresh_process(workplace: Workplace, records: list[Record], **arguments: Any) -> Contender:
    """A process that makes one loader, as a run does: none of its workers has left memory to be had anew."""
    split = {"type": "NoSplit", "args": {}}
    file = workplace.config_file({"data_loader": {"args": arguments}, "split": split}, "process")
    paths = file.with_suffix(".paths")
    paths.write_text(json.dumps([str(record.path) for record in records]), encoding="utf-8")

    def measure_once() -> float:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.speed.rows.first_batch", str(file), str(paths)],
            cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
        return float(json.loads(done.stdout.splitlines()[-1]))

    return measure_once


def main(config_file: str, paths_file: str) -> None:
    """What runs in a fresh process: prints the seconds. paths_file: the photographs, as JSON."""
    config = read_config(Path(config_file))
    labels = config.shared("labels")
    records = cycle(splits_of(config, read_label_table(config, labels))[0].split.train.records)
    paths = map(Path, json.loads(Path(paths_file).read_text(encoding="utf-8")))
    images = [replace(record, path=path, name=path.name) for path, record in zip(paths, records, strict=False)]
    split = Split(*(LabelTable.from_records(side, labels) for side in (images, [], [])))
    model = build_model(config, labels, None)
    device = torch.device("cpu")
    print(first_batch_seconds(lambda: build_data_loader(config, split, model, device)))


if __name__ == "__main__":
    keep_freed_memory()  # as train.py does
    run_and_exit(lambda: main(*sys.argv[1:]))
