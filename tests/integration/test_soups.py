"""scripts.soup as a user runs it, and what other commands make of its run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from experiment.comparison import compare_runs
from experiment.report.report import make_report
from inference.out_of_fold import OUT_OF_FOLD_FILE
from inference.predictor import Predictor, find_checkpoint
from inference.run_predictions import RunPredictions, common_images
from scripts import export, runs, soup
from tests.integration.workplace import Outcome, Workplace
from utils.checkpoint.checkpoint_file import read_checkpoint


def make_soup(workplace: Workplace, *argv: str | Path) -> Outcome:
    return workplace._run(soup.main, argv)


@pytest.fixture
def pair(trained: Workplace) -> tuple[Workplace, list[Path]]:
    """A run, and one that went on from its weights with another seed."""
    first = trained.run
    trained.train("-c", trained.write_config(), "--from", first, "--set", "seed=3", "--run-id", "b").check_success()
    return trained, [first, Path("saved/models/Tiny/b")]


def test_a_soup_is_a_run(pair: tuple[Workplace, list[Path]]) -> None:
    workplace, pans = pair
    outcome = make_soup(workplace, *pans)
    outcome.check_success()
    assert "the soup of all 2" in outcome.out
    assert "began with" in outcome.out + outcome.err  # one from random weights, the other from that run
    (made,) = Path("saved/models/Tiny_soup").iterdir()
    content = read_checkpoint(find_checkpoint(made))
    states = [read_checkpoint(find_checkpoint(run))["model"] for run in pans]
    for name, tensor in content["model"].items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(tensor, (states[0][name] + states[1][name]) / 2)
    running = "features.1.running_mean"
    assert not torch.allclose(content["model"][running], (states[0][running] + states[1][running]) / 2, atol=1e-6)
    workplace.test("--resume", made, "--output", "a.csv").check_success()
    workplace.test("--resume", made, "--split", "validation", "--output", "v.csv").check_success()
    compared = workplace._run(runs.main, ["compare", pans[0], made])
    assert "they were validated on the same images" in compared.out
    assert "Tiny_soup/" in workplace._run(runs.main, ["--sort", "val/f1"]).out
    own, other = common_images([RunPredictions.read(run) for run in (made, pans[1])])  # as scripts.tune reads them
    assert own.table.ids == other.table.ids
    export.main([str(made), "--to", "safetensors"])
    workplace.train("--resume", made).check_refusal(4, (f"{made}/model_best.pth: ", "--from"))
    config = workplace.write_config({"name": "Tiny_soup"}, "again.json")
    workplace.train("-c", config, "--from", made, "--resume", "auto", "--dry-run").check_success()
    make_soup(workplace, *pans, "--output", made).check_refusal(2, (f"--output {made}: is not empty",))


def test_a_greedy_soup_says_what_is_fitted(pair: tuple[Workplace, list[Path]]) -> None:
    workplace, pans = pair
    outcome = make_soup(workplace, *pans, "--greedy", "--output", "greedy")
    outcome.check_success()
    assert "fitted" in outcome.out
    assert "nested estimate" in outcome.out
    assert Path("greedy", OUT_OF_FOLD_FILE).exists()
    again = make_soup(workplace, *pans, "--greedy", "--output", "again")
    again.check_success()
    compared = compare_runs([Path("greedy"), Path("again")])
    assert sum("is a greedy soup: each person is predicted by the one" in line for line in compared) == 2
    assert any(line.endswith(" against Tiny_soup/greedy:") for line in compared)  # not taken for seeds of one config
    made = [make_report(Path(name)).read_text() for name in ("greedy", str(pans[0]))]
    assert ["soup that is chosen without them" in each for each in made] == [True, False]
    files = [Path(name, "model_best.pth") for name in ("greedy", "again")]
    states = [read_checkpoint(file)["model"] for file in files]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_runs_of_other_people_and_other_networks(pair: tuple[Workplace, list[Path]]) -> None:
    """The first make a soup without a score, and no greedy one; the second none at all."""
    workplace, pans = pair
    config = workplace.write_config()
    moved = ("-c", config, "--from", pans[0], "--set", "split.args.seed=7", "--run-id", "moved")
    workplace.train(*moved).check_success()
    other = Path("saved/models/Tiny/moved")
    make_soup(workplace, pans[0], other, "--greedy").check_refusal(2, ("--greedy: the runs were divided differently",))
    make_soup(workplace, pans[0], other, "--output", "mixed").check_success()
    assert not Path("mixed", OUT_OF_FOLD_FILE).exists()
    assert Predictor.from_checkpoint(Path("mixed/model_best.pth")).split_digest is None
    outcome = workplace.train("-c", config, "--from", "mixed", "--dry-run")
    outcome.check_success()
    assert "divided differently" in outcome.out + outcome.err
    kept = json.loads((pans[1] / "config.json").read_text())
    assert kept["initial_weights"] == str(pans[0])
    wider = ("-c", config, "--set", "arch.args.width=8", "--run-id", "wide")
    workplace.train(*wider).check_success()
    wide = Path("saved/models/Tiny/wide")
    make_soup(workplace, pans[0], wide).check_refusal(2, (f"{wide}/model_best.pth: arch.args.width is 8, and 4 in",))
    make_soup(workplace, pans[0]).check_refusal(2, (f"{pans[0]}/model_best.pth: alone makes no soup",))
    make_soup(workplace, pans[0], pans[0]).check_refusal(2, (f"{pans[0]}/model_best.pth: is named twice",))
    copy = Path(pans[0]).parent / "copy.pth"
    os.link(f"{pans[0]}/model_best.pth", copy)
    make_soup(workplace, pans[0], str(copy)).check_refusal(2, (f"{copy}: is the same file as",))
    make_soup(workplace, pans[0], "nowhere").check_refusal(4, "nowhere: there is no such run folder")
