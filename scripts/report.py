"""Writes the reports of runs again, each in its folder: python -m scripts.report saved/models/<name>/<run>"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from utils.command_line import CommandLine
from utils.errors import importing, run_and_exit


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = CommandLine(prog="scripts.report", description="Writes report.html of runs again, in their folders.")
    parser.add_argument(
        "runs", nargs="+", type=Path, help="a run's folder, saved/models/<name>/<run>, or a fold's in it"
    )
    given = parser.parse(argv)
    with importing():
        from experiment.report.report import make_report
    for run in given.runs:
        print(f"{make_report(run)}: written")


if __name__ == "__main__":
    run_and_exit(main)
