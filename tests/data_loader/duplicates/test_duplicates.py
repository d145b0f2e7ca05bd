"""Photographs that are one picture: found among those that only look alike, told by what they join, and joined."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from base.label_space import LabelSpace
from data_loader.duplicates import DuplicatePair, find_duplicates, finding, groups, leaks_of, nearest_pairs, search
from data_loader.duplicates.search import MAX_CANDIDATES, similar_pairs
from data_loader.records import Record, image_check, read_records
from data_loader.records.sources import AttributeTable
from scripts.demo_data.faces import draw_photograph
from scripts.demo_data.people import imagine_person
from utils.images import read_rgb
from utils.images.fingerprint import FREQUENCY, IS_ODD, cropped, fingerprint_array, fingerprint_of

STEMS = ("mask1", "mask2", "incorrect_mask", "normal")
ORIGINAL = "2_mask1"


def _copies(rgb: np.ndarray) -> dict[str, tuple[np.ndarray, int]]:
    """Of a picture (H, W, 3): by name what was made of it, and the quality that it is encoded with."""
    height, width = (side // 20 for side in rgb.shape[:2])  # a twentieth
    return {
        "encoded": (rgb, 30),
        "smaller": (cv2.resize(rgb, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA), 90),
        "larger": (cv2.resize(rgb, None, fx=1.6, fy=1.6, interpolation=cv2.INTER_CUBIC), 90),
        "mirrored": (rgb[:, ::-1], 90),
        "cropped": (rgb[height:-height, width:-width], 90),
        "corner": (rgb[height:, :-width], 90),
        "everything": (cv2.resize(rgb[height:, : width - 1 : -1], None, fx=0.6, fy=0.6), 60),
    }  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of drawn people, four of each, and copies of ORIGINAL: <person>_<stem>.jpg, copy_<how>.jpg."""
    folder = tmp_path_factory.mktemp("drawn")
    for number in range(4):
        person = imagine_person(5, "duplicates", number)
        for stem in STEMS:
            state = {"incorrect_mask": "incorrect", "normal": "not_wear"}.get(stem, "wear")
            _save(folder / f"{number}_{stem}.jpg", draw_photograph(person, stem, state), 90)
    original = read_rgb(folder / f"{ORIGINAL}.jpg")
    for how, (picture, quality) in _copies(original).items():
        _save(folder / f"copy_{how}.jpg", picture, quality)
    (folder / "copy_exact.jpg").write_bytes((folder / f"{ORIGINAL}.jpg").read_bytes())
    return folder


def _save(path: Path, rgb: np.ndarray, quality: int) -> None:
    data = cv2.imencode(".jpg", np.ascontiguousarray(rgb[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    path.write_bytes(data.tobytes())


def test_every_copy_is_found_and_nothing_else(folder: Path) -> None:
    """Also a person's other photographs, which differ in the mask, are no copies."""
    paths = sorted(folder.glob("*.jpg"))
    pairs = find_duplicates(paths)
    names = [path.stem for path in paths]
    kinds = {frozenset((names[pair.first], names[pair.second])): pair.kind for pair in pairs}
    assert {name for pair in kinds for name in pair} == {ORIGINAL, *(name for name in names if "copy" in name)}
    assert {how: kinds.get(frozenset((ORIGINAL, how))) for how in names if "copy" in how} == {
        "copy_encoded": "near", "copy_smaller": "near", "copy_larger": "near", "copy_mirrored": "mirrored",
        "copy_cropped": "near", "copy_corner": "near", "copy_everything": "mirrored", "copy_exact": "exact",
    }  # fmt: skip
    assert len(groups((pair.first, pair.second) for pair in pairs)) == 1
    assert all(pair.first < pair.second and 0 <= pair.difference <= finding.MAX_DIFFERENCE for pair in pairs)


def test_a_mask_of_another_colour_is_another_picture(folder: Path, tmp_path: Path) -> None:
    rgb = read_rgb(folder / f"{ORIGINAL}.jpg")
    _save(tmp_path / "a.png", rgb, 90)
    height, width = rgb.shape[:2]
    mask = rgb[height // 2 : height * 3 // 4, width * 3 // 8 : width * 5 // 8]
    mask[:] = mask + np.uint8(128)
    _save(tmp_path / "b.jpg", rgb, 90)
    _save(tmp_path / "c.jpg", rgb, 50)
    assert [(pair.first, pair.second) for pair in find_duplicates(sorted(tmp_path.iterdir()))] == [(1, 2)]


def test_a_second_search_opens_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [*sorted(folder.glob("*.jpg")), tmp_path / "missing.jpg", tmp_path / "damaged.jpg"]
    paths[-1].write_bytes(b"no image")
    persons = [path.stem.split("_")[0] for path in paths]
    first = find_duplicates(paths, persons, tmp_path)
    assert {persons[row] for pair in first for row in (pair.first, pair.second)} == {"2", "copy"}
    assert all(persons[pair.first] != persons[pair.second] for pair in first)

    def refuse(path: Path, *_: object) -> None:
        raise AssertionError(f"{path} is opened")

    monkeypatch.setattr(finding, "visit_rgb", refuse)
    monkeypatch.setattr(image_check, "inspect_image", refuse)
    assert find_duplicates(paths, persons, tmp_path) == first
    with pytest.raises(AssertionError, match="is opened"):
        find_duplicates(paths[1:], persons[1:], tmp_path)


def test_similar_pairs_are_those_of_a_plain_loop() -> None:
    stream = np.random.default_rng(0)
    pictures = [cv2.GaussianBlur(stream.normal(128, 900, (64, 48, 3)), (0, 0), 6).clip(0, 255) for _ in range(12)]
    pictures += [picture[:, ::-1] for picture in pictures[:3]] + [picture[3:-3, 2:-2] for picture in pictures[3:6]]
    made = [fingerprint_of(np.ascontiguousarray(picture).astype(np.uint8)) for picture in pictures]
    persons = np.arange(len(made)) % 7
    values = fingerprint_array(made)
    expected = set()
    for one in range(len(made)):
        for other in range(len(made)):
            for image in (values[other], cropped(values, 0.05)[other]):
                for sign in (1, np.where(IS_ODD, -1, 1)):
                    a, b = (each * np.sqrt(FREQUENCY.clip(1)) for each in (values[one], image))
                    cosine = a @ (sign * b) / np.linalg.norm(a) / np.linalg.norm(b)
                    if one != other and persons[one] != persons[other] and cosine >= 0.85:
                        expected.add((min(one, other), max(one, other), not np.isscalar(sign)))
    found = similar_pairs(made, persons)
    assert {(*rows, flag) for rows, flag in zip(found.rows.tolist(), found.mirrored.tolist(), strict=True)} == expected
    assert {(0, 12, True), (3, 15, False)} <= expected


def test_further_pairs_are_compared_too(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they are and mirrored, whatever their fingerprints."""
    monkeypatch.setattr(search, "MIN_SIMILARITY", 2)
    names = [ORIGINAL, "2_mask2", "copy_everything", "copy_corner"]
    paths = [folder / f"{name}.jpg" for name in names]
    assert find_duplicates(paths, save_dir=tmp_path) == []
    pairs = find_duplicates(paths, save_dir=tmp_path, extra_pairs=np.array([[0, 1], [0, 2], [0, 3], [1, 2]]))
    assert [(pair.first, pair.second, pair.kind) for pair in pairs] == [(0, 2, "mirrored"), (0, 3, "near")]


def test_nearest_pairs_are_those_of_a_plain_loop() -> None:
    features = np.random.default_rng(0).normal(3, 1, (40, 5))
    centred = features - features.mean(axis=0)
    expected = set()
    for row in range(40):
        cosine = {
            other: centred[row] @ centred[other] / np.linalg.norm(centred[row]) / np.linalg.norm(centred[other])
            for other in range(40)
            if other != row
        }
        expected |= {(min(row, other), max(row, other)) for other in sorted(cosine, key=cosine.__getitem__)[-3:]}
    assert {(one, other) for one, other in nearest_pairs(features, 3).tolist()} == expected
    assert nearest_pairs(features[:1], 3).shape == (0, 2)


def test_many_copies_stay_one_group() -> None:
    made = [fingerprint_of(np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3))] * (3 * MAX_CANDIDATES)
    found = similar_pairs(made)
    assert len(found.rows) < len(made) * MAX_CANDIDATES * 2
    assert groups(found.rows.tolist()) == [[*range(len(made))]]
    assert len(similar_pairs([]).rows) == 0


def _records(folder: Path, persons: list[str]) -> list[Record]:
    return [Record(folder / f"{n}.jpg", f"{n}.jpg", person, {}, f"row {n}") for n, person in enumerate(persons)]


def test_leaks_say_what_the_pairs_join(tmp_path: Path) -> None:
    records = _records(tmp_path, ["a", "a", "b", "c", "d"])
    pairs = [
        DuplicatePair(0, 1, "exact", 0.0), DuplicatePair(0, 3, "near", 0.2), DuplicatePair(1, 2, "near", 0.1),
        DuplicatePair(2, 3, "mirrored", 0.1), DuplicatePair(3, 4, "near", 0.3),
    ]  # fmt: skip
    leaks = leaks_of(pairs, records, ["train", "train", "train", "validation", "test"])
    assert [(leak.relation, leak.pairs, leak.crosses_sides) for leak in leaks] == [
        ("between train and validation", [pairs[3], pairs[1]], True),
        ("between validation and test", [pairs[4]], True),
        ("across persons of train", [pairs[2]], False),
        ("within persons", [pairs[0]], False),
    ]
    line = leaks[0].line(records)
    assert line.startswith("2 pairs")
    assert all(text in line for text in ("1 mirrored", "1 near", "2.jpg", "3.jpg"))
    in_folds = leaks_of(pairs, records, ["fold 0", "fold 0", "fold 1", "fold 2", "test"])
    assert [(leak.relation, len(leak.pairs)) for leak in in_folds[:2]] == [
        ("between folds", 3), ("between fold 2 and test", 1),
    ]  # fmt: skip


def test_persons_by_duplicates(
    folder: Path, tmp_path: Path, labels: LabelSpace, caplog: pytest.LogCaptureFixture
) -> None:
    """Persons who share a picture are one, whoever else they share one with; not over the sides that tables give."""
    rows = [
        ("2_mask1", "p2", "train"), ("2_mask2", "p2", "train"), ("copy_encoded", "x", "train"),
        ("copy_mirrored", "y", "train"), ("0_mask1", "y", "train"), ("0_mask2", "p0", "train"),
        ("copy_cropped", "z", "test"), ("copy_exact", "w", "train"),
    ]  # fmt: skip
    lines = [f"{name},{person},wear,male,20,{side}" for name, person, side in rows]
    (folder / "t.csv").write_text("\n".join(["path,person,mask,gender,age,split", *lines]))
    (folder / "fixes.csv").write_text("person,attribute,value\nx,gender,female\n")
    source = AttributeTable(str(folder / "t.csv"), path_column="path")
    before = read_records([source], labels, folder / "fixes.csv").records
    assert [record.person for record in before] == [person for _, person, _ in rows]
    with caplog.at_level(logging.INFO):
        after = read_records([replace(source, persons="by_duplicates")], labels, folder / "fixes.csv", tmp_path).records
    assert [record.person for record in after] == ["p2", "p2", "p2", "p2", "p2", "p0", "z", "p2"]
    assert [record.person_id or record.person for record in after] == [person for _, person, _ in rows]
    assert after[2].attributes["gender"] == "female"
    assert any("two sides that a table gives" in record.message for record in caplog.records)
