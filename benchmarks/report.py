"""The measurements as JSON and as Markdown."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.machine import commit, describe_machine, describe_versions
from benchmarks.speed.measuring import Figure, Row, Target
from utils.errors import ConfigError
from utils.files import write_atomically

FORMAT = "benchmarks/1"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


def empty_report() -> dict[str, Any]:
    """A report of this machine without a row."""
    return {"format": FORMAT, "machine": describe_machine(), "rows": {}}


def read_report(path: Path) -> dict[str, Any]:
    """The report in a file, or an empty one if there is no file.

    Raises ConfigError for another kind of file, or a report of another machine."""
    report = empty_report()
    if not path.exists():
        return report
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ConfigError(f"--output {path}: exists, and holds no results of this program; name another file")
    if found["machine"] != report["machine"]:
        raise ConfigError(f"--output {path}: was measured on another machine ({found['machine']}); name another file")
    return found


def add_row(report: dict[str, Any], name: str, row: Row, scale: Mapping[str, Any]) -> None:
    """Puts a row into the report, in place of an earlier one: with its date, commit and versions, since rows may be
    measured one by one."""
    report["rows"][name] = {
        "title": row.title,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "versions": describe_versions(),
        "scale": dict(scale),
        "settings": row.settings,
        "notes": row.notes,
        "missing": row.missing,
        "figures": [{**asdict(figure), "median": figure.median} for figure in row.figures],
    }


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode())


def all_machines_markdown(folder: Path) -> str:
    """The tables of every machine that has a report in the folder, without those of --quick."""
    files = sorted(path for path in folder.glob("*.json") if not path.stem.endswith("-quick"))
    return "\n\n".join(markdown(json.loads(path.read_text(encoding="utf-8"))) for path in files)


def markdown(report: Mapping[str, Any], heading: str = "###") -> str:
    """The machine, and a table for each row: the median over the rounds, the lowest and the highest, the targets."""
    machine = report["machine"]
    gpu = f", {machine['gpu']['name']}" if machine["gpu"] else ", no GPU"
    lines = [f"Machine: {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']:g} GiB{gpu}."]
    lines += [line for row in report["rows"].values() for line in ["", *row_lines(row, heading)]]
    return "\n".join(lines)


def row_lines(row: Mapping[str, Any], heading: str) -> list[str]:
    """One row's table."""
    versions = ", ".join(
        f"{name} {version}" for name, version in row["versions"].items() if name in ("python", "torch")
    )
    lines = [
        f"{heading} {row['title']}",
        "",
        f"{row['date'][:10]}, commit {row['commit'] or 'unknown'}, {versions}",
        "",
        "| | median | lowest to highest | rounds | unit | floor | aim | reached |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for values in row["figures"]:
        target = None if values["target"] is None else Target(**values["target"])
        figure = Figure(values["name"], values["unit"], values["values"], target)
        sign = "≤" if target is not None and target.less_is_better else "≥"
        targets = ["", ""] if target is None else [f"{sign} {_number(each)}" for each in (target.floor, target.aim)]
        spread = f"{_number(min(figure.values))} to {_number(max(figure.values))}" if len(figure.values) > 1 else ""
        measured = [_number(figure.median), spread, str(len(figure.values)), figure.unit]
        cells = [figure.name, *measured, *targets, figure.verdict()]
        lines.append(f"| {' | '.join(cells)} |")
    notes = [*row["notes"], *(f"not measured: {name}, {reason}" for name, reason in row["missing"].items())]
    return [*lines, *([""] if notes else []), *(f"- {note}" for note in notes)]


def _number(value: float) -> str:
    """With three significant digits, or whole from 100 on."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def write_into_readme(readme: Path, text: str) -> None:
    """Replaces the text between the two marks. Raises ConfigError if they are missing."""
    content = readme.read_text(encoding="utf-8")
    before, begin, rest = content.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ConfigError(f"{readme}: lacks the marks {BEGIN} and {END}, between which the tables go")
    write_atomically(readme, f"{before}{BEGIN}\n\n{text}\n\n{END}{after}".encode())
