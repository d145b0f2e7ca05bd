"""The measurement of reported effects, at a tenth of its size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import effects


@pytest.mark.long
def test_a_seed_is_measured_and_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("PEOPLE", 20), ("NEW_PEOPLE", 10), ("IMAGE_HW", [32, 24])):
        monkeypatch.setattr(effects, name, value)
    monkeypatch.setattr(effects, "SETTINGS", {**effects.SETTINGS, "people": 20, "new_people": 10, "image_hw": [32, 24]})
    arguments = ["--seeds", "1", "--output", str(tmp_path)]
    effects.main(arguments)
    tables = capsys.readouterr().out
    assert "one 18-way head | three heads" in tables
    measured = json.loads((tmp_path / "results.json").read_text())["seeds"]
    assert list(measured) == ["1"]
    assert {"validation", "new_people"} <= measured["1"].keys()
    before = (tmp_path / "results.json").stat().st_mtime_ns
    effects.main(arguments)
    assert (tmp_path / "results.json").stat().st_mtime_ns == before
    assert capsys.readouterr().out.splitlines()[-5:] == tables.splitlines()[-5:]
