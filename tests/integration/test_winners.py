"""What winners do, exactly: pseudo-labels of the evaluation images, and images that grow over the epochs."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import pytest

import test as test_script
from experiment.checks import check_config
from experiment.pseudo_labels import warn_of_leaks
from experiment.schema import SECTIONS
from parse_config import ConfigParser
from tests.integration.drawn_road import assert_same_end, resume, run, stop_after_updates, write_config
from utils.config.layers import Override
from utils.errors import ConfigError, DataError, StopSignal

PHASES = [[1, 20], [2, 30], [3, 40]]


def test_both_resume_exactly_in_every_phase(
    tmp_path: Path, drawn: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run(write_config(tmp_path, drawn))
    test_script.main(["--resume", str(first), "--output", str(tmp_path / "a.csv"), "--probabilities"])
    table = tmp_path / "a_probabilities.csv"
    labelled = {"path": str(table), "root": str(drawn / "eval" / "images"), "thresholds": 0.4, "weight": 0.5}
    sources = [
        {"type": "CompetitionFolder", "args": {"root": str(drawn / "train")}},
        {"type": "PseudoLabels", "args": labelled},
    ]
    loader = {"batch_size": 8, "valid_batch_size": 5, "input_size": [40, 32], "num_workers": 0}
    changes: dict[str, Any] = {
        "data": sources,
        "data_loader": {"args": {**loader, "progressive_sizes": PHASES}},
        "mixing": [{"type": "CutMix", "args": {"batch_share": 0.5}}],
    }
    config = write_config(tmp_path, drawn, **changes)
    whole = run(config)
    log = (tmp_path / "saved/log/Road" / whole.name / "info.log").read_text()
    assert [f"epoch {epoch}: training images of {size} pixels" in log
            for epoch, size in enumerate(("20 x 16", "30 x 24", "40 x 32"), start=1)] == [True] * 3  # fmt: skip
    assert "flatter" not in log, "the model behind them has the same split"
    [found] = json.loads((whole / "run.json").read_text())["pseudo_labels"]
    assert found["sha256"] == hashlib.sha256(table.read_bytes()).hexdigest()
    assert [model["run"] for model in found["models"]] == [first.name]

    stop_after_updates(monkeypatch, 3)  # in the first phase
    with pytest.raises(StopSignal) as stopped:
        run(config)
    models = str(stopped.value).rpartition("--resume ")[2]
    for count in (12, 9):  # in the second and the third
        monkeypatch.undo()
        stop_after_updates(monkeypatch, count)
        with pytest.raises(StopSignal):
            resume(models, "--set", f"data_loader.args.num_workers={count % 2}")
    monkeypatch.undo()
    before = table.read_text()
    table.write_text("\n".join(before.splitlines()[:-1]))
    with pytest.raises(DataError, match="changed since"):
        resume(models)
    table.write_text(before)
    resume(models)
    assert_same_end(whole, Path(models))

    capsys.readouterr()
    test_script.main(["--resume", str(whole), "--output", str(tmp_path / "b.csv")])
    assert "pseudo-labels: scores on them" in capsys.readouterr().out


def test_models_that_may_have_seen_who_validates_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    models = [{"run": "a", "validation_digest": "1"}, {"run": "b", "validation_digest": "2"}, {"run": "c"}]

    def warnings(models: list[dict[str, str]]) -> list[str]:
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            warn_of_leaks([{"path": "x.csv", "models": models}], "1")
        return caplog.messages

    assert warnings(models[:1]) == []
    [line] = warnings(models)
    assert line.startswith("x.csv: 2 of the 3 models that made it (b, c)")
    [line] = warnings([])
    assert line.startswith("x.csv: no <answers>.csv.json")


@pytest.mark.parametrize(
    ("changes", "key_path"),
    [
        ({"data_loader.args.progressive_sizes": [[1, 20], [3, 40]]}, None),
        ({"data_loader.args.progressive_sizes": [[1, 20], [3, 30]]}, "data_loader.args.progressive_sizes"),
        ({"data_loader.args.progressive_sizes": [[1, 20], [4, 40]]}, "data_loader.args.progressive_sizes"),
        (
            {"data_loader.args.progressive_sizes": [[1, 20], [3, 40]], "trainer.max_hours": 1},
            "data_loader.args.progressive_sizes",
        ),
        (
            {"data_loader.args.progressive_sizes": PHASES, "data_loader.args.input_size": None},
            "data_loader.args.progressive_sizes",
        ),
        (
            {
                "data_loader.args.progressive_sizes": [[1, 16], [2, 32]],
                "data_loader.args.input_size": 32,
                "arch": {"type": "TimmModelMulti", "args": {"model_name": "vit_tiny_patch16_224", "img_size": 32}},
            },
            "data_loader.args.progressive_sizes",
        ),
        (
            {
                "data_loader.args.progressive_sizes": [[1, 16], [2, 32]],
                "data_loader.args.input_size": 32,
                "arch": {
                    "type": "TimmModelMulti",
                    "args": {"model_name": "vit_tiny_patch16_224", "img_size": 32, "dynamic_img_size": True},
                },
            },
            None,
        ),
        (
            {"arch": {"type": "TimmModelMulti", "args": {"model_name": "test_resnet", "dynamic_img_size": True}}},
            "arch.args.model_name",
        ),
    ],
)
def test_sizes_that_cannot_be_are_one_line(
    tmp_path: Path, drawn: Path, changes: dict[str, Any], key_path: str | None
) -> None:
    given = [Override(key, json.dumps(value)) for key, value in changes.items()]
    try:
        check_config(ConfigParser.from_file(write_config(tmp_path, drawn), SECTIONS, given))
        found = []
    except ConfigError as error:
        found = [".".join(map(str, problem.key_path)) for problem in error.problems]
    assert key_path in found or (key_path is None and not found)
