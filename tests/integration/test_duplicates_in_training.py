"""The same picture under several persons: train.py warns, refuses or is told to ignore it, and joins the persons."""

from __future__ import annotations

import csv
import shutil

from scripts import find_duplicates
from tests.integration.workplace import PEOPLE, Workplace, person_folder
from utils.errors import run_command


def _share_pictures(workplace: Workplace) -> None:
    """The first four persons share a picture, and the others another one: wherever two of the eight validate, a copy
    trains. That makes 6 pairs of each."""
    images = workplace.train_root / "images"
    for number, person in enumerate(PEOPLE):
        first = PEOPLE[number - number % 4]
        if person != first:
            shutil.copy(images / person_folder(*first) / "normal.jpg", images / person_folder(*person) / "normal.jpg")


def test_a_picture_on_two_sides(workplace: Workplace) -> None:
    clean = workplace.train("-c", workplace.write_config(), "--dry-run")
    clean.check_success()
    assert "duplicates" not in clean.out
    _share_pictures(workplace)
    config = workplace.write_config()
    warned = workplace.train("-c", config, "--dry-run")
    warned.check_success()
    assert "of duplicates between train and validation (" in warned.out
    assert "across persons of train (" in warned.out
    ignored = workplace.train("-c", config, "--dry-run", "--set", "duplicates=ignore")
    ignored.check_success()
    assert "duplicates" not in ignored.out
    refused = workplace.train("-c", config, "--dry-run", "--set", "duplicates=refuse")
    refused.check_refusal(3, ("", "between train and validation (", "exact)", "normal.jpg"), ("", "by_duplicates"))
    joined = workplace.train("-c", config, "--dry-run", "--set", "data.0.args.persons=by_duplicates")
    joined.check_success()
    assert "8 persons joined to 2, by 12 pairs" in joined.out
    assert "of duplicates" not in joined.out


def test_the_command(trained: Workplace) -> None:
    workplace = trained
    _share_pictures(workplace)
    images = workplace.photographs
    shutil.copy(images / "mask1.jpg", images / "mask2.jpg")
    (images / "mask5.jpg").write_bytes(b"no picture")
    config = workplace.write_config({"data_loader.args.on_bad_image": "skip"})
    leaks = find_duplicates.main(["-c", str(config), "--output", "found/here"])
    assert [leak.relation for leak in leaks][-1] == "within persons"
    rows = list(csv.DictReader((workplace.folder / "found/here/duplicates.csv").open()))
    assert len(rows) == 13
    assert len({row["group"] for row in rows}) == 3
    for row in rows:
        crosses = row["side"] != row["other_side"]
        assert crosses == row["relation"].startswith("between")
        assert row["kind"] == "exact"
        assert (row["person"] == row["other_person"]) == (row["relation"] == "within persons")
    assert (workplace.folder / "found/here/duplicates.jpg").stat().st_size > 1000
    out = workplace.capfd.readouterr().out
    assert "1 image cannot be read" in out
    with_embeddings = find_duplicates.main(["-c", str(config), "--resume", str(workplace.run)])
    assert [leak.pairs for leak in with_embeddings] == [leak.pairs for leak in leaks]
    workplace.write("file", "")
    assert run_command(lambda: find_duplicates.main(["-c", str(config), "--output", "file"])) == 2
    assert run_command(lambda: find_duplicates.main(["-c", "missing.json"])) == 2
    assert run_command(lambda: find_duplicates.main(["-c", str(config), "--resume", "nowhere"])) == 4
