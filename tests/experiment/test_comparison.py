"""Runs compared on their common images: the figures by scikit-learn, seeds as one group, and what cannot be decided."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score

from experiment import comparison
from experiment.comparison import compare_runs
from inference.run_predictions import RunPredictions
from tests.inference.tuning.drawn_predictions import LABELS, drawn_runs
from utils.errors import ConfigError, DataError
from utils.run_folders import CONFIG_FILE

Made = dict[Path, RunPredictions]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    """Run folders whose predictions the test fills in."""
    runs: Made = {}
    monkeypatch.setattr(comparison.RunPredictions, "read", runs.__getitem__)
    return runs


def add(made: Made, folder: Path, run: RunPredictions, digest: str = "v", **config: object) -> Path:
    folder.mkdir(parents=True)
    config = {"name": "Drawn", "trainer": {"monitor": "off"}, "split": {"type": "PersonSplit", "args": {}}, **config}
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    (folder / "run.json").write_text(json.dumps({"digests": {"validation": digest}}))
    made[folder] = replace(run, folder=folder, name=f"Drawn/{folder.name}", config=config)
    return folder


def worse(run: RunPredictions, share: float, seed: int = 0) -> RunPredictions:
    """The same run with some of its ages at random."""
    generator = torch.Generator().manual_seed(seed)
    age = run.table.by_head["age"]
    is_spoilt = torch.rand(len(age), generator=generator) < share
    noise = torch.rand(age.shape, generator=generator).softmax(dim=1)
    spoilt = torch.where(is_spoilt[:, None], noise, age)
    return replace(run, table=replace(run.table, by_head=run.table.by_head | {"age": spoilt}))


def classes_of(run: RunPredictions) -> np.ndarray:
    return LABELS.joint_probabilities(run.table.by_head).argmax(dim=1).numpy()


def test_two_runs(made: Made, tmp_path: Path) -> None:
    """One lacks some persons; the figures are scikit-learn's on the others' images."""
    (good,) = drawn_runs(200, 1)
    bad = worse(good, 0.5)
    bad = replace(bad, table=bad.table[list(range(140, 1400))])
    folders = [add(made, tmp_path / "a", good), add(made, tmp_path / "b", bad, digest="w", lr=1)]
    lines = compare_runs(folders)
    assert lines[0].startswith("1260 images of 180 persons are common")
    assert "different images" in lines[1]
    rows = slice(140, 1400)
    truth = LABELS.joint_classes(good.table.truth).numpy()[rows]
    one, other = classes_of(good)[rows], classes_of(bad)
    own = next(line for line in lines if line.strip().startswith("answer"))
    assert f"macro F1 {f1_score(truth, one, average='macro'):.4f}" in own
    assert f"accuracy {accuracy_score(truth, one):.4f}" in own
    compared = lines[lines.index("Drawn/b against Drawn/a:") + 1 :]
    gain = f1_score(truth, other, average="macro") - f1_score(truth, one, average="macro")
    assert f"macro F1 {gain:+.4f} [" in compared[0]
    assert compared[0].endswith("worse")
    mask = next(line for line in compared if line.strip().startswith("mask"))
    assert mask.endswith("p = 1.0000: cannot be decided")


def test_seeds_of_one_config_are_one_group(made: Made, tmp_path: Path) -> None:
    (good,) = drawn_runs(150, 2)
    shares = [0.1, 0.12, 0.14, 0.4, 0.42, 0.44]
    folders = [
        add(made, tmp_path / str(number), worse(good, share, number), seed=number, lr=number // 3)
        for number, share in enumerate(shares)
    ]
    lines = compare_runs(folders)
    assert "Drawn/0 and 2 other seeds:" in lines
    truth = LABELS.joint_classes(good.table.truth).numpy()
    scores = [f1_score(truth, classes_of(made[folder]), average="macro") for folder in folders[:3]]
    answer = lines[lines.index("Drawn/0 and 2 other seeds:") + 1]
    assert f"macro F1 {np.mean(scores):.4f} [" in answer
    assert f"(over seeds +- {np.std(scores, ddof=1):.4f})" in answer
    compared = lines[lines.index("Drawn/3 and 2 other seeds against Drawn/0 and 2 other seeds:") + 1]
    assert compared.endswith(": worse")
    alone = compare_runs(folders[:3])
    assert not any("against" in line for line in alone)
    assert alone[-1].startswith("they differ in the seed alone")


def test_the_interval_over_seeds_is_wider_the_more_they_differ(made: Made, tmp_path: Path) -> None:
    (good,) = drawn_runs(60, 3)
    widths = []
    for name, shares in (("alike", (0.2, 0.2)), ("unlike", (0.0, 0.4))):
        folders = [
            add(made, tmp_path / name / str(number), worse(good, share, number), seed=number)
            for number, share in enumerate(shares)
        ]
        answer = next(line for line in compare_runs(folders) if line.strip().startswith("answer"))
        low, high = answer.split("[")[1].split("]")[0].split(", ")
        widths.append(float(high) - float(low))
    assert widths[1] > 1.5 * widths[0]


def test_what_cannot_be_compared_is_refused(made: Made, tmp_path: Path) -> None:
    (run,) = drawn_runs(10, 4)
    first = add(made, tmp_path / "a", run)
    renamed = replace(run, table=replace(run.table, ids=[f"other {name}" for name in run.table.ids]))
    relabelled = replace(run, table=replace(run.table, truth=run.table.truth | {"age": run.table.truth["age"] * 0}))
    with pytest.raises(ConfigError, match="twice"):
        compare_runs([first, first])
    with pytest.raises(ConfigError, match="alone"):
        compare_runs([first])
    with pytest.raises(DataError, match="no image in common"):
        compare_runs([first, add(made, tmp_path / "b", renamed)])
    with pytest.raises(DataError, match="another true age"):
        compare_runs([first, add(made, tmp_path / "c", relabelled)])
