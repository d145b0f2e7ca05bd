"""What is kept and shown of measurements."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path

import pytest

from benchmarks.machine import file_stem
from benchmarks.report import (
    add_row,
    all_machines_markdown,
    empty_report,
    markdown,
    read_report,
    write_into_readme,
    write_report,
)
from benchmarks.speed.measuring import Figure, Row, Target
from utils.errors import ConfigError

ROW = Row(
    "Loader",
    [
        Figure("ours", "images/s", [9000.4, 8000.2, 9500.0]),
        Figure("ours / theirs", "x", [9.0, 11.0, 10.5], Target(7, 10)),
        Figure("first batch", "s", [0.15, 0.2, 0.12], Target(0.2, 0.1, less_is_better=True)),
    ],
    {"side": 240},
    ["a note"],
    {"timm": "not installed"},
)


def test_a_report_reads_back_and_obeys_its_schema(tmp_path: Path) -> None:
    report = read_report(tmp_path / "results" / "machine.json")
    assert report["rows"] == {}
    add_row(report, "loading", ROW, {"rounds": 3})
    write_report(tmp_path / "results" / "machine.json", report)
    written = json.loads((tmp_path / "results" / "machine.json").read_text())
    assert written == read_report(tmp_path / "results" / "machine.json")
    assert written["rows"]["loading"]["figures"][1]["median"] == 10.5
    assert written["rows"]["loading"]["figures"][1]["values"] == [9.0, 11.0, 10.5]


def test_a_row_that_is_measured_again_replaces_itself_alone() -> None:
    report = empty_report()
    add_row(report, "loading", ROW, {"rounds": 3})
    add_row(report, "waiting", ROW, {"rounds": 3})
    add_row(report, "loading", Row("Again", [Figure("ours", "s", [1.0])]), {"rounds": 5})
    assert [row["title"] for row in report["rows"].values()] == ["Again", "Loader"]


def test_the_table() -> None:
    report = empty_report()
    add_row(report, "loading", ROW, {"rounds": 3})
    lines = markdown(report).splitlines()
    assert f"{report['machine']['cores']} cores" in lines[0]
    assert "### Loader" in lines
    assert "| ours | 9,000 | 8,000 to 9,500 | 3 | images/s |  |  |  |" in lines
    assert "| ours / theirs | 10.5 | 9 to 11 | 3 | x | ≥ 7 | ≥ 10 | aim |" in lines
    assert "| first batch | 0.15 | 0.12 to 0.2 | 3 | s | ≤ 0.2 | ≤ 0.1 | floor |" in lines
    assert "- a note" in lines
    assert "- not measured: timm, not installed" in lines
    columns = {line.count("|") for line in lines if line.startswith("|")}
    assert columns == {9}


def test_the_readme_shows_all_machines_but_no_first_look(tmp_path: Path) -> None:
    for cpu, stem in (("Another", "another"), ("Some", "some"), ("Some", "some-quick")):
        report = empty_report()
        report["machine"]["cpu"] = cpu
        add_row(report, "loading", ROW, {"rounds": 3})
        write_report(tmp_path / f"{stem}.json", report)
    machines = [line for line in all_machines_markdown(tmp_path).splitlines() if line.startswith("Machine: ")]
    assert [line.partition(",")[0] for line in machines] == ["Machine: Another", "Machine: Some"]


@pytest.mark.parametrize("content", ["[1]", "no JSON", '{"format": "other"}'])
def test_a_foreign_file_is_not_replaced(content: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(content)
    with pytest.raises(ConfigError, match="holds no results"):
        read_report(file)


def test_results_of_another_machine_are_not_mixed_with_these(tmp_path: Path) -> None:
    report = empty_report()
    report["machine"]["cpu"] = "Another"
    write_report(tmp_path / "results.json", report)
    with pytest.raises(ConfigError, match="measured on another machine"):
        read_report(tmp_path / "results.json")


def test_the_block_of_the_readme_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("above\n<!-- results: begin -->\nold\n<!-- results: end -->\nbelow\n")
    for text in ("new", "newer"):
        write_into_readme(readme, text)
    assert readme.read_text() == "above\n<!-- results: begin -->\n\nnewer\n\n<!-- results: end -->\nbelow\n"
    readme.write_text("without marks")
    with pytest.raises(ConfigError, match="lacks the marks"):
        write_into_readme(readme, "new")


def test_a_report_names_no_host_and_no_place_of_the_machine() -> None:
    report = empty_report()
    add_row(report, "loading", ROW, {"rounds": 3})
    text = json.dumps(report)
    for name in (platform.node(), platform.release(), str(Path.home()), str(Path(__file__).parents[2]), sys.prefix):
        assert name not in text
    assert report["machine"].keys() == {"cpu", "cores", "memory_gib", "gpu", "system"}


def test_the_name_of_a_machines_file() -> None:
    machine = {"cpu": "AMD EPYC(TM) 7B13", "cores": 2, "gpu": None}
    assert file_stem(machine) == "amd-epyc-tm-7b13-2-cores"
    assert file_stem({**machine, "gpu": {"name": "NVIDIA H200"}}) == "amd-epyc-tm-7b13-2-cores-nvidia-h200"
