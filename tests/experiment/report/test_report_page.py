"""report.html, parsed: what stands there against scikit-learn and plain loops, and that nothing of it is markup."""

from __future__ import annotations

import base64
import itertools
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix, f1_score

from data_loader.records import Record
from experiment.report import REPORT_FILE, write_report
from experiment.report.findings import FEWEST_PERSONS, find
from experiment.report.report import make_report
from inference.out_of_fold import PredictionTable
from scripts import report as command
from tests.experiment.report.conftest import SCRIPT, WARNING, make_run, predictions, records_of
from utils.errors import run_command
from utils.run_folders import RunFolders

VOID = {"meta", "img", "link", "br", "input", "hr"}


class Page(HTMLParser):
    """The tags, attributes and texts; tags must be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if {"td", "th"} & {*self.open[-4:]}:
            self.tables[-1][-1][-1] += data

    def table(self, *first_row: str) -> list[list[str]]:
        """The rows, without the first, of the one table whose first row begins so."""
        found = [
            rows for rows in self.tables if [cell.strip() for cell in rows[0][: len(first_row)]] == list(first_row)
        ]
        assert len(found) == 1, [rows[0] for rows in self.tables]
        return [[" ".join(cell.split()) for cell in row] for row in found[0][1:]]


@pytest.fixture(scope="module")
def made(table: PredictionTable, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolders, list[Record]]:
    folder = tmp_path_factory.mktemp("report")
    folders, records = make_run(folder / "saved", table), records_of(table, folder)
    make_report(folders.models, records)
    return folders, records


@pytest.fixture(scope="module")
def page(made: tuple[RunFolders, list[Record]]) -> Page:
    return Page((made[0].models / REPORT_FILE).read_text(encoding="utf-8"))


def test_it_stands_alone_and_holds_no_foreign_markup(page: Page) -> None:
    assert {tag for tag, _ in page.tags} & {"script", "b", "i", "link", "iframe", "object"} <= {"b", "i"}
    assert not [attributes for tag, attributes in page.tags if tag in ("b", "i") and "alert" in str(attributes)]
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href"):
                assert str(value).startswith(("data:image/jpeg;base64,", "#")), (tag, value)
    assert "http" not in page.text.replace(SCRIPT, "")
    assert page.text.count(SCRIPT) > 5
    assert " ".join(WARNING.split()) in " ".join(page.text.split())
    assert "Nasty & 'so'/run 1" in page.text


def test_scores_classes_and_confusion_are_scikit_learns(page: Page, table: PredictionTable) -> None:
    known = (table.truth["gender"] != -1).numpy()
    joint = table.labels.joint_probabilities(table.by_head).argmax(dim=1).numpy()
    truth = table.labels.joint_classes(table.truth).numpy()
    scores = {row[0]: row for row in page.table("", "macro F1", "95 %", "", "most frequent", "chance")}
    assert list(scores) == ["joint class", "mask", "gender", "age"]
    assert scores["joint class"][-1] == str(known.sum())
    macro_f1 = f1_score(truth[known], joint[known], average="macro")
    assert scores["joint class"][1] == f"{macro_f1:.3f}"
    most = np.bincount(truth[known]).argmax()
    majority = f1_score(truth[known], np.full(known.sum(), most), average="macro", zero_division=0)
    assert scores["joint class"][4] == f"{majority:.3f}"
    assert f"{macro_f1:.3f}" in page.text.split("What was run")[0]  # the first screen

    (mask_rows,) = [rows for rows in page.tables if rows[0][0].startswith("true") and SCRIPT in rows[0]]
    mask = table.by_head["mask"].argmax(dim=1).numpy()
    expected = confusion_matrix(table.truth["mask"].numpy(), mask)
    assert [[int(cell or 0) for cell in row[1:]] for row in mask_rows[1:]] == expected.tolist()
    (joint_rows,) = [rows for rows in page.tables if rows[0][0].startswith("true") and len(rows) == 19]
    counted = [[int(cell or 0) for cell in row[1:]] for row in joint_rows[1:]]
    assert counted == confusion_matrix(truth[known], joint[known], labels=range(18)).tolist()

    of_mask = next(rows for rows in page.tables if rows[0][0] == "class" and SCRIPT in rows[1][0] and len(rows) == 4)
    each = f1_score(table.truth["mask"].numpy(), mask, average=None)
    assert [row[1] for row in of_mask[1:]] == [f"{value:.3f}" for value in each]
    assert of_mask[0][-1] == "epochs"

    wrong = expected * (1 - np.eye(3, dtype=int))
    pairs = next(rows for rows in page.tables if rows[0][0] == "mask, true")
    assert [int(row[2]) for row in pairs[1:]] == sorted(wrong[wrong > 0].tolist(), reverse=True)


def test_the_worst_errors_have_their_photographs(
    page: Page, table: PredictionTable, made: tuple[RunFolders, list[Record]]
) -> None:
    joint = table.labels.joint_probabilities(table.by_head)
    truth = table.labels.joint_classes(table.truth)
    rows = [row for row in range(len(table)) if truth[row] != -1 and truth[row] != joint[row].argmax()]
    rows.sort(key=lambda row: float(joint[row, truth[row]]))
    pictures = [str(attributes["src"]) for tag, attributes in page.tags if tag == "img"]
    names = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    assert names == [table.ids[row] for row in rows[:18]]
    for row, source in zip(rows, pictures, strict=False):
        with Image.open(BytesIO(base64.b64decode(source.partition(",")[2]))) as picture:
            assert picture.size == (20, 30)
            assert abs(np.asarray(picture).mean() - row % 256) < 3
        assert str(made[1][row].path) in page.text
    assert f"{len(rows)} of {len(table)} images are wrong" in page.text


def test_subgroups_of_few_persons_are_left_out(page: Page, table: PredictionTable) -> None:
    masks, genders, ages = (table.truth[name].numpy() for name in ("mask", "gender", "age"))
    persons = np.asarray(table.persons)
    by_age = [rows for rows in page.tables if rows[0][1:3] == ["images", "persons"]][2]
    right = (table.by_head["age"].argmax(dim=1).numpy() == ages).astype(float)
    for number, row in enumerate(by_age[1:]):
        assert (row[1], row[2]) == (str((ages == number).sum()), str(len(set(persons[ages == number]))))
        assert row[-2] == f"{100 * (1 - right[ages == number].mean()):.0f} %"
    all_groups = [(m, g, a) for m in range(3) for g in range(2) for a in range(3)]
    sizes = [len(set(persons[(masks == m) & (genders == g) & (ages == a)])) for m, g, a in all_groups]
    shown = [rows for rows in page.tables if rows[0][1:3] == ["images", "persons"]][3]
    assert [int(row[2]) for row in shown[1:]] == [size for size in sizes if size >= FEWEST_PERSONS]
    hidden = sum(0 < size < FEWEST_PERSONS for size in sizes)
    assert hidden
    assert f"{hidden} groups have fewer than 5 persons" in page.text


def test_what_was_run_and_how_fast(page: Page) -> None:
    words = " ".join(page.text.split())
    assert "900 of 150 persons for train, 420 of 60 persons for validation" in words
    assert f"train.py -c '{SCRIPT}'" in words
    changes = {row[0]: row[1:3] for row in page.table("key", "before", "in this run")}
    assert changes["seed"] == ["42", "7"]
    assert re.search(r"an epoch ?42 s, of which 25 s training \(median of 2\)", words)  # of 50 and 33.3 s
    assert "38 images a second" in words
    assert "25 % of the training time" in words
    assert "2 warnings in the log" in words
    assert "(2 times)" in words


def test_duplicates_that_were_looked_for(page: Page) -> None:
    assert page.table("relation", "kind") == [
        ["between train and test", "exact", "0.0000", f"{SCRIPT}.png", "b.png"],
    ]


def test_calibration_is_better_with_a_temperature(table: PredictionTable, page: Page) -> None:
    found = find(table)
    after = found.classified[0].calibration.after
    assert after is not None
    assert after.ece < found.classified[0].calibration.before.ece
    assert f"with temperature: ECE {after.ece:.3f}" in page.text
    assert found.temperatures == pytest.approx(dict.fromkeys(found.temperatures, 1.8), rel=0.35)


def test_a_run_without_predictions_or_anything_else(tmp_path: Path) -> None:
    folders = make_run(tmp_path, None)
    (folders.models / "run.json").unlink()
    (folders.models / "last.pth").touch()
    for path in folders.log.iterdir():
        path.unlink()
    outcome = run_command(lambda: command.main([str(folders.models)]))
    assert outcome == 0
    page = Page((folders.models / REPORT_FILE).read_text(encoding="utf-8"))
    assert "no predictions of validation images" in page.text
    assert "No warnings" not in page.text


def test_few_images_and_none_that_is_known(tmp_path: Path) -> None:
    few = predictions(2)
    folders = make_run(tmp_path / "few", few)
    make_report(folders.models)  # its data is gone: no pictures
    page = Page((folders.models / REPORT_FILE).read_text(encoding="utf-8"))
    assert "Some photographs could not be read" in page.text
    assert "too few persons" in page.text


def test_each_fold_has_the_scores_of_each_attribute_where_no_joint_class_is_known(
    table: PredictionTable, tmp_path: Path
) -> None:
    is_masks, folds = torch.arange(len(table)) % 14 < 7, torch.arange(len(table)) // 14 % 2
    truth = {
        name: torch.where(is_masks == (name == "mask"), classes, torch.tensor(-1))
        for name, classes in table.truth.items()
    }
    partial = replace(table, truth=truth, folds=folds)
    folders = make_run(tmp_path, partial)
    make_report(folders.models)
    rows = Page((folders.models / REPORT_FILE).read_text(encoding="utf-8")).table("fold", "of", "macro F1")
    assert [row[0] for row in rows] == ["0", "", "", "1", "", ""]
    for row, (fold, name) in zip(rows, itertools.product(range(2), truth), strict=True):
        own = (folds == fold) & (truth[name] != -1)
        expected = f1_score(truth[name][own], table.by_head[name][own].argmax(dim=1), average="macro")
        assert (row[1], row[2], row[-1]) == (name, f"{expected:.3f}", str(int(own.sum())))


def test_how_the_folds_of_a_run_ended(tmp_path: Path) -> None:
    """The last one alone would hide that another was stopped."""
    split = {"type": "KFoldSplit", "args": {"folds": 2}}
    folders = make_run(tmp_path, None, split=split)
    record = json.loads((folders.models / "run.json").read_text())
    for number, outcome in enumerate(("StopSignal", "finished")):
        fold = folders.of_fold(number).models
        fold.mkdir(parents=True)
        shutil.copy(folders.models / "config.json", fold)
        sessions = [{**record["sessions"][0], "outcome": outcome}]
        (fold / "run.json").write_text(json.dumps({**record, "sessions": sessions}))
    make_report(folders.models)
    page = Page((folders.models / REPORT_FILE).read_text(encoding="utf-8"))
    assert "stopped by a signal (fold_0), finished (fold_1)" in page.text


def test_a_report_that_fails_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folders = make_run(tmp_path, predictions(2))

    def fail(*_: object) -> None:
        raise ZeroDivisionError("by a fault of this program")

    monkeypatch.setattr("experiment.report.report.find", fail)
    write_report(folders.models)
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "ZeroDivisionError" in warning.getMessage()
    assert "scripts.report" in warning.getMessage()
    assert not (folders.models / REPORT_FILE).exists()


def test_what_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda: command.main([str(tmp_path)])) == 4
    assert capsys.readouterr().err.startswith(f"{tmp_path}: ")
    assert run_command(lambda: command.main([str(tmp_path / "missing")])) == 4
    (tmp_path / "config.json").write_text('{"name": "a project", "trainer": {"epochs": 3}}')
    assert run_command(lambda: command.main([str(tmp_path)])) == 4
