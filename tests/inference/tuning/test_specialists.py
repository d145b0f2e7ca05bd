"""Specialists are tuned together: a model for masks, and one for gender and age."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from base.label_space import LabelSpace
from inference.ensemble import Ensemble
from inference.out_of_fold import PredictionTable
from inference.predictor import Probabilities
from inference.run_predictions import RunPredictions, common_images
from inference.scoring.evaluation import JOINT
from inference.tuning.decision import Decision, TunedEnsemble
from inference.tuning.nested import UNTUNED, Tuning
from tests.inference.tuning.drawn_predictions import LABELS, drawn_runs
from utils.errors import ConfigError, DataError

ATTRIBUTES = LABELS.to_config()["attributes"]
MASK_ONLY = LabelSpace({"mask": ATTRIBUTES["mask"]})
PAIR = LabelSpace({name: ATTRIBUTES[name] for name in ("gender", "age")}, {"pair": ["gender", "age"]})


def specialists(num_persons: int, seed: int, confidence: float = 1.0, age_bias: float = 0.0) -> list[RunPredictions]:
    """Gender and age are predicted by one head, whose classes depend on each other; the mask run has other images, too,
    in another order."""
    (run,) = drawn_runs(num_persons, seed, 1, confidence, age_bias)
    gender, age = run.table.by_head["gender"], run.table.by_head["age"]
    pair = (gender.unsqueeze(2) * age.unsqueeze(1)).flatten(1) ** 1.1
    pair = pair * torch.tensor([1.0, 1.2, 1.0, 1.2, 1.0, 1.2])
    tables = [
        replace(run.table, labels=MASK_ONLY, by_head={"mask": run.table.by_head["mask"]}),
        replace(run.table, labels=PAIR, by_head={"pair": pair / pair.sum(dim=1, keepdim=True)}),
    ]
    kept = [{name: table.truth[name] for name in table.labels.predicted_attributes} for table in tables]
    runs = [replace(table, truth=truth) for table, truth in zip(tables, kept, strict=True)]
    shuffled = np.random.default_rng(0).permutation(len(runs[0]))
    return [_run(0, runs[0][shuffled.tolist()]), _run(1, runs[1][list(range(7, len(runs[1])))])]


def _run(number: int, table: PredictionTable) -> RunPredictions:
    return RunPredictions(Path(f"saved/models/Drawn/{number}"), f"Drawn/{number}", {}, table, f"digest {number}")


def predicted(runs: list[RunPredictions]) -> list[Probabilities]:
    return [Probabilities.from_heads(run.table.labels, run.table.by_head) for run in runs]


def test_untuned_they_answer_as_an_ensemble() -> None:
    runs = common_images(specialists(60, 1), specialists=True)
    assert len(runs[0].table) == 59 * 7
    tuning = Tuning(runs, num_folds=3)
    ensemble = Ensemble([MASK_ONLY, PAIR], [1.0, 1.0], ["a", "b"])
    expected = ensemble.predict(predicted(runs))
    assert expected.joint is not None
    assert np.array_equal(tuning.crossed(UNTUNED).decided[JOINT], expected.joint.numpy())
    assert {way.weights for way in tuning.ways} == {"equal"}
    joint = ensemble.joint_probabilities(predicted(runs))
    mask, pair = (run.table.by_head[name].double().numpy() for run, name in zip(runs, ("mask", "pair"), strict=True))
    by_hand = np.einsum("nm,np->nmp", mask, pair).reshape(len(mask), -1)
    assert joint is not None
    assert joint.numpy() == pytest.approx(by_hand, abs=1e-6)


def test_what_was_learned_raises_the_score_of_new_people(tmp_path: Path) -> None:
    """Of models that are too sure, and see people as too old: whatever the order in which they are named."""
    tuning = Tuning(common_images(specialists(400, 2, confidence=2.0, age_bias=1.5), specialists=True), num_folds=3)
    result = tuning.run()
    assert result.gain.is_decided
    assert result.gain.value > 0
    result.decision().write(tmp_path / "tuned.json")
    decision = Decision.read(tmp_path / "tuned.json")
    assert [run.weight for run in decision.runs] == [0.5, 0.5]
    runs = common_images(specialists(400, 3, confidence=2.0, age_bias=1.5), specialists=True)
    truth = decision.labels.joint_classes(runs[0].table.truth | runs[1].table.truth)
    answers = []
    for order in ([0, 1], [1, 0]):
        labels = [runs[number].table.labels for number in order]
        members = decision.members_of([runs[number].name for number in order], labels)
        ensemble = TunedEnsemble(decision, members, labels, [member.weight for member in members])
        answer = ensemble.predict([predicted(runs)[number] for number in order])
        assert answer.joint is not None
        assert answer.probabilities.keys() == {"mask", "gender", "age"}
        answers.append(answer.joint)
    assert torch.equal(*answers)
    plain = Ensemble([MASK_ONLY, PAIR], [1.0, 1.0], ["a", "b"]).predict(predicted(runs)).joint
    assert plain is not None
    scores = [_macro_f1(truth.numpy(), each.numpy()) for each in (plain, answers[0])]
    assert scores[1] > scores[0] + result.gain.value / 2


def _macro_f1(truth: np.ndarray, decided: np.ndarray) -> float:
    scores = []
    for known in np.unique(truth):
        both = ((truth == known) & (decided == known)).sum()
        scores.append(2 * both / ((truth == known).sum() + (decided == known).sum()))
    return float(np.mean(scores))


def test_a_decision_without_steps_is_the_ensemble() -> None:
    runs = common_images(specialists(20, 4), specialists=True)
    decision = replace(Tuning(runs, num_folds=3).run().decision(), calibration=None, rules={})
    labels = [run.table.labels for run in runs]
    tuned = TunedEnsemble(decision, decision.runs, labels, [0.5, 0.5]).predict(predicted(runs))
    plain = Ensemble(labels, [1.0, 1.0], ["a", "b"]).predict(predicted(runs))
    assert tuned.joint is not None
    assert plain.joint is not None
    assert torch.equal(tuned.joint, plain.joint)
    for name, table in plain.probabilities.items():
        torch.testing.assert_close(tuned.probabilities[name], table)


def test_specialists_must_agree_where_they_meet() -> None:
    mask, pair = specialists(20, 5)
    with pytest.raises(ConfigError, match="do not predict the same"):
        common_images([mask, pair])
    other = LabelSpace({"mask": {"classes": ["wear", "incorrect", "none"]}})
    with pytest.raises(ConfigError, match="other scored classes"):
        Tuning(common_images([mask, replace(mask, table=replace(mask.table, labels=other)), pair], specialists=True))
    wrong = replace(mask.table, truth={"mask": (mask.table.truth["mask"] + 1) % 3})
    with pytest.raises(DataError, match="another true mask"):
        common_images([mask, replace(mask, table=wrong), pair], specialists=True)
