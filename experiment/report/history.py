"""How a run went: its curves, its times, and the warnings of its log."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiment.report.charts import LineChart, line_chart, sparkline
from logger.json_lines_tracker import TIMES_FILE, read_metrics
from logger.tracker import TIMES
from trainer.trainer import F1_BY_CLASS

LOG_FILE = "info.log"
MOST_CURVES = 8

Rows = Sequence[Mapping[str, Any]]

_LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),\d{3} ([A-Z]+) (.*)")
_WARNINGS = ("WARNING", "ERROR", "CRITICAL")


def charts_of_model(rows: Rows, attributes: Sequence[str], best_epoch: int | None) -> list[LineChart]:
    """Losses, scores of the joint class, macro F1 of each attribute, and the learning rates, by epoch."""
    heads = sorted({name for row in rows for name in row if name.startswith("val/loss_")})
    weights = sorted({name for row in rows for name in row if name.startswith("weight_")})
    made = [
        line_chart("Loss", _curves(rows, {"train/loss": "training", "val/loss": "validation"}), best_epoch),
        line_chart(
            "Macro F1 and accuracy, validation",
            _curves(rows, {"val/f1": "macro F1", "val/accuracy": "accuracy", "train/f1": "macro F1 in training"}),
            best_epoch,
            (0, 1),
        ),
        line_chart(
            "Macro F1 of each attribute, validation",
            _curves(rows, {f"val/{name}_f1": name for name in attributes[:MOST_CURVES]}),
            best_epoch,
            (0, 1),
        ),
        line_chart(
            "Loss of each head, validation",
            _curves(rows, {name: name.removeprefix("val/loss_") for name in heads[:MOST_CURVES]}) if heads[1:] else {},
            best_epoch,
        ),
        line_chart("Learning rate", _curves(rows, {"lr": "learning rate"}), best_epoch),
        line_chart("Weight of each loss", _curves(rows, {name: name for name in weights[:MOST_CURVES]}), best_epoch),
    ]
    return [chart for chart in made if chart is not None]


def charts_of_folds(folds: Mapping[int, Rows]) -> list[LineChart]:
    """The validation's loss and score of each fold, by epoch."""
    made = []
    for title, name, whole in (("Loss, validation", "val/loss", None), ("Macro F1, validation", "val/f1", (0.0, 1.0))):
        curves = {f"fold {fold}": _curves(rows, {name: "value"}).get("value", []) for fold, rows in folds.items()}
        made.append(line_chart(title, dict([*curves.items()][:MOST_CURVES]), None, whole))
    return [chart for chart in made if chart is not None]


def _curves(rows: Rows, names: Mapping[str, str]) -> dict[str, list[tuple[float, float]]]:
    curves = {
        title: [(row["epoch"], row[name]) for row in rows if row.get(name) is not None] for name, title in names.items()
    }
    return {title: points for title, points in curves.items() if points}


def sparklines(rows: Rows) -> dict[str, str]:
    """The F1 of each class by epoch, as points; by "<class>" of the joint class, else "<attribute> <class>"."""
    names = dict.fromkeys(name for row in rows for name in row if name.startswith(F1_BY_CLASS))
    return {name.removeprefix(F1_BY_CLASS): sparkline([row.get(name) for row in rows]) for name in names}


@dataclass(frozen=True)
class Speed:
    """The median epoch, of several the first left out: it warms up.

    waiting_share: of the training, in which the loop waited for the next images; None without any time
    """

    epochs: int
    epoch_seconds: float
    train_seconds: float
    images_per_second: float
    waiting_share: float


def speed(logs: Sequence[Path]) -> Speed | None:
    """Of the models whose log folders these are; None where they kept no times."""
    rows: list[Mapping[str, Any]] = []
    for log in logs:
        own = [row for row in read_metrics(log, TIMES_FILE) if row.get(f"{TIMES}epoch_seconds") is not None]
        rows += own[1:] or own
    if not rows:
        return None

    def median(name: str) -> float:
        return statistics.median(row.get(f"{TIMES}{name}") or 0.0 for row in rows)

    shares = [
        (row.get(f"{TIMES}waiting_seconds") or 0.0) / seconds
        for row in rows
        if (seconds := row.get(f"{TIMES}train_seconds"))
    ]
    return Speed(
        len(rows),
        median("epoch_seconds"),
        median("train_seconds"),
        median("images_per_second"),
        statistics.median(shares) if shares else 0.0,
    )


@dataclass(frozen=True)
class Warned:
    """A warning of a log; count: how often it stands there, when: the first time"""

    when: str
    text: str
    count: int


def warnings_of(logs: Sequence[Path]) -> list[Warned]:
    """What the logs in some folders warn of, in their order; each once."""
    found: dict[str, tuple[str, int]] = {}
    for log in logs:
        for when, level, text in _entries(log / LOG_FILE):
            if level in _WARNINGS:
                first, count = found.get(text, (when, 0))
                found[text] = (first, count + 1)
    return [Warned(when, text, count) for text, (when, count) in found.items()]


def _entries(file: Path) -> list[tuple[str, str, str]]:
    """Time, level and text of each; a text may have several lines."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    entries: list[tuple[str, str, str]] = []
    for line in lines:
        if match := _LINE.fullmatch(line):
            entries.append((match[1], match[2], match[3]))
        elif entries:
            when, level, text = entries[-1]
            entries[-1] = (when, level, f"{text}\n{line}")
    return entries
