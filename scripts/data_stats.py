"""What a config's data holds: python -m scripts.data_stats -c config.json [--set ...] [--output stats.json]

Of each side of the split: images, persons, classes, numbers, sizes. Of the training images: the mean and standard
deviation of their pixels, as decoded, before any transform.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from data_loader.records.image_check import CHECKED_IMAGES_FILE, check_images
from data_loader.records.statistics import label_statistics, mean_and_std, measure_images, spread
from data_loader.splits import KFoldSplit
from experiment.builders import read_label_table
from experiment.checks import check_config, cross_checks
from experiment.cli import parse_override
from experiment.schema import SECTIONS
from logger.log import close_log, open_log
from parse_config import ConfigParser
from utils.command_line import CommandLine
from utils.errors import ConfigError, DataError, run_and_exit
from utils.files import obstacle_to_replacing, write_output
from utils.run_folders import obstacle_to_writing

Row = tuple[str, list[str]]
"""A label, and a cell for each side."""


def collect(config: ConfigParser, log: Callable[[str], None]) -> dict[str, Any]:
    """All statistics of a config's data, as plain data. Raises ConfigError, DataError."""
    labels = check_config(config)
    split = config.build("split")
    if isinstance(split, KFoldSplit) and split.fold is None:
        split.fold = 0
        log(f"the sides are those of fold 0 of {split.folds}")
    divided = split.divide(read_label_table(config, labels), config.extra().seed)
    sides = {"train": divided.train, "validation": divided.validation, "test": divided.test}
    cache = Path(config.extra("trainer").save_dir) / CHECKED_IMAGES_FILE
    policy, bits = (config["data_loader"]["args"][name] for name in ("on_bad_image", "bits_used_of_16"))
    paths = [record.path for side in sides.values() for record in side.records]
    bad = set(check_images(paths, cache, policy, bits, show_progress=True))
    sides = {name: side.without(bad) for name, side in sides.items()}
    sides = {name: side for name, side in sides.items() if len(side)}
    if "train" not in sides:
        raise DataError(f"none of the {len(divided.train)} training images can be read: there is nothing to count")
    sizes, level_counts = measure_images({name: side.records for name, side in sides.items()}, bits, True)
    mean, std = mean_and_std(level_counts)
    statistics = {side: label_statistics(table) for side, table in sides.items()}
    for side, found in statistics.items():
        found["sizes"] = {name: spread(sizes[side][:, axis]) for axis, name in enumerate(("height", "width"))}
    return {
        "sides": statistics,
        "training_pixels": {"pixels": int(level_counts[0].sum()), "mean": mean, "std": std},
        "normalize": suggested_normalize(mean, std),
    }


def suggested_normalize(mean: Sequence[float], std: Sequence[float]) -> dict[str, Any] | None:
    """The transform of these pixels; None where a channel's standard deviation is 0, which nothing is divided by."""
    rounded = {"mean": [round(value, 4) for value in mean], "std": [round(value, 4) for value in std]}
    return {"type": "Normalize", "args": rounded} if all(rounded["std"]) else None


def table(found: dict[str, Any]) -> list[str]:
    """The statistics as lines: a column for each side."""
    sides = list(found["sides"].values())
    rows: list[Row] = [("", list(found["sides"]))]
    rows += [(name, [f"{side[name]:,}" for side in sides]) for name in ("images", "persons")]
    attributes = sides[0]["attributes"]
    for name in attributes:
        rows += _class_rows(name, [side["attributes"][name] for side in sides])
    if len(attributes) > 1 and "answer" in sides[0]:
        rows += _class_rows("answer", [side["answer"] for side in sides])
    for name, classes in sides[0]["training_classes"].items():
        if name not in attributes or list(classes) != list(attributes[name]["classes"]):
            rows.append((f"training classes of head {name}", []))
            rows += [(f"  {each}", [f"{side['training_classes'][name][each]:,}" for side in sides]) for each in classes]
    rows += [(f"{name} in pixels", [_span(side["sizes"][name]) for side in sides]) for name in ("height", "width")]
    wide = max(len(label) for label, _ in rows)
    lines = [f"{label:<{wide}}{''.join(f'{cell:>24}' for cell in cells)}".rstrip() for label, cells in rows]
    pixels = found["training_pixels"]
    by_channel = "  ".join(
        f"{channel} {mean:.4f} +- {std:.4f}"
        for channel, mean, std in zip("RGB", pixels["mean"], pixels["std"], strict=True)
    )
    suggestion = json.dumps(found["normalize"]) if found["normalize"] else "a channel is constant: no Normalize fits"
    return [*lines, f"{pixels['pixels']:,} training pixels, of 0 to 1: {by_channel}", suggestion]


def _class_rows(name: str, parts: Sequence[dict[str, Any]]) -> list[Row]:
    """parts: of each side, the counts of one attribute or of the answer."""
    rows: list[Row] = [(name, [])]
    rows += [(f"  {each}", [_counted(part["classes"][each]) for part in parts]) for each in parts[0]["classes"]]
    if any(part["unknown"]["images"] for part in parts):
        rows.append(("  unknown", [_counted(part["unknown"]) for part in parts]))
    numbers = [part.get("numbers", {}) for part in parts]
    if any(numbers):
        rows.append((f"{name}: lowest, median, highest", [_span(each) for each in numbers]))
    return rows


def _counted(part: dict[str, Any]) -> str:
    return f"{part['images']:,} {part['share']:7.1%}"


def _span(part: dict[str, Any]) -> str:
    return f"{part['lowest']:g} .. {part['median']:g} .. {part['highest']:g}" if part else ""


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = CommandLine(
        prog="scripts.data_stats", description="Counts what a config's data holds, and measures its images."
    )
    parser.add_argument("-c", "--config", type=Path, default=Path("config.json"), help="the config (config.json)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="a.b.c=value", help="sets one value of the config"
    )
    parser.add_argument("--output", type=Path, help="a JSON file to write the statistics to, too")
    given = parser.parse(argv)
    overrides = [parse_override(text) for text in given.set]
    if given.output is not None:
        obstacle = obstacle_to_replacing(given.output, [given.config], ".json") or obstacle_to_writing(
            given.output.parent
        )
        if obstacle:
            raise ConfigError(f"--output {given.output}: cannot be written: {obstacle}")
    log = open_log(None, 1)
    try:
        config = ConfigParser.from_file(given.config, SECTIONS, overrides, cross_checks, environment=True)
        found = collect(config, log.info)
        for line in table(found):
            log.info("%s", line)
        if given.output is not None:
            write_output(given.output, json.dumps(found, indent=4, ensure_ascii=False))
            log.info("%s: written", given.output)
    finally:
        close_log()


if __name__ == "__main__":
    run_and_exit(main)
