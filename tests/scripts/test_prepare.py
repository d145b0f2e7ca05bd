"""The command that prepares pictures into files: what it writes, leaves out, does again and refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from data_loader.preparation import BackgroundRemoval
from scripts import prepare
from tests.data_loader.preparation.tiny_networks import red_mask_network
from utils.errors import run_command
from utils.images import read_rgb

NAMES = ["p1/one.png", "p1/two.jpg", "p2/사진 three.png", "four.png"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """photos/ with a table, three pictures with a red person and one without, and a config that removes the rest."""
    monkeypatch.chdir(tmp_path)
    stream = np.random.default_rng(0)
    for number, name in enumerate(NAMES):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = stream.integers(0, 256, (40, 32, 3), dtype=np.uint8)
        image[..., 2] = 0
        if number != 3:
            image[5:30, 5:25, 2] = 255
        cv2.imwrite(str(path), image)
    (tmp_path / "photos" / "labels.csv").write_text("\n".join(["path,mask", *(f"{name},wear" for name in NAMES)]))
    (tmp_path / "red.onnx").write_bytes(red_mask_network(40, 32))
    write_config(tmp_path / "config.json")
    return tmp_path / "photos"


def write_config(path: Path, **settings: Any) -> None:
    args = {"backend": "onnx", "weights_file": "red.onnx", "input_size": [40, 32], "mean": [0, 0, 0], "std": [1, 1, 1]}
    path.write_text(json.dumps({"preparation": [{"type": "BackgroundRemoval", "args": {**args, **settings}}]}))


def run(*arguments: str) -> int:
    return run_command(lambda: prepare.main(list(arguments)))


@pytest.mark.parametrize("source", ["photos", "photos/labels.csv"])
def test_names_folders_and_tables_stay(folder: Path, source: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("over.json").write_text('{"extends": "config.json"}')
    assert run(source, "out", "--contact-sheet", "-c", "over.json") == 0
    out = folder.parent / "out"
    made = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert made == {*NAMES, "labels.csv", "prepared.csv", "preparation.json", "contact_sheet.jpg"}
    assert (out / "labels.csv").read_bytes() == (folder / "labels.csv").read_bytes()
    config: Any = json.loads((folder.parent / "config.json").read_text())
    args = config["preparation"][0]["args"]
    step = BackgroundRemoval(**{**args, "weights_file": Path("red.onnx"), "input_size": tuple(args["input_size"])})
    for name in NAMES:
        image = read_rgb(folder / name)
        expected = step.apply(image, step.find(image))
        tolerance = 0 if name.endswith("png") else 24
        assert np.abs(read_rgb(out / name).astype(int) - expected).max() <= tolerance
    np.testing.assert_array_equal(read_rgb(out / "four.png"), read_rgb(folder / "four.png"))
    report = capsys.readouterr().out
    assert "1 of 4 pictures (25.0%): four.png" in report
    sheet = read_rgb(out / "contact_sheet.jpg")
    assert sheet.shape == (168, 4 * 328, 3)
    framed = [(np.abs(sheet[84, 328 * n + 5].astype(int) - (220, 0, 0)) < 60).all() for n in range(4)]
    assert framed == [True, False, False, False]


def test_a_stopped_command_does_the_rest(folder: Path) -> None:
    assert run("photos", "out") == 0
    out = folder.parent / "out"
    rows = list(csv.reader((out / "prepared.csv").read_text().splitlines()))
    expected = {name: (out / name).read_bytes() for name in NAMES}
    # Killed while it wrote the third row: the fourth picture is not there, the third is, without its row.
    text = (out / "prepared.csv").read_text().splitlines(keepends=True)
    (out / "prepared.csv").write_text("".join([*text[:3], text[3][:9]]))
    missing = out / rows[4][0]
    missing.unlink()
    (folder / rows[1][0]).write_bytes((folder / rows[2][0]).read_bytes())  # this one has another content now
    untouched = (out / rows[2][0]).stat().st_mtime_ns
    assert run("photos", "out") == 0
    assert (out / rows[2][0]).stat().st_mtime_ns == untouched
    assert missing.read_bytes() == expected[rows[4][0]]
    assert (out / rows[1][0]).read_bytes() != expected[rows[1][0]]
    again = list(csv.reader((out / "prepared.csv").read_text().splitlines()))
    assert sorted(row[0] for row in again[1:]) == sorted(NAMES)


def test_tiff_is_left_out_with_a_word(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cv2.imwrite(str(folder / "scan.tif"), np.zeros((40, 32, 3), np.uint8))
    assert run("photos", "out") == 0
    assert "TIFF is not read: 1 left out, such as scan.tif; save as PNG" in "".join(capsys.readouterr())
    assert not (folder.parent / "out" / "scan.tif").exists()


def test_pictures_that_cannot_be_read_are_listed_and_the_others_done(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "p1" / "one.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    assert run("photos", "out") == 3
    assert "one.png" in capsys.readouterr().err
    assert (folder.parent / "out" / "four.png").is_file()
    assert not (folder.parent / "out" / "p1" / "one.png").exists()


def test_what_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = folder.parent
    for name in ("empty", "full"):
        (root / name).mkdir()
    (root / "full" / "notes.txt").write_text("")
    (root / "other.json").write_text('{"preparation": [{"type": "FaceCrop", "args": {"detektor": "haar"}}]}')
    (root / "none.json").write_text("{}")
    (root / "bad.csv").write_text("path\nphotos/absent.png\n")
    assert run("photos", "out") == 0
    write_config(root / "green.json", fill=[0, 255, 0])
    write_config(root / "lost.json", weights_file="lost.onnx")
    for code, words, arguments in (
        (2, "out: holds pictures that were prepared otherwise", ["photos", "out", "-c", "green.json"]),
        (2, "photos/new: is inside", ["photos", "photos/new"]),
        (2, "full: is not an empty folder", ["photos", "full"]),
        (2, "preparation.0.args.detektor", ["photos", "new", "-c", "other.json"]),
        (2, "preparation.0.args.weights_file = lost.onnx", ["photos", "new", "-c", "lost.json"]),
        (2, "name a config that has one, as with -c configs/face_crop.json", ["photos", "new", "-c", "none.json"]),
        (3, "absent", ["absent", "new"]),
        (3, "photos/four.png: is a picture, not a table; give the folder", ["photos/four.png", "new"]),
        (3, "holds no pictures (.jpg, .jpeg, .png, .webp, .bmp)", ["empty", "new"]),
        (3, "bad.csv row 2", ["bad.csv", "new"]),
    ):  # fmt: skip
        capsys.readouterr()
        assert run(*arguments) == code
        assert words in capsys.readouterr().err
    assert not (root / "new").exists()
