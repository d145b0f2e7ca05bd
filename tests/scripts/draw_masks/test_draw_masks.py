"""The command that draws masks on a table's faces: its table and files, a second run, and what is refused."""

from __future__ import annotations

import contextlib
import csv
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from base.label_space import LabelSpace
from data_loader.records.reading import read_records
from data_loader.records.sources import AttributeTable
from data_loader.splits import PersonSplit
from scripts import draw_masks
from scripts.demo_data.faces import draw_photograph
from scripts.demo_data.people import imagine_person
from utils.errors import run_command
from utils.images import read_rgb

HEADER = "File,Subject ID,Sex,age,mask,hair,split"
ROWS = [
    "p1/one.jpg,p1,male,61,,grey,train",
    "p1/two.png,p1,male,61,not_wear,grey,train",
    "p2/one.jpg,p2,female,,,,test",
    "사진 four.png,,,25,,black,train",
    "wall.png,p5,male,30,,,train",
    "masked.png,p6,male,30,wear,,train",
]
FACES = ["p1/one.jpg", "p1/two.png", "p2/one.jpg", "사진 four.png"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """faces/ with four drawn faces, a wall and a table; drawn/ is made of it by one process."""
    folder = tmp_path_factory.mktemp("draw_masks")
    for number, name in enumerate([*FACES, "wall.png", "masked.png"]):
        path = folder / "faces" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = draw_photograph(imagine_person(3, "train", number), "normal")[::3, ::3, ::-1]
        cv2.imwrite(str(path), np.full_like(image, 120) if name == "wall.png" else image)
    (folder / "faces" / "labels.csv").write_text("\n".join([HEADER, *ROWS]))
    with contextlib.chdir(folder):
        assert run("faces/labels.csv", "drawn", "--workers", "1", "--contact-sheet") == 0
    return folder


def run(*arguments: str) -> int:
    return run_command(lambda: draw_masks.main([*arguments, "--detector", "haar"]))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_face_is_there_eight_times_under_its_own_labels(place: Path) -> None:
    rows = list(csv.DictReader((place / "drawn" / "labels.csv").open(encoding="utf-8")))
    assert len(rows) == 8 * len(FACES)
    for number, name in enumerate(FACES):
        _, person, gender, age, _, hair, side = ROWS[number].split(",")
        own = rows[8 * number : 8 * number + 8]
        assert [row["mask"] for row in own] == ["wear"] * 5 + ["incorrect"] * 2 + ["not_wear"]
        kinds = [row["drawn_mask"] for row in own]
        assert len(set(kinds[:5])) == 5
        assert [kinds[5].split()[1], kinds[6].split()[1], kinds[7]] == ["below_nose", "on_chin", "none"]
        for row in own:
            known = [row[column] for column in ("person", "gender", "age", "hair", "split")]
            assert known == [person or name, gender, age, hair, side]
            assert (place / "drawn" / row["path"]).is_file()
    listed = (place / "drawn" / "without_face.csv").read_text().split()
    assert listed == ["path", "wall.png"]


def test_the_bare_picture_is_the_source_and_only_the_face_changes(place: Path) -> None:
    rows = list(csv.DictReader((place / "drawn" / "labels.csv").open(encoding="utf-8")))
    for number, name in enumerate(FACES):
        *drawn, bare = [place / "drawn" / row["path"] for row in rows[8 * number : 8 * number + 8]]
        assert bare.read_bytes() == (place / "faces" / name).read_bytes()
        before = read_rgb(bare).astype(int)
        for path in drawn:
            changed = np.abs(read_rgb(path).astype(int) - before).max(axis=2) > 40
            assert 0.005 < changed.mean() < 0.35
            assert not changed[:30].any()
    sheet = read_rgb(place / "drawn" / "contact_sheet.jpg")
    assert sheet.shape == (4 * 160, 8 * 160, 3)


def test_an_attribute_table_reads_it_and_no_split_cuts_a_person(place: Path) -> None:
    labels = LabelSpace(
        {
            "mask": {"classes": ["wear", "incorrect", "not_wear"]},
            "gender": {"classes": ["male", "female"]},
            "age": {"bins": [30, 60], "limits": [0, 120]},
        }
    )
    source = AttributeTable(str(place / "drawn" / "labels.csv"), split_column=None)
    table = read_records([source], labels)
    assert len(table) == 32
    assert {name: int((target >= 0).sum()) for name, target in table.targets.items()} == {
        "mask": 32, "gender": 24, "age": 24,
    }  # fmt: skip
    for seed in range(5):
        split = PersonSplit(0.4, seed=seed).divide(table, 0)
        sides = [{record.person for record in side.records} for side in (split.train, split.validation)]
        assert not sides[0] & sides[1]
        assert len(sides[0] | sides[1]) == 3


def test_the_files_do_not_depend_on_the_processes_and_a_stopped_run_does_the_rest(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    expected = files(place / "drawn")
    assert run("faces/labels.csv", "other", "--workers", "2", "--contact-sheet") == 0
    other = place / "other"
    assert files(other) == expected
    lost = [other / "images/p1/two/mask3.png", other / "images/p2/one/normal.jpg", other / "labels.csv"]
    for path in lost:
        path.unlink()
    kept = other / "images/p1/one/mask1.jpg"
    before = kept.stat().st_mtime_ns
    assert run("faces/labels.csv", "other", "--workers", "1", "--contact-sheet") == 0
    assert files(other) == expected
    assert kept.stat().st_mtime_ns == before
    capsys.readouterr()
    assert run("faces/labels.csv", "other", "--seed", "8") == 2
    assert "other: holds masks drawn from another table or with other settings" in capsys.readouterr().err
    assert files(other) == expected


def test_what_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(place)
    tables = {
        "no_path": "id,gender\n1,male\n",
        "two_paths": "file,image\nwall.png,wall.png\n",
        "missing": "path,gender\nabsent.png,male\n",
        "state": "path,mask\nwall.png,sometimes\n",
        "twice": "path\np1/one.jpg\np1/one.jpg\n",
        "covered": "path,mask\nmasked.png,wear\n",
        "faceless": "path\nwall.png\n",
    }
    for name, text in tables.items():
        (place / "faces" / f"{name}.csv").write_text(text)
    (place / "full").mkdir()
    (place / "full" / "notes.txt").write_text("")
    for code, words, arguments in (
        (3, "name it with --path-column", ["faces/no_path.csv", "new"]),
        (3, "faces/two_paths.csv: which column is the path, file or image? name it with --path-column", [
            "faces/two_paths.csv", "new"]),
        (3, "faces/no_path.csv: has no column", ["faces/no_path.csv", "new"]),
        (3, "faces/missing.csv row 2: ", ["faces/missing.csv", "new"]),
        (3, 'faces/state.csv row 2: mask = "sometimes"', ["faces/state.csv", "new"]),
        (3, "faces/twice.csv row 2; remove the row, or rename the picture", ["faces/twice.csv", "new"]),
        (3, 'faces/covered.csv: has no bare face; give pictures whose mask is', ["faces/covered.csv", "new"]),
        (3, "faces/faceless.csv: no face was found in any of 1 picture; try", ["faces/faceless.csv", "empty"]),
        (3, "faces/absent.csv: there is no such file", ["faces/absent.csv", "new"]),
        (2, "full: is not an empty folder", ["faces/labels.csv", "full"]),
        (2, "--workers 0", ["faces/labels.csv", "new", "--workers", "0"]),
        (2, "--min-confidence 7", ["faces/labels.csv", "new", "--min-confidence", "7"]),
        (2, "--detector haar: weights_file", ["faces/labels.csv", "new", "--weights-file", "x.onnx"]),
    ):  # fmt: skip
        capsys.readouterr()
        assert run(*arguments) == code
        lines = capsys.readouterr().err.splitlines()
        assert words in lines[-1]
        assert not (place / "new").exists()


def test_odd_labels_are_said_and_one_is_no_plural(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    rows = ["path,gender,age", "p1/one.jpg,alien,old", "p1/two.png,female,-5", "p2/one.jpg,,"]
    (place / "faces" / "odd.csv").write_text("\n".join(rows))
    assert run("faces/odd.csv", "odd", "--workers", "1") == 0
    printed = "".join(capsys.readouterr())
    for row, words in ((2, 'gender = "alien" is not one of male, female'), (2, 'age = "old" is not a number from 0'),
                       (3, 'age = "-5" is not a number from 0 to 120')):  # fmt: skip
        assert f"faces/odd.csv row {row}: {words}" in printed
    assert printed.count("is not") == 3
    (place / "faces" / "single.csv").write_text("path,person\np1/one.jpg,p1\n")
    assert run("faces/single.csv", "single", "--workers", "1") == 0
    printed = "".join(capsys.readouterr())
    assert "8 images of 1 face of 1 person\n" in printed
    assert "1 faces" not in printed


def test_a_picture_that_cannot_be_read_is_named_and_the_others_are_drawn(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(place / "faces", tmp_path / "faces")
    (tmp_path / "faces" / "p1" / "two.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    (tmp_path / "faces" / "labels.csv").write_text("\n".join([HEADER, *ROWS[:2]]))
    assert run(str(tmp_path / "faces" / "labels.csv"), str(tmp_path / "drawn"), "--workers", "1") == 3
    assert "labels.csv row 3: " in capsys.readouterr().err
    assert len((tmp_path / "drawn" / "labels.csv").read_text(encoding="utf-8").splitlines()) == 1 + 8
