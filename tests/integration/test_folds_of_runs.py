"""K-fold in one command: the folds in turn or one by one, resumed between and inside them, and their predictions."""

from __future__ import annotations

import contextlib
import csv
import io
import shutil
from pathlib import Path

import pytest
from sklearn.metrics import f1_score

import train as train_script
from base.label_space import LabelSpace
from inference.out_of_fold import OUT_OF_FOLD_FILE
from inference.predictor import Predictor
from tests.integration.drawn_road import assert_same_weights, files_of, resume, run, stop_after_updates, write_config
from utils.checkpoint.checkpoint_file import read_checkpoint
from utils.errors import CheckpointError, ConfigError, DataError, StopSignal
from utils.images.decoding import read_rgb

FOLDS = {"type": "KFoldSplit", "args": {"folds": 3, "stratify": ["gender"]}}


def write_folds_config(folder: Path, drawn: Path) -> Path:
    path = write_config(folder, drawn, split=FOLDS)
    path.write_text(path.read_text().replace('"epochs": 3', '"epochs": 2'))
    return path


@pytest.fixture
def folds_config(tmp_path: Path, drawn: Path) -> Path:
    return write_folds_config(tmp_path, drawn)


@pytest.fixture(scope="module")
def made_whole(tmp_path_factory: pytest.TempPathFactory, drawn: Path) -> tuple[Path, str]:
    """A finished run of all folds, to be copied or read, and the last line that it printed."""
    config, printed = write_folds_config(tmp_path_factory.mktemp("whole"), drawn), io.StringIO()
    with contextlib.redirect_stdout(printed):
        return run(config), printed.getvalue().splitlines()[-1]


@pytest.fixture
def whole(made_whole: tuple[Path, str]) -> Path:
    return made_whole[0]


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    """A finished run of a test's own."""
    shutil.copytree(whole.parents[2], tmp_path / "saved")
    return tmp_path / "saved" / "models" / whole.parent.name / whole.name


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def assert_same_folds(first: Path, second: Path) -> None:
    """The weights of each fold, and all predictions."""
    for fold in range(3):
        assert_same_weights(first / f"fold_{fold}", second / f"fold_{fold}")
    assert (first / OUT_OF_FOLD_FILE).read_bytes() == (second / OUT_OF_FOLD_FILE).read_bytes()


def test_all_folds_in_one_command(made_whole: tuple[Path, str]) -> None:
    models, line = made_whole
    assert sorted(path.name for path in models.iterdir()) == [
        "config.json",
        "fold_0",
        "fold_1",
        "fold_2",
        OUT_OF_FOLD_FILE,
        "report.html",
    ]
    assert "By fold" in (models / "report.html").read_text()
    assert all("By fold" not in (models / f"fold_{fold}" / "report.html").read_text() for fold in range(3))
    rows = rows_of(models / OUT_OF_FOLD_FILE)
    assert len(rows) == len({row["id"] for row in rows}) == 70  # ten people, each image once
    persons = {fold: {row["person"] for row in rows if row["fold"] == fold} for fold in "012"}
    assert sum(map(len, persons.values())) == len(set.union(*persons.values())) == 10

    # Each row is what that fold's best model predicts of that photograph, decoded on its own.
    for row in rows[:: len(rows) // 6]:
        content = read_checkpoint(models / f"fold_{row['fold']}" / "model_best.pth")
        assert content["config"]["split"]["args"]["fold"] == int(row["fold"])
        predictor = Predictor.from_checkpoint(models / f"fold_{row['fold']}" / "model_best.pth")
        predicted = predictor.predict_image(
            read_rgb(Path(content["config"]["data"][0]["args"]["root"]) / "images" / row["id"])
        )
        for attribute, classes in predicted.items():
            for name, probability in classes.items():
                assert float(row[f"{attribute} {name}"]) == pytest.approx(probability, abs=1e-5)

    # The line at the end is scikit-learn's macro F1 of the whole table.
    labels = LabelSpace(**content["labels"])
    truth, answers = [], []
    for row in rows:
        folder = row["id"].split("/")[0]
        _, gender, _, age = folder.rsplit("_", 3)
        mask = {"incorrect_mask": 1, "normal": 2}.get(row["id"].split("/")[1].split(".")[0], 0)
        truth.append(mask * 6 + ["male", "female"].index(gender) * 3 + (int(age) >= 30) + (int(age) >= 60))
        heads = [[float(row[f"{head} {name}"]) for name in labels.heads[head].class_names] for head in labels.heads]
        best = [max(range(len(values)), key=values.__getitem__) for values in heads]
        answers.append(best[0] * 6 + best[1] * 3 + best[2])
    expected = f1_score(truth, answers, average="macro", zero_division=0)
    assert f"all images together {expected:.4f} [" in line


def test_folds_one_by_one_equal_all_at_once(folds_config: Path, whole: Path) -> None:
    first = run(folds_config, "--fold", "2")
    assert not (first / OUT_OF_FOLD_FILE).exists()
    for number in ("0", "1"):
        resume(str(first), "--fold", number)
    assert_same_folds(whole, first)


@pytest.mark.parametrize("by", ["folder", "auto"])
def test_a_run_stopped_inside_a_fold_resumes(
    folds_config: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    per_fold = read_checkpoint(whole / "fold_0" / "last.pth")["updates"]
    with monkeypatch.context() as patched:
        stop_after_updates(patched, per_fold + per_fold // 2)
        with pytest.raises(StopSignal, match=r"--resume .*Road/[0-9-]+$"):
            run(folds_config)
    (models,) = (tmp_path / "saved" / "models" / "Road").iterdir()
    assert (models / "fold_1" / "last.pth").exists()
    assert not (models / "fold_2").exists()
    if by == "folder":
        resume(str(models))
    else:
        assert run(folds_config, "--resume", "auto") == models
    assert_same_folds(whole, models)


def test_extended_folds_are_predicted_anew(folds_config: Path, tmp_path: Path) -> None:
    models = run(folds_config, "--set", "lr_scheduler=null")
    before = (models / OUT_OF_FOLD_FILE).read_bytes()
    resume(str(models))
    assert (models / OUT_OF_FOLD_FILE).read_bytes() == before
    resume(str(models), "--set", "trainer.epochs=4")
    flags = ("--set=lr_scheduler=null", "--set=trainer.epochs=4", f"--set=trainer.save_dir={tmp_path / 'longer'}")
    assert_same_folds(models, run(folds_config, *flags))
    assert (models / OUT_OF_FOLD_FILE).read_bytes() != before


def test_folds_of_different_length_are_warned_of(folds_config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = run(folds_config, "--set", "lr_scheduler=null")
    assert "different numbers" not in capsys.readouterr().out
    resume(str(models), "--fold", "1", "--set", "trainer.epochs=3")
    assert "different numbers of epochs, by fold: {0: 2, 1: 3, 2: 2}" in capsys.readouterr().out
    resume(str(models), "--set", "trainer.epochs=3")
    assert "different numbers" not in capsys.readouterr().out


def test_resuming_finished_folds_changes_nothing(copied: Path, tmp_path: Path) -> None:
    """Neither bytes nor times of change."""

    def state() -> dict[str, tuple[bytes, int]]:
        files = [path for path in (tmp_path / "saved").rglob("*") if path.is_file()]
        return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}

    before = state()
    assert any(path.endswith("report.html") for path in before)
    resume(str(copied))
    assert state() == before


def test_a_fold_that_is_not_there_is_refused(folds_config: Path) -> None:
    with pytest.raises(ConfigError, match=r"--fold 3: .*0 to 2"):
        run(folds_config, "--fold", "3")
    with pytest.raises(ConfigError, match="KFoldSplit"):
        run(folds_config, "--fold", "1", "--set", "split.args.fold=1")


def test_a_damaged_file_of_predictions_is_written_anew(copied: Path) -> None:
    models = copied
    whole = (models / OUT_OF_FOLD_FILE).read_bytes()
    of_fold = models / "fold_1" / OUT_OF_FOLD_FILE
    rows = of_fold.read_text().splitlines()
    of_another = (models / "fold_0" / OUT_OF_FOLD_FILE).read_text()
    digit = "\n".join([rows[0], *(row.replace(",0.", ",0.9", 1) for row in rows[1:])])  # no sum of one
    for damaged in ("", "\n".join(rows[:9]), of_another, rows[0] + "\nx,y\n", digit):
        of_fold.write_text(damaged)
        resume(str(models))
        assert (models / OUT_OF_FOLD_FILE).read_bytes() == whole


def test_a_damaged_config_of_a_run_is_that_of_its_first_fold(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Or of that fold's checkpoint; without any the run is refused."""
    before = files_of(copied)
    for damaged in (copied / "config.json", copied / "fold_0" / "config.json"):
        damaged.write_text('{"name": "Ro')
        resume(str(copied))
        told = f"warning: {copied / 'config.json'}: is missing or damaged; the config of {copied / 'fold_0'}"
        assert told in capsys.readouterr().out
        files = files_of(copied)
        assert {name: data for name, data in files.items() if "config" not in name} == {
            name: data for name, data in before.items() if "config" not in name
        }
    for path in copied.rglob("*.pth"):
        path.unlink()
    for fold in (1, 2):
        (copied / f"fold_{fold}" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=f"^{copied / 'config.json'}: .*restore it"):
        resume(str(copied))


def test_images_of_the_same_name_are_scored_by_their_own_labels(tmp_path: Path, drawn: Path) -> None:
    """Two tables with the same paths and persons, whose genders differ: each image is scored by its own."""
    for name, gender in (("one", "male"), ("two", "female")):
        (tmp_path / name).mkdir()
        images = sorted((drawn / "train" / "images").rglob("mask1.*"))[:6]
        rows = [f"{number}{path.suffix},p{number},wear,{gender},40" for number, path in enumerate(images)]
        for row, path in zip(rows, images, strict=True):
            shutil.copy(path, tmp_path / name / row.split(",")[0])
        (tmp_path / name / "table.csv").write_text("\n".join(["path,person,mask,gender,age", *rows]))
    tables = [
        {"type": "AttributeTable", "args": {"path": str(tmp_path / name / "table.csv")}} for name in ("one", "two")
    ]
    config = write_config(tmp_path, drawn, data=tables, split={"type": "KFoldSplit", "args": {"folds": 2}})
    config.write_text(config.read_text().replace('"batch_size": 8', '"batch_size": 4'))
    result = train_script.main(["-c", str(config), "--set", "trainer.epochs=1", "--set", "split.args.stratify=[]"])
    assert result is not None
    assert result.out_of_fold is not None
    rows_of_run = rows_of(result.folders.models / OUT_OF_FOLD_FILE)
    assert len({row["id"] for row in rows_of_run}) == 12
    right = sum(
        (float(row["gender male"]) > float(row["gender female"])) == ("/one/" in row["id"]) for row in rows_of_run
    )
    scores = {score.name: score for score in result.out_of_fold.together}
    assert scores["gender"].accuracy == pytest.approx(right / 12)


def test_a_dry_run_tries_the_first_fold_that_is_not_finished(
    folds_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = run(folds_config, "--fold", "0", "--set", "trainer.verbosity=1")
    for expected in ("dry run: everything was built", "fold_2 is finished"):
        before = files_of(tmp_path / "saved")
        capsys.readouterr()
        train_script.main(["--resume", str(models), "--dry-run", "--set", "trainer.verbosity=1"])
        printed = capsys.readouterr().out
        assert "fold_0 is finished" in printed
        assert expected in printed
        assert files_of(tmp_path / "saved") == before
        resume(str(models))


def test_more_folds_than_people_are_refused_at_once(folds_config: Path) -> None:
    with pytest.raises(DataError, match=r"folds = 99.* 10 persons"):
        run(folds_config, "--set", "split.args.folds=99")


def test_each_fold_has_its_own_log(whole: Path) -> None:
    log = whole.parents[2] / "log" / whole.parent.name / whole.name
    for fold in range(3):
        text = (log / f"fold_{fold}" / "info.log").read_text()
        assert text.count("images of") >= 1
        assert "epoch 2/2" in text
        assert text.count("epoch 1/2:") == 1
    summary = (log / "info.log").read_text()
    assert "over 3 folds macro F1" in summary
    assert "epoch" not in summary
