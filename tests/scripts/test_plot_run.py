"""The command that draws a run's curves: the picture, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from scripts import plot_run
from utils.errors import run_command

pytest.importorskip("matplotlib")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    lines = [
        {"epoch": n, "train/loss": 1 / n, "val/loss": 1.2 / n, "val/f1": n / 4, "val/mask_f1": n / 5} for n in (1, 2)
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path


def test_a_picture_in_a_new_folder(log: Path) -> None:
    assert run_command(lambda: plot_run.main([str(log), "--output", str(log / "new folder" / "curve.png")])) == 0
    with Image.open(log / "new folder" / "curve.png") as picture:
        assert picture.format == "PNG"


@pytest.mark.parametrize("output", ["metrics.jsonl", "curve", "metrics.jsonl/curve.png"])
def test_what_is_no_picture_is_refused(log: Path, output: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = (log / "metrics.jsonl").read_bytes()
    assert run_command(lambda: plot_run.main([str(log), "--output", str(log / output)])) == 2
    assert capsys.readouterr().err.startswith(f"--output {log / output}: ")
    assert (log / "metrics.jsonl").read_bytes() == before
