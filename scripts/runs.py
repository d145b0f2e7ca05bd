"""Lists, compares and explains runs:

python -m scripts.runs --sort val/f1
python -m scripts.runs diff saved/models/<name>/<run> saved/models/<name>/<other run>
python -m scripts.runs compare saved/models/<name>/<run> saved/models/<name>/<other run>
python -m scripts.runs explain saved/models/<name>/<run> optimizer.args.lr
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from experiment.comparison import compare_runs
from experiment.runs import RunSummary, compare_configs, explain, summarise_run, summarise_runs, unreadable_runs, usual
from experiment.search.results import summaries
from utils.command_line import CommandLine
from utils.errors import ConfigError, DataError, run_and_exit
from utils.wording import format_value, not_one_of

MOST_CHANGES = 4
"""A row of the list names so many; `runs diff` names all."""


def list_runs(save_dir: Path, sort: str | None) -> list[str]:
    """Lines of a table, a run each, the newest last, or the best by the metric `sort` first.
    With `sort` a row has the best value of that metric, as a sweep's, and its epoch.

    Raises DataError where there are no runs; ConfigError for a metric that none of them has."""
    if not save_dir.is_dir():
        raise DataError(f"--save-dir {save_dir}: there is no such folder; name the trainer.save_dir of the runs")
    runs, unreadable = summarise_runs(save_dir), unreadable_runs(save_dir)
    left_out = [f"{folder}: left out: it has no readable config.json" for folder in unreadable]
    if not runs:
        nothing = f"{save_dir}: holds no runs (looked for models/<name>/<run>/config.json)"
        raise DataError("\n".join([nothing, *left_out]))
    mode = "max"
    if sort is not None:
        known = sorted({name for run in runs for name in run.names()})
        if sort not in known:
            raise ConfigError(f"--sort {sort}: none of the runs has it: it {not_one_of(sort, known)}")
        if "loss" in sort or any(f"min {sort}" in _watched(run) for run in runs):
            mode = "min"
        values = {run.folder: run.best(sort, mode)[0] for run in runs}
        sign = 1 if mode == "min" else -1
        runs.sort(key=lambda run: math.inf if (value := values[run.folder]) is None else sign * value)
    validated = usual(run.validation_digest for run in runs)
    tested = usual(run.test.images_digest for run in runs if run.test)
    rows: list[tuple[str, ...]] = [("run", "best", "epoch", "minutes", "test", "validation set", "changes")]
    rows += [_row(run, sort, mode, validated, tested) for run in runs]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = [
        "  ".join([*(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in rows
    ]
    if any("*" in cell for row in rows for cell in row[4:6]):
        lines.append("* validated, or tested, on other images than most: its scores cannot be compared with theirs")
    return [line.rstrip() for line in [*lines, *left_out]]


def _watched(run: RunSummary) -> list[str | None]:
    trainer, sweep = run.config["trainer"], run.config.get("sweep") or {}
    return [trainer["monitor"], *trainer.get("save_best", []), sweep.get("metric")]


def _row(run: RunSummary, sort: str | None, mode: str, validated: str | None, tested: str | None) -> tuple[str, ...]:
    """sort: a metric, whose best epoch is shown; None: the monitor's best epoch is"""
    metric = sort or run.monitored
    value, best_epoch = (run.metrics.get(metric), run.best_epoch) if sort is None else run.best(metric, mode)
    digest = run.validation_digest
    total = run.config["trainer"]["epochs"]
    changes = [f"{key}={format_value(value)}" for key, value in run.changes.items()]
    more = f" and {len(changes) - MOST_CHANGES} more" if len(changes) > MOST_CHANGES else ""
    return (
        run.title,
        "-" if value is None else f"{metric} {value:.4f}",
        f"{run.epochs} done" if best_epoch is None else f"{best_epoch} of {run.epochs}/{total}",
        "-" if run.seconds is None else f"{run.seconds / 60:.1f}",
        "-" if run.test is None else f"{run.test}{'' if run.test.images_digest == tested else ' *'}",
        "-" if digest is None else f"{digest[:8]}{'' if digest == validated else ' *'}",
        ", ".join(changes[:MOST_CHANGES]) + more,
    )


def describe_difference(first: Path, second: Path) -> list[str]:
    """What differs between the configs of two runs, and their scores. Raises CheckpointError where one is no run."""
    one, other = summarise_run(first), summarise_run(second)
    lines = [f"- {one.title}", f"+ {other.title}"]
    for key, (before, after) in compare_configs(one.config, other.config).items():
        lines.append(f"{key}: {format_value(before)} -> {format_value(after)}")
    for name in sorted(one.metrics.keys() & other.metrics.keys()):
        if name.startswith(("val/", "test/")):
            before, after = one.metrics[name], other.metrics[name]
            lines.append(f"{name}: {before:.4f} -> {after:.4f} ({after - before:+.4f})")
    if one.validation_digest != other.validation_digest:
        lines.append("they were validated on different images: their scores cannot be compared")
    if one.test and other.test and one.test.images_digest != other.test.images_digest:
        lines.append("they were tested on different images: those scores cannot be compared")
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = CommandLine(prog="scripts.runs", description="Lists, compares and explains runs.")
    parser.add_argument("--save-dir", type=Path, default=Path("saved"), help="where the runs are (default: saved)")
    parser.add_argument("--sort", metavar="METRIC", help="the best first by this metric, such as val/f1")
    verbs = parser.add_subparsers(dest="verb", metavar="diff | compare | explain")
    diff = verbs.add_parser("diff", help="what differs between two runs")
    diff.add_argument("first", type=Path)
    diff.add_argument("second", type=Path)
    compared = verbs.add_parser("compare", help="which run is better, and how sure that is, by person")
    compared.add_argument("runs", nargs="+", type=Path, help="those that differ in the seed alone are one group")
    explained = verbs.add_parser("explain", help="which file or flag set a value of a run's config")
    explained.add_argument("run", type=Path)
    explained.add_argument("key", help="a key path, such as optimizer.args.lr, or optimizer for all below it")
    given = parser.parse(argv)
    if given.verb == "diff":
        lines = describe_difference(given.first, given.second)
    elif given.verb == "compare":
        lines = compare_runs(given.runs)
    elif given.verb == "explain":
        lines = [f"{key} = {format_value(value)}  ({origin})" for key, value, origin in explain(given.run, given.key)]
    else:
        lines = list_runs(given.save_dir, given.sort)
        for folder, summary in summaries(given.save_dir).items():
            lines += ["", f"sweep {folder}", *summary.splitlines()]
    print("\n".join(lines))


if __name__ == "__main__":
    run_and_exit(main)
