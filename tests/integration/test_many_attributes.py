"""40 binary attributes, whose 2^40 combinations nothing may hold: trained, answered, scored and counted one by one."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score

from scripts import data_stats, evaluate
from tests.integration.workplace import EVALUATION_NAMES, Workplace

NAMES = [f"a{number}" for number in range(40)]


def config_of(workplace: Workplace, **changes: Any) -> Path:
    """Over the training images, two attributes in three known; a0 is the same everywhere."""
    images = sorted((workplace.train_root / "images").rglob("*.jpg"))
    cells = np.random.default_rng(3).choice(["no", "yes", ""], (len(images), len(NAMES)))
    cells[:, 0] = "yes"
    rows = [",".join(["path", "person", *NAMES])]
    rows += [
        ",".join([str(path.relative_to(workplace.folder)), path.parent.name, *own])
        for path, own in zip(images, cells, strict=True)
    ]
    workplace.write("table.csv", "\n".join(rows))
    labels = {name: {"classes": ["no", "yes"]} for name in NAMES}
    known = ("mask", "gender", "age")
    settings = {
        "data": [{"type": "AttributeTable", "args": {"path": "table.csv"}}],
        "split.args.stratify": [],
        "labels": {"attributes": labels | dict.fromkeys(known)},
        "loss": {"heads": {name: {"type": "CrossEntropyLoss"} for name in NAMES} | dict.fromkeys(known)},
        **changes,
    }
    return workplace.write_config(settings)


def test_trained_answered_and_scored_one_by_one(workplace: Workplace) -> None:
    outcome = workplace.train("--config", config_of(workplace, visualize=True, **{"trainer.monitor": "max val/f1"}))
    outcome.check_success()
    assert f"{2**40:,} combinations" in outcome.out
    assert "warning: left out, as all validation images are of one class there: val/a0_accuracy" in outcome.out
    assert 'tiny.json: info_dir = "data/eval"' in outcome.out
    lines = (workplace.save_dir / "log" / workplace.run.relative_to("saved/models") / "metrics.jsonl").read_text()
    metrics = json.loads(lines.splitlines()[-1])
    own = [metrics[f"val/{name}_f1"] for name in NAMES if f"val/{name}_f1" in metrics]
    assert "val/a0_f1" not in metrics
    assert metrics["val/f1"] == pytest.approx(np.mean(own))

    workplace.test("--resume", workplace.run, "--split", "validation", "--parts").check_success()
    truth = "".join(f"{name},{'yes' if number % 2 else 'no'}\n" for number, name in enumerate(EVALUATION_NAMES))
    workplace.write("answers.csv", f"ImageID,a7\n{truth}")
    out, info = ("--output", "out.csv"), ("--info-dir", "data/eval")
    outcome = workplace.test("--resume", workplace.run, *info, *out, "--answers", "answers.csv", "--probabilities")
    outcome.check_success()
    rows = list(csv.DictReader((workplace.folder / "out.csv").open()))
    assert list(rows[0]) == ["ImageID", *NAMES]
    assert [row["ImageID"] for row in rows] == list(EVALUATION_NAMES)
    scores = evaluate.evaluate(evaluate.parse(["out.csv", "answers.csv"]))
    expected = f1_score(["no", "yes"] * 3, [row["a7"] for row in rows], average="macro", zero_division=0)
    assert {row.name: row.macro_f1 for row in scores} == pytest.approx({"answer": expected, "a7": expected})


def test_out_of_fold(workplace: Workplace) -> None:
    split = {"type": "KFoldSplit", "args": {"folds": 2, "stratify": []}}
    outcome = workplace.train("--config", config_of(workplace, split=split))
    outcome.check_success()
    assert "answer: over 2 folds macro F1" in outcome.out
    outcome = workplace.test("--resume", workplace.run, "--info-dir", "data/eval", "--vote", "hard")
    outcome.check_success()


def test_the_statistics_have_no_joint_class(workplace: Workplace) -> None:
    config = config_of(workplace)
    data_stats.main(["-c", str(config), "--output", "stats.json"])
    found = json.loads((workplace.folder / "stats.json").read_text())["sides"]["train"]
    assert "answer" not in found
    assert found["attributes"]["a0"]["classes"]["yes"]["share"] == 1
