"""Tuning cannot see what it is scored on, brings what it claims, and nothing on permuted labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from base.batch import UNKNOWN
from inference.ensemble import Ensemble
from inference.predictor import Probabilities
from inference.run_predictions import RunPredictions
from inference.scoring.evaluation import JOINT
from inference.scoring.intervals import Score
from inference.tuning.decision import Decision, Pool, TunedEnsemble
from inference.tuning.macro_f1_rule import macro_f1
from inference.tuning.nested import Crossed, Tuning, Way
from tests.inference.tuning.drawn_predictions import LABELS, drawn_runs
from utils.errors import DataError
from utils.random_streams import numpy_stream


def with_truth(runs: list[RunPredictions], truth: dict[str, torch.Tensor]) -> list[RunPredictions]:
    return [replace(run, table=replace(run.table, truth=truth)) for run in runs]


def test_no_decision_depends_on_the_truth_of_its_own_fold() -> None:
    """The truth of one fold is replaced by noise: how its images are decided stays, by every way, and so does the way
    that its outer fold chooses."""
    runs = drawn_runs(30, 3, num_runs=2, confidence=1.5, age_bias=0.5)
    tuning = Tuning(runs)
    rows = tuning.fold_of == 2
    stream = numpy_stream(1, "noise")
    noise = {name: torch.from_numpy(stream.integers(0, 2, len(rows))) for name in LABELS.attributes}
    truth = {
        name: torch.where(torch.from_numpy(rows), noise[name], classes) for name, classes in runs[0].table.truth.items()
    }
    other = Tuning(with_truth(runs, truth))
    other.fold_of = tuning.fold_of
    assert not np.array_equal(tuning.truth[JOINT], other.truth[JOINT])
    result, changed = tuning.run(), other.run()
    assert result.chosen_by_fold[2] == changed.chosen_by_fold[2]
    for way in tuning.ways:
        ours, theirs = (each.crossed(way).decided[JOINT][rows] for each in (tuning, other))
        assert np.array_equal(ours, theirs)


def test_persons_are_not_cut_and_each_fold_has_its_share() -> None:
    tuning = Tuning(drawn_runs(53, 1))
    folds = [set(tuning.person_of[tuning.fold_of == fold]) for fold in range(5)]
    assert sum(map(len, folds)) == len(set.union(*folds)) == 53
    assert {len(fold) for fold in folds} == {10, 11}


def test_on_permuted_labels_nothing_is_gained() -> None:
    """Ten times over the persons get each other's labels: the gain's interval holds 0, but for one time in twenty."""
    gains = []
    for seed in range(10):
        (run,) = drawn_runs(80, seed, confidence=1.6)
        order = numpy_stream(seed, "permuted").permutation(80)
        rows = torch.from_numpy((order[:, None] * 7 + np.arange(7)).ravel())
        truth = {name: classes[rows] for name, classes in run.table.truth.items()}
        gains.append(Tuning(with_truth([run], truth)).run().gain)
    assert sum(low <= 0 <= high for low, high in (gain.interval for gain in gains)) >= 9
    assert np.mean([gain.value for gain in gains]) == pytest.approx(0, abs=0.01)


def test_it_brings_what_it_claims_on_new_people() -> None:
    """An overconfident run that calls people too old, tuned on 300 persons, four times over: on 3,000 new people the
    decision gains what the nested estimate says, within its interval, and never loses."""
    (new,) = drawn_runs(3000, 99, confidence=1.5, age_bias=0.6)
    by_head = {name: table.double().numpy() for name, table in new.table.by_head.items()}
    pool, truth = Pool([LABELS]), LABELS.joint_classes(new.table.truth).numpy()

    def score(decision: Decision) -> float:
        targets, _ = pool.combine([by_head], [1.0], decision.calibration)
        return macro_f1(truth, decision.decide(targets)[JOINT])

    untuned = score(Decision(LABELS, []))
    gains, covered = [], []
    for seed in range(4):
        result = Tuning(drawn_runs(300, seed, confidence=1.5, age_bias=0.6)).run()
        gains.append(score(result.decision()) - untuned)
        low, high = result.gain.interval
        covered.append(low <= gains[-1] <= high)
    assert sum(covered) >= 3
    assert min(gains) >= 0
    assert np.mean(gains) > 0.005


def test_averages_are_calibrated_as_a_whole() -> None:
    """Two runs of one kind: calibrated by itself each has the temperature 1.5, their mean is less confident."""
    tuning = Tuning(drawn_runs(200, 1, num_runs=2, confidence=1.5))
    everything = np.ones(len(tuning.fold_of), dtype=bool)
    calibration = tuning.fit(everything)[Way("equal", "temperature", True)].fitted.calibration
    assert calibration is not None
    assert 0.5 < calibration.temperatures["gender"] < 1.4


def test_what_brings_nothing_is_left_out() -> None:
    """Of a run that is well calibrated: temperatures and shifts."""
    result = Tuning(drawn_runs(150, 5, confidence=1.0)).run()
    assert result.chosen.calibration == "none"
    assert result.steps.keys() == {"temperature", "shift", "rule"}
    lines = "\n".join(result.lines())
    assert "temperature: left out, would change log loss" in lines
    assert result.decision().calibration is None


def test_what_is_chosen() -> None:
    """By log loss the fewest steps that are near the best, with the rule; the arg max unless macro F1 rises."""
    tuning = Tuning(drawn_runs(60, 2))
    everything = np.ones(len(tuning.fold_of), dtype=bool)
    truth = tuning.truth[JOINT]
    losses = numpy_stream(1, "losses").random(len(truth))
    wrong = Crossed({JOINT: np.where(np.arange(len(truth)) % 3 == 0, (truth + 1) % 18, truth)}, losses)
    right = Crossed({JOINT: truth}, losses)
    all_right = dict.fromkeys(tuning.ways, right)
    assert tuning.choose(all_right, everything) == Way()
    assert tuning.choose(all_right | {Way(): wrong}, everything) == Way(rule=True)
    shifted = {way: replace(right, losses=losses - 0.1 * (way.calibration == "shift")) for way in tuning.ways}
    assert tuning.choose(shifted | {Way(): wrong}, everything) == Way("equal", "shift", True)


def test_partial_labels_are_tuned_attribute_by_attribute(tmp_path: Path) -> None:
    """Of half of the persons the mask is known, of the others gender and age: nobody's joint class is. The decision
    gains on new people what was claimed, in the mean of the attributes' macro F1 (by scikit-learn)."""
    (run,) = drawn_runs(300, 4, confidence=1.5, age_bias=1.2)
    of_first_half = torch.arange(300).repeat_interleave(7) < 150
    truth = {
        name: torch.where(of_first_half == (name == "mask"), classes, UNKNOWN)
        for name, classes in run.table.truth.items()
    }
    result = Tuning(with_truth([run], truth)).run()
    assert "mask, gender, age all at once" in result.lines()[0]
    for name, counts in zip(truth, result.untuned, strict=True):
        known = truth[name] != UNKNOWN
        expected = f1_score(truth[name][known], run.table.by_head[name].argmax(dim=1)[known], average="macro")
        assert Score.macro_f1(counts).value == pytest.approx(expected)

    result.decision().write(tmp_path / "tuned.json")
    decision = Decision.read(tmp_path / "tuned.json")
    (new,) = drawn_runs(3000, 99, confidence=1.5, age_bias=1.2)
    probabilities = [Probabilities.from_heads(LABELS, new.table.by_head)]
    tuned = TunedEnsemble(decision, decision.runs, [LABELS], [1.0]).predict(probabilities)
    plain = Ensemble([LABELS], [1.0], ["a"]).predict(probabilities)
    assert tuned.joint is not None
    assert torch.equal(tuned.joint, LABELS.joint_classes(tuned.classes))
    scores = [
        np.mean([f1_score(new.table.truth[name], each.classes[name], average="macro") for name in truth])
        for each in (plain, tuned)
    ]
    low, high = result.gain.interval
    assert max(low, 0.005) <= scores[1] - scores[0] <= high


def test_too_few_persons_are_refused() -> None:
    with pytest.raises(DataError, match="only 9 persons have a known class"):
        Tuning(drawn_runs(9, 1))
