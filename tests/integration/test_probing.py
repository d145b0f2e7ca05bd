"""scripts.probe as a user runs it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import timm
import torch

from inference.embeddings import embed
from inference.inputs import EnsembleMember, choose_records
from inference.predictor import Predictor, find_checkpoint
from inference.tta import PRESETS
from scripts import probe
from tests.integration.workplace import Outcome, Workplace


def run_probe(workplace: Workplace, *argv: str | Path) -> Outcome:
    return workplace._run(probe.main, argv)


def test_a_run_is_probed(trained: Workplace) -> None:
    """Its embeddings are those of its network, in the order of the table, and the table of scores has intervals."""
    outcome = run_probe(trained, "--resume", trained.run, "--output", "found")
    outcome.check_success()
    assert sorted(path.name for path in Path("found").iterdir()) == ["images.csv", "scores.json", "the run.npy"]
    with Path("found/images.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["path", "person", "side", "mask", "gender", "age"]
    predictor = Predictor.from_checkpoint(file := find_checkpoint(trained.run), tta=PRESETS["none"])
    records = [
        record
        for side in ("train", "validation")
        for record in choose_records([EnsembleMember(file, predictor, 1.0)], None, side)
    ]
    assert [row["path"] for row in rows] == [str(record.path) for record in records]
    assert {row["side"] for row in rows} == {"train", "validation"}
    assert {row["gender"] for row in rows if "female" in row["path"]} == {"female"}
    np.testing.assert_allclose(np.load("found/the run.npy"), embed([predictor], records, 5, 0)[0], rtol=1e-4, atol=1e-6)
    scores = json.loads(Path("found/scores.json").read_text())["the run"]
    for kind in ("linear", "kNN"):
        answer = scores[kind]["scores"][0]
        low, high = answer["interval"]
        cell = f"{answer['macro_f1']:.4f} [{low:.4f}, {high:.4f}]"
        (line,) = [each for each in outcome.out.splitlines() if each.startswith(f"the run, {kind}")]
        assert cell in line
    assert "majority class" in outcome.out


def test_backbones_are_compared_on_the_same_people(workplace: Workplace) -> None:
    """Of files of weights, on a share of the people; the first embeds as its own network does."""
    weights = timm.create_model("test_resnet", num_classes=0).state_dict()
    torch.save(weights, "resnet.pth")
    config = workplace.write_config()
    names = ["test_resnet=resnet.pth", "test_convnext"]
    flags: list[str | Path] = ["-c", config, "--images", "14", "--models"]
    run_probe(workplace, *flags, *names[:1], "test_resnet").check_refusal(2, ("--models test_resnet: ", "twice"))
    outcome = run_probe(workplace, *flags, *names[:1], "test_resnt")
    outcome.check_refusal(2, ("--models test_resnt: ", "test_resnet"))
    outcome = run_probe(workplace, *flags, *names[:1])
    outcome.check_success()
    assert "14 of 42 training images, of 2 persons" in outcome.out
    assert "test_resnet, linear" in outcome.out
    assert "random" not in outcome.out + outcome.err
    outcome = run_probe(workplace, "-c", config, "--images", "14")
    outcome.check_success()
    assert "BaselineCNN: its weights are random" in outcome.out + outcome.err


def test_what_a_probe_refuses(trained: Workplace) -> None:
    """In one line, before anything is embedded: above all, people whom the run has trained on."""
    moved = trained.write_config({"split.args.seed": 7}, "moved.json")
    outcome = run_probe(trained, "-c", moved, "--resume", trained.run)
    outcome.check_refusal(2, (f"{trained.run}: was trained on ", "that validate here"))
    same = trained.write_config()
    run_probe(trained, "-c", same, "--resume", trained.run).check_success()
    off = {"split": {"type": "NoSplit"}, "trainer.monitor": "off", "trainer.save_best": []}
    alone = trained.write_config(off, "alone.json")
    cases: list[tuple[tuple[str | Path, ...], int, str]] = [
        (("--resume", "nowhere"), 4, "nowhere: there is no such run folder"),
        (("--resume", trained.run, "--models", "resnet18"), 2, "--resume and --models"),
        (("-c", same, "--images", "0"), 2, "--images 0: "),
        (("-c", same, "--output", "data"), 2, "--output data: is not empty"),
        (("-c", alone), 3, "the split leaves no validation images"),
    ]
    for argv, exit_code, expected in cases:
        run_probe(trained, *argv).check_refusal(exit_code, expected)
