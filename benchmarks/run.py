"""Measures what is fast here, side by side with what people use today: `python -m benchmarks.run`.

Prints the tables, and keeps every single measurement as JSON. See benchmarks/README.md for what the rows mean.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks import report as reports
from benchmarks.machine import file_stem
from benchmarks.speed.measuring import Row
from benchmarks.speed.rows import (
    cache_build,
    cpu_training,
    first_batch,
    full_size,
    gpu_training,
    loading,
    prediction,
    trainer_overhead,
    waiting,
)
from benchmarks.speed.workplace import FULL, QUICK, Scale, Workplace, new_folder
from utils.allocator import keep_freed_memory
from utils.command_line import CommandLine
from utils.device import choose_device
from utils.errors import ConfigError, run_and_exit
from utils.files import obstacle_to_replacing
from utils.run_folders import obstacle_to_writing
from utils.wording import not_one_of

README = Path(__file__).parent / "README.md"
RESULTS = Path(__file__).parent / "results"


class RowKind(NamedTuple):
    """A row and what it needs.

    measure: the function of its module
    needs: "" for nothing, "gpu", or "asking" for a row that is measured only when it is named
    """

    measure: Callable[[Workplace], Row]
    needs: str = ""


ROWS = {
    "loading": RowKind(loading.measure),
    "first_batch": RowKind(first_batch.measure),
    "cache_build": RowKind(cache_build.measure),
    "trainer_overhead": RowKind(trainer_overhead.measure),
    "cpu_training": RowKind(cpu_training.measure),
    "waiting": RowKind(waiting.measure),
    "prediction": RowKind(prediction.measure),
    **{case.row: RowKind(partial(gpu_training.measure, case=case), "gpu") for case in gpu_training.CASES},
    "full_size": RowKind(full_size.measure, "asking"),
}

GROUPS = {"gpu_training": [case.row for case in gpu_training.CASES]}
"""Names that stand for several rows."""


def run(arguments: argparse.Namespace) -> None:
    """Measures the rows one after the other, and writes the report after each."""
    names = chosen_rows(arguments.rows)
    device = choose_device(None)
    scale = scale_of(names, arguments.quick)
    report = reports.empty_report()
    stem = file_stem(report["machine"]) + ("-quick" if arguments.quick else "")
    output = arguments.output or RESULTS / f"{stem}.json"
    report = reports.read_report(output)
    if obstacle := obstacle_to_replacing(output, suffix=".json") or obstacle_to_writing(output.parent):
        raise ConfigError(f"--output {output}: cannot be written: {obstacle}")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmarks-")))
        data = arguments.data or folder / "data"
        for name in names:
            workplace = Workplace(new_folder(folder / name), data, scale, device)
            gc.collect()  # ends the workers of the row before
            begin = time.perf_counter()
            row = ROWS[name].measure(workplace)
            reports.add_row(report, name, row, asdict(scale))
            reports.write_report(output, report)
            print("\n".join(reports.row_lines(report["rows"][name], "##")))
            print(f"\n({name}: {time.perf_counter() - begin:.0f} s)\n", flush=True)
    if arguments.write_readme:
        reports.write_into_readme(README, reports.all_machines_markdown(RESULTS))
    print(f"{output}: {', '.join(report['rows'])}")


def chosen_rows(named: Sequence[str] | None) -> list[str]:
    """The rows to measure, in the order of ROWS. Raises ConfigError for an unknown row or one that needs a GPU."""
    if named is None:
        available = {"", "gpu"} if torch.cuda.is_available() else {""}
        return [name for name, kind in ROWS.items() if kind.needs in available]
    rows = {name: GROUPS.get(name, [name]) for name in named}
    problems = [f"--rows {name}: {not_one_of(name, [*ROWS, *GROUPS])}" for name in rows if rows[name][0] not in ROWS]
    if not problems and not torch.cuda.is_available():
        without = [name for name in rows if any(ROWS[row].needs == "gpu" for row in rows[name])]
        problems = [f"--rows {name}: needs a CUDA device, and there is none here" for name in without]
    if problems:
        raise ConfigError("\n".join(problems))
    chosen = {row for name in rows for row in rows[name]}
    return [name for name in ROWS if name in chosen]


def scale_of(names: Sequence[str], quick: bool) -> Scale:
    """How much is measured. Raises ConfigError for full_size beside other rows: it has a data set of its own."""
    if "full_size" not in names:
        return QUICK if quick else FULL
    if len(names) > 1:
        raise ConfigError("--rows full_size: is measured alone, on a data set of its own; name no other row beside it")
    return replace(full_size.SCALE, rounds=QUICK.rounds) if quick else full_size.SCALE


def main(argv: Sequence[str] | None = None) -> None:
    """The command. Raises ConfigError, and whatever the rows raise."""
    parser = CommandLine(prog="python -m benchmarks.run", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--rows", nargs="+", metavar="ROW", help=f"which: {', '.join([*ROWS, *GROUPS])} (default: all but full_size)"
    )
    parser.add_argument("--output", type=Path, help="the JSON to keep (default: benchmarks/results/<machine>.json)")
    parser.add_argument("--quick", action="store_true", help="three rounds of less, for a first look")
    parser.add_argument("--data", type=Path, help="a folder of photographs, or for them (default: drawn, and deleted)")
    parser.add_argument("--write-readme", action="store_true", help="put the tables into benchmarks/README.md")
    arguments = parser.parse(argv)
    if arguments.quick and arguments.write_readme:
        raise ConfigError("--write-readme: not with --quick, whose figures are a first look")
    if arguments.output and arguments.write_readme:
        raise ConfigError("--write-readme: not with --output: it shows the results in benchmarks/results")
    keep_freed_memory()  # as train.py does
    run(arguments)


if __name__ == "__main__":
    run_and_exit(main)
