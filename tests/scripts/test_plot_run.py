"""The command that draws a run's curves: the picture, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from scripts import plot_run
from utils.errors import run_command


@pytest.fixture
def log(tmp_path: Path) -> Path:
    lines = [
        {"epoch": n, "train/loss": 1 / n, "val/loss": 1.2 / n, "val/f1": n / 4, "val/mask_f1": n / 5} for n in (1, 2)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return tmp_path


def test_a_picture_in_a_new_folder(log: Path) -> None:
    assert run_command(lambda: plot_run.main([str(log), "--output", str(log / "new folder" / "curve.png")])) == 0
    with Image.open(log / "new folder" / "curve.png") as picture:
        assert picture.format == "PNG"


@pytest.mark.parametrize("content", [None, '{"epoch": 1, "val', "no JSON\n"])
def test_a_folder_without_an_epoch_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "metrics.jsonl").write_text(content)
    assert run_command(lambda: plot_run.main([str(tmp_path), "--output", str(tmp_path / "curve.png")])) == 3
    assert not (tmp_path / "curve.png").exists()


@pytest.mark.parametrize("output", ["metrics.jsonl", "curve", "metrics.jsonl/curve.png"])
def test_what_is_no_picture_is_refused(log: Path, output: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = (log / "metrics.jsonl").read_bytes()
    assert run_command(lambda: plot_run.main([str(log), "--output", str(log / output)])) == 2
    assert capsys.readouterr().err.startswith(f"--output {log / output}: ")
    assert (log / "metrics.jsonl").read_bytes() == before
