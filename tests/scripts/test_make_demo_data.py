"""The drawn data set: its layout, its answers, its sameness for any number of processes, what gives labels away."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scripts.demo_data.faces import STEMS, contact_sheet, draw_person, draw_photograph
from scripts.demo_data.people import imagine_person
from scripts.make_demo_data import main, make_demo_data, make_from_tables
from utils.errors import ConfigError, DataError, run_command

SEED, PEOPLE, EVAL_PEOPLE = 7, 4, 2


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("drawn") / "demo"
    make_demo_data(output, PEOPLE, EVAL_PEOPLE, SEED, workers=1)
    return output


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def digests(folder: Path, pattern: str) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob(pattern))
    }


def read(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert image is not None
    return image[..., ::-1]


def difference(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first.astype(float) - second.astype(float)).mean())


def test_layout_is_the_competitions(drawn: Path) -> None:
    rows = rows_of(drawn / "train" / "train.csv")
    assert (drawn / "train" / "train.csv").read_text().splitlines()[0] == "id,gender,race,age,path"
    assert len({row["id"] for row in rows}) == PEOPLE
    for row in rows:
        assert row["path"] == f"{row['id']}_{row['gender']}_{row['race']}_{row['age']}"
        folder = drawn / "train" / "images" / row["path"]
        assert {path.name for path in folder.iterdir()} == {f"{stem}.jpg" for stem in STEMS}
        for path in folder.iterdir():
            assert read(path).shape == (512, 384, 3)
    info = rows_of(drawn / "eval" / "info.csv")
    assert len(info) == EVAL_PEOPLE * 7
    assert {row["ans"] for row in info} == {"0"}
    assert {path.name for path in (drawn / "eval" / "images").iterdir()} == {row["ImageID"] for row in info}
    assert all(re.fullmatch(r"[0-9a-f]{40}\.jpg", row["ImageID"]) for row in info)
    assert "drawn" in (drawn / "README.md").read_text()
    assert "drawn" in json.loads((drawn / "demo_data.json").read_text())["data"]


def test_eval_answers_are_those_of_the_pictures(drawn: Path) -> None:
    """Each file is compared with every photograph that it may be; the class follows from the one that it is."""
    answers = rows_of(drawn / "eval_answers.csv")
    assert [row["ImageID"] for row in answers] == [row["ImageID"] for row in rows_of(drawn / "eval" / "info.csv")]
    candidates = {}
    for index in range(EVAL_PEOPLE):
        person = imagine_person(SEED, "eval", index)
        for stem, picture in draw_person(person).items():
            mask = {"incorrect_mask": 1, "normal": 2}.get(stem, 0)
            age = 0 if person.age < 30 else 1 if person.age < 60 else 2
            answer = mask * 6 + (3 if person.gender == "female" else 0) + age
            candidates[f"eval_{index + 1:06d}", stem] = (picture, answer)
    found = []
    for row in answers:
        image = read(drawn / "eval" / "images" / row["ImageID"])
        best = min(candidates, key=lambda key: difference(image, candidates[key][0]))
        assert difference(image, candidates[best][0]) < 8
        assert (row["person"], int(row["ans"])) == (best[0], candidates[best][1])
        found.append(best)
    assert len(set(found)) == EVAL_PEOPLE * 7
    assert found != sorted(found)  # the rows are shuffled
    assert [row["ImageID"] for row in answers] != sorted(row["ImageID"] for row in answers)


def test_files_do_not_depend_on_processes_or_on_how_many_people_are_drawn(drawn: Path, tmp_path: Path) -> None:
    make_demo_data(tmp_path / "fewer", PEOPLE - 1, EVAL_PEOPLE - 1, SEED, workers=2)
    fewer = digests(tmp_path / "fewer", "*/images/**/*.jpg")
    all_files = digests(drawn, "*/images/**/*.jpg")
    assert len(fewer) == 7 * (PEOPLE - 1 + EVAL_PEOPLE - 1)
    train = {name: digest for name, digest in fewer.items() if name.startswith("train")}
    assert train.items() <= all_files.items()
    assert fewer.keys() - train.keys() <= all_files.keys()
    assert {fewer[name] for name in fewer.keys() - train.keys()} <= set(all_files.values())


def test_a_second_call_draws_nothing_and_a_part_is_completed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "demo"
    make_demo_data(output, 1, 1, SEED, workers=1)
    before = digests(output, "**/*.*")
    marker = output / "demo_data.json"
    with monkeypatch.context() as patch:
        patch.setattr("scripts.make_demo_data.draw_photograph", lambda *_: pytest.fail("drawn again"))
        make_demo_data(output, 1, 1, SEED, workers=1)
        assert "already drawn" in capsys.readouterr().out
    # A file that is gone, or a run that was stopped before the end: the whole is drawn again.
    next((output / "eval" / "images").iterdir()).unlink()
    make_demo_data(output, 1, 1, SEED, workers=1)
    assert digests(output, "**/*.*") == before
    marker.write_text(marker.read_text().replace("true", "false"))
    make_demo_data(output, 1, 1, SEED, workers=1)
    assert digests(output, "**/*.*") == before
    with pytest.raises(ConfigError, match=r"holds other drawn data .*'people': 1"):
        make_demo_data(output, 2, 1, SEED, workers=1)
    assert digests(output, "**/*.*") == before


def test_a_folder_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photographs.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"is not empty and holds no drawn data"):
        make_demo_data(tmp_path, 1, 1, SEED, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["photographs.txt"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "OUT", "--people", "0"], "--people 0: must be at least 1"),
        (["--people", "3"], "--output is missing"),
        (["--output", "OUT", "--train-table", "train.csv"], "go together"),
        (["--output", "OUT/file"], "file"),
        (["--contact-sheet", "sheet.gif"], "must end in .png"),
    ],
)
def test_wrong_arguments_are_one_line_and_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    output = tmp_path / "out"
    arguments = [part.replace("OUT/file", str(tmp_path / "file")).replace("OUT", str(output)) for part in arguments]
    assert run_command(lambda: main(arguments)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not output.exists()


TRAIN_TABLE = """id,gender,race,age,path
003397,female,Asian,20,003397_female_Asian_20
003397,female,Asian,19,003397_female_Asian_19
000748-1,male,Asian,60,000748-1_male_Asian_60
"""
TRAIN_FILES = """path,label
003397_female_Asian_20/mask1.png,3
003397_female_Asian_20/normal.JPG,15
003397_female_Asian_19/mask1.jpeg,3
000748-1_male_Asian_60/normal.jpg,2
"""
EVAL_TABLE = "ImageID,ans\n" + "".join(f"{number:040x}.jpg,0\n" for number in range(9, 0, -1))


def write_tables(folder: Path, **changed: str) -> tuple[Path, Path, Path]:
    texts = {"train_table": TRAIN_TABLE, "train_files": TRAIN_FILES, "eval_table": EVAL_TABLE, **changed}
    for name, text in texts.items():
        (folder / f"{name}.csv").write_text(text, encoding="utf-8")
    return folder / "train_table.csv", folder / "train_files.csv", folder / "eval_table.csv"


def test_tables_give_their_very_people_and_files(tmp_path: Path) -> None:
    output = tmp_path / "out"
    make_from_tables(output, *write_tables(tmp_path), seed=SEED, workers=1)
    assert (output / "train" / "train.csv").read_text() == TRAIN_TABLE
    files = {
        path.relative_to(output / "train" / "images").as_posix() for path in (output / "train/images").glob("*/*.*")
    }
    assert files == {line.split(",")[0] for line in TRAIN_FILES.splitlines()[1:]}
    assert (output / "train/images/003397_female_Asian_20/mask1.png").read_bytes()[1:4] == b"PNG"
    for name in ("003397_female_Asian_20/normal.JPG", "003397_female_Asian_19/mask1.jpeg"):
        assert (output / "train/images" / name).read_bytes()[:2] == b"\xff\xd8"
    # The same id on two folders: two people. And a file's pixels follow its label, not its name.
    first = imagine_person(SEED, "train", 0, "female", 20)
    second = imagine_person(SEED, "train", 1, "female", 19)
    assert np.array_equal(
        read(output / "train/images/003397_female_Asian_20/mask1.png"), draw_photograph(first, "mask1")
    )
    assert (
        difference(read(output / "train/images/003397_female_Asian_19/mask1.jpeg"), draw_photograph(second, "mask1"))
        < 8
    )
    bare = read(output / "train/images/000748-1_male_Asian_60/normal.jpg")
    masked = draw_photograph(imagine_person(SEED, "train", 2, "male", 60), "normal", "wear")
    assert difference(bare, masked) < 8  # label 2: mask worn, male, 60 or more
    assert (output / "eval" / "info.csv").read_text() == EVAL_TABLE
    answers = rows_of(output / "eval_answers.csv")
    assert [row["ImageID"] for row in answers] == [line.split(",")[0] for line in EVAL_TABLE.splitlines()[1:]]
    assert {row["person"] for row in answers} == {"eval_000001", "eval_000002"}


@pytest.mark.parametrize(
    ("table", "text", "message"),
    [
        ("train_table", TRAIN_TABLE.replace("gender", "sex"), "no column gender"),
        ("train_table", TRAIN_TABLE.replace(",male", ",man"), "row 4: gender = 'man'"),
        ("train_table", TRAIN_TABLE.replace("_19", "_20"), "row 3: path = '003397_female_Asian_20' stands twice"),
        (
            "train_files",
            TRAIN_FILES.replace("000748-1_male_Asian_60/", "../../"),
            r"row 5: path = '\.\./\.\./normal\.jpg'",
        ),
        ("train_files", TRAIN_FILES.replace(",15", ",18"), "row 3: label = '18' is not a class of 0 to 17"),
        ("eval_table", EVAL_TABLE + "../x.jpg,0\n", r"row 11: ImageID = '\.\./x\.jpg'"),
        ("eval_table", EVAL_TABLE + f"{1:040x}.jpg,0\n", "twice"),
    ],
)
def test_wrong_tables_are_refused(table: str, text: str, message: str, tmp_path: Path) -> None:
    tables = write_tables(tmp_path, **{table: text})
    with pytest.raises(DataError, match=message) as caught:
        make_from_tables(tmp_path / "out", *tables, seed=SEED, workers=1)
    assert "\n" not in str(caught.value)
    assert table in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_what_gives_gender_and_age_away() -> None:
    """Colours say next to nothing; no one cue says it all; the cues together say nearly all."""
    people = [imagine_person(3, "train", index) for index in range(160)]
    stems = ("mask1", "normal")
    small = [cv2.resize(draw_photograph(person, stem), (48, 64)) for person in people for stem in stems]
    pixels = np.stack(small).reshape(len(small), -1, 3).astype(float)
    colours = np.concatenate([pixels.mean(axis=1), pixels.std(axis=1)], axis=1)
    female = np.array([person.gender == "female" for person in people])
    thirty = np.array([person.age >= 30 for person in people])
    groups = np.repeat(np.arange(len(people)), len(stems))

    def score(features: np.ndarray, target: np.ndarray, of: np.ndarray) -> float:
        model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))
        folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
        return float(cross_val_score(model, features, target, groups=of, cv=folds, scoring="balanced_accuracy").mean())

    alone = np.arange(len(people))
    face = ("jaw", "chin", "brow_thickness", "brow_height", "eye_size", "lashes", "lip", "stubble", "neck", "shoulders")
    years = ("forehead_lines", "crows_feet", "bags", "folds", "sag", "droop", "blotches", "spots", "grey", "recession")
    for target, names in ((female, face), (thirty, years)):
        assert score(colours, np.repeat(target, len(stems)), groups) < 0.62
        cues = np.array([[getattr(person, name) for name in names] for person in people])
        assert score(cues, target, alone) > 0.9
        if target is female:
            assert max(score(cue[:, None], target, alone) for cue in cues.T) < 0.95


def test_contact_sheet_shows_seven_pictures_a_person(tmp_path: Path) -> None:
    assert contact_sheet(SEED, people=2).shape == (2 * 128, 7 * 96, 3)
    path = tmp_path / "docs" / "drawn_faces.png"
    main(["--contact-sheet", str(path), "--seed", "7"])
    assert read(path).shape == (6 * 128, 7 * 96, 3)
    assert path.stat().st_size < 300_000
