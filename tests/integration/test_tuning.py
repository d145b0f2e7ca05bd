"""From training to a tuned submission: out-of-fold tables, scripts.tune, and test.py --decision."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

import test as test_script
from base.batch import UNKNOWN
from data_loader.records.records import Record
from inference.out_of_fold import OUT_OF_FOLD_FILE
from inference.predictor import Predictor
from inference.run_predictions import RunPredictions
from inference.scoring.scores import own_test_scores, read_scores
from scripts import runs as runs_script
from scripts import tune
from tests.integration.drawn_road import resume, run, write_config
from utils.errors import CheckpointError, ConfigError

FOLDS = {"type": "KFoldSplit", "args": {"folds": 2, "stratify": ["gender"]}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, drawn: Path) -> tuple[Path, Path]:
    """A run of two folds on ten people, and one of a single split. Not to be changed."""
    folder = tmp_path_factory.mktemp("runs")
    epochs = {"trainer": {"epochs": 1, "save_dir": str(folder / "saved"), "verbosity": 0, "tensorboard": False}}
    folds = run(write_config(folder, drawn, split=FOLDS, **epochs))
    return folds, run(write_config(folder, drawn, **epochs))


def test_a_run_of_one_model_keeps_what_its_best_checkpoint_predicts(runs: tuple[Path, Path]) -> None:
    found = RunPredictions.read(runs[1])
    table, predictor = found.table, Predictor.from_checkpoint(runs[1] / "model_best.pth")
    root = Path(found.config["data"][0]["args"]["root"]) / "images"
    records = [Record(root / name, name, "", {}, "test") for name in table.ids]
    assert 14 <= len(table) < 70
    assert set(table.folds.tolist()) == {UNKNOWN}
    for name, expected in predictor.predict(records).by_head.items():
        assert torch.allclose(table.by_head[name], expected, atol=1e-6)
    for name, true_gender in zip(table.ids, table.truth["gender"].tolist(), strict=True):
        assert ["male", "female"][true_gender] == name.split("_")[1]
    before = (runs[1] / OUT_OF_FOLD_FILE).stat().st_mtime_ns
    resume(str(runs[1]))
    assert (runs[1] / OUT_OF_FOLD_FILE).stat().st_mtime_ns == before


def test_a_table_of_an_earlier_version_gets_its_truth_from_the_data(runs: tuple[Path, Path]) -> None:
    """Until the run is resumed, which writes it again."""
    file = runs[1] / OUT_OF_FOLD_FILE
    whole, expected = file.read_bytes(), RunPredictions.read(runs[1]).table
    rows = list(csv.reader(file.read_text().splitlines()))
    file.write_text("".join(",".join(row[:-3]) + "\n" for row in rows))
    table = RunPredictions.read(runs[1]).table
    assert all(torch.equal(table.truth[name], classes) for name, classes in expected.truth.items())
    resume(str(runs[1]))
    assert file.read_bytes() == whole


def test_tuned_and_answered(runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tuned = tmp_path / "tuned.json"
    result = tune.main([str(runs[0]), "--output", str(tuned)])
    printed = capsys.readouterr().out
    assert "tuned, nested:" in printed
    assert "untuned arg max:" in printed
    content = json.loads(tuned.read_text())
    assert content["tuning"]["persons"] == 10
    assert content["tuning"]["steps"] == result.chosen.steps
    name = content["runs"][0]["run"]
    content["rules"] = {"answer": {"scale": [0.0] * 17 + [1.0], "threshold": [-1.0] * 18}}
    tuned.write_text(json.dumps(content))
    test_script.main(["-r", str(runs[0]), "--decision", str(tuned), "--output", str(tmp_path / "a.csv")])
    assert {row["ans"] for row in csv.DictReader((tmp_path / "a.csv").open())} == {"17"}  # the rule decides
    assert json.loads((tmp_path / "a.csv.json").read_text())["decision"] == str(tuned)
    again = ["-r", str(runs[0]), "--decision", str(tuned), "--output", str(tmp_path / "c.csv")]
    test_script.main([*again, "--answers", str(tmp_path / "a.csv")])
    (kept,) = read_scores(runs[0])
    assert kept.decision == str(tuned)
    assert kept.metrics["test/accuracy"] == 1
    assert own_test_scores(runs[0]) is None  # it is not the score of the run as it is
    for arguments, words in (
        (["-r", str(runs[1])], name),
        (["-r", str(runs[0]), str(runs[1])], name),
        (["-r", str(runs[0] / "fold_0")], "fold_0"),
        (["-r", str(runs[0]), "--weights", "1"], "--weights"),
        (["-r", str(runs[0]), "--vote", "hard"], "--vote"),
    ):
        with pytest.raises(ConfigError, match=f"--decision .*{words}"):
            test_script.main([*arguments, "--decision", str(tuned), "--output", str(tmp_path / "b.csv")])
    content["runs"][0]["out_of_fold"] = "another"
    tuned.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="trained further"):
        test_script.main(["-r", str(runs[0]), "--decision", str(tuned), "--output", str(tmp_path / "b.csv")])


def test_real_runs_are_compared(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    runs_script.main(["compare", *map(str, runs)])
    lines = capsys.readouterr().out.splitlines()
    common = len(RunPredictions.read(runs[1]).table)
    assert lines[0].startswith(f"{common} images of {common // 7} persons are common")
    assert "different images" in lines[1]
    assert any("against" in line for line in lines)


def test_what_cannot_be_tuned_is_refused(runs: tuple[Path, Path], tmp_path: Path) -> None:
    out = ["--output", str(tmp_path / "tuned.json")]
    (tmp_path / "nothing").mkdir()
    for arguments, words, kind in (
        ([str(runs[0]), str(runs[0]), *out], "twice", ConfigError),
        ([str(runs[0]), "--folds", "2", *out], "--folds 2", ConfigError),
        ([str(runs[0]), "--output", str(tmp_path)], "is a folder", ConfigError),
        ([str(tmp_path / "nothing"), *out], "no checkpoint", CheckpointError),
        ([str(tmp_path / "none"), *out], "none", CheckpointError),
        ([str(runs[0] / "fold_0" / "last.pth"), *out], "name the run's folder", CheckpointError),
    ):
        with pytest.raises(kind, match=words):
            tune.main(arguments)
    assert not (tmp_path / "tuned.json").exists()
