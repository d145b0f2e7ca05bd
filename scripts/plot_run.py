"""Draws a run's curves from its metrics.jsonl: python -m scripts.plot_run saved/log/<name>/<run> --output curve.png"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from logger.json_lines_tracker import METRICS_FILE, read_metrics
from utils.command_line import CommandLine
from utils.errors import ConfigError, DataError, run_and_exit, write_error

LEFT, RIGHT = ("train/loss", "val/loss"), ("val/f1", "val/accuracy")


def plot(lines: Sequence[dict[str, Any]], title: str, output: Path) -> None:
    """Losses on the left; on the right macro F1 and accuracy of the combined answer, and macro F1 of each attribute."""
    from matplotlib.figure import Figure  # slow

    attributes = sorted(name for name in lines[-1] if name.startswith("val/") and name.endswith("_f1"))
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for axes, names, label in zip(figure.subplots(1, 2), (LEFT, (*RIGHT, *attributes)), ("loss", "score"), strict=True):
        for name in names:
            points = [(line["epoch"], line[name]) for line in lines if line.get(name) is not None]
            if points:
                axes.plot(
                    *zip(*points, strict=True), label=name, marker=".", linewidth=2 if name in LEFT + RIGHT else 1
                )
        axes.set(xlabel="epoch", ylabel=label)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.suptitle(title)
    if output.suffix not in (".png", ".svg", ".pdf"):
        raise ConfigError(f"--output {output}: must end in .png, .svg or .pdf")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(output, dpi=110)
    except OSError as error:
        raise write_error(f"--output {output}", error) from None


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = CommandLine(prog="scripts.plot_run", description="Draws a run's curves from its metrics.jsonl.")
    parser.add_argument("log", type=Path, help="a run's log folder, saved/log/<name>/<run>")
    parser.add_argument("--output", type=Path, required=True, help="the picture to write, .png or .svg")
    parser.add_argument("--title", help="what stands above (default: the run's name)")
    given = parser.parse(argv)
    try:
        lines = read_metrics(given.log)
    except ValueError:
        raise DataError(f"{given.log / METRICS_FILE}: is damaged") from None
    if not lines:
        missing = "has no metrics.jsonl with an epoch; name a run's log folder, saved/log/<name>/<run>"
        raise DataError(f"{given.log}: {missing}")
    plot(lines, given.title or f"{given.log.parent.name} {given.log.name}", given.output)
    print(f"{given.output}: written")


if __name__ == "__main__":
    run_and_exit(main)
