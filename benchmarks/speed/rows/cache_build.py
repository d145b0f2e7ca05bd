"""Images/s of building the cache, against decoding the same files and throwing the images away."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2

from benchmarks.speed.measuring import Contender, Figure, Row, interleaved, one_thread, ratios, seconds_of
from benchmarks.speed.workplace import Workplace
from utils.images.decoding import read_rgb
from utils.threads import number_of_cores


def measure(workplace: Workplace) -> Row:
    contenders = {
        "cache on disk": built(workplace),
        "decoding alone": decoded(workplace),
        "decoding and resizing": decoded(workplace, resize=True),
    }
    values = interleaved(contenders, workplace.scale.rounds)
    figures = [Figure(name, "images/s", each) for name, each in values.items()]
    ratio = ratios(values["cache on disk"], values["decoding alone"])
    figures.append(Figure("cache on disk / decoding alone", "x", ratio))
    images = len(workplace.records)
    figures.append(Figure("cache on disk, whole build", "s", [images / each for each in values["cache on disk"]]))
    return Row(
        "Building the cache",
        figures,
        {"images": images, "side": workplace.scale.side, "threads": number_of_cores()},
        ["all that making the loader does is counted; that the files are sound is remembered from an earlier run"],
    )


def built(workplace: Workplace) -> Contender:
    """Making a loader where nothing is kept yet but the check of the files. (In memory a process keeps what it has.)"""
    records, save_dir = workplace.records, "build_disk"
    make = workplace.loader_maker(records, save_dir=save_dir, cache="disk", num_workers=0)

    def measure_once() -> float:
        workplace.forget_images(records, save_dir)
        return len(records) / seconds_of(make)

    return measure_once


def decoded(workplace: Workplace, resize: bool = False) -> Contender:
    """Every file once, in as many threads as there are cores."""
    paths, side = workplace.paths, workplace.scale.side

    def read(path: Path) -> None:
        image = read_rgb(path)
        if resize:
            cv2.resize(image, (side, side))

    def measure_once() -> float:
        with one_thread(), ThreadPoolExecutor(number_of_cores()) as pool:  # of each of the pool's
            return len(paths) / seconds_of(lambda: list(pool.map(read, paths)))

    return measure_once
