"""A decision's file, the runs that it belongs to, and that it answers as it was learned."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.label_space import LabelSpace
from inference.predictor import Probabilities
from inference.scoring.evaluation import JOINT
from inference.tuning.decision import Decision, Pool, TunedEnsemble
from inference.tuning.nested import Tuning, Way
from tests.inference.tuning.drawn_predictions import LABELS, drawn_runs
from utils.errors import ConfigError


def test_models_answer_as_the_decision_was_learned(tmp_path: Path) -> None:
    """Written, read and applied to the models' probabilities: the classes that the fit on all images decided."""
    runs = drawn_runs(30, 1, num_runs=2, confidence=1.5, age_bias=0.6)
    tuning = Tuning(runs)
    result = tuning.run()
    everything = np.ones(len(tuning.fold_of), dtype=bool)
    for way, learned in tuning.fit(everything).items():
        made = type(result)(tuning, way, [], learned.fitted, result.untuned, result.nested, {}).decision()
        made.write(tmp_path / "tuned.json")
        decision = Decision.read(tmp_path / "tuned.json")
        kept = [number for number in range(2) if learned.fitted.weights[number] > 0]
        names = [runs[number].name for number in kept]
        members = decision.members_of(names, [LABELS] * len(kept))
        ensemble = TunedEnsemble(decision, members, [LABELS] * len(kept), [member.weight for member in members])
        predicted = ensemble.predict([Probabilities.from_heads(LABELS, runs[number].table.by_head) for number in kept])
        assert predicted.joint is not None
        assert (predicted.joint.numpy() == learned.decided[JOINT]).mean() > 0.999  # weights of less than 0.001 are gone
        assert set(predicted.classes) == set(predicted.probabilities) == {"mask", "gender", "age"}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("decision") / "tuned.json"
    Tuning(drawn_runs(20, 1, num_runs=2)).run().decision().write(file)
    return file.read_bytes()


@pytest.fixture
def file(tmp_path: Path, written: bytes) -> Path:
    (tmp_path / "tuned.json").write_bytes(written)
    return tmp_path / "tuned.json"


def test_other_runs_heads_and_classes_are_refused(file: Path) -> None:
    decision = Decision.read(file)
    names = [run.name for run in decision.runs]
    fewer = LabelSpace({"mask": {"classes": ["on", "off"]}, "gender": {"classes": ["male", "female"]}})
    one_head = LabelSpace(LABELS.to_config()["attributes"], {"all": ["mask", "gender", "age"]})
    with pytest.raises(ValueError, match=r"not from Other/1"):
        decision.members_of([*names, "Other/1"], [LABELS] * (len(names) + 1))
    with pytest.raises(ValueError, match=f"needs {names[-1]} too"):
        decision.members_of(names[:-1], [LABELS] * (len(names) - 1))
    for other in (fewer, one_head):
        with pytest.raises(ValueError, match="other heads or classes"):
            decision.members_of(names, [other] * len(names))
    left_out = Decision(LABELS, decision.runs[:1], left_out=["Drawn/9"])
    with pytest.raises(ValueError, match="gives Drawn/9 no weight"):
        left_out.members_of([names[0], "Drawn/9"], [LABELS] * 2)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content.update(format=2),
        lambda content: content.pop("runs"),
        lambda content: content.update(runs=[]),
        lambda content: content["runs"][0].update(weight=-1),
        lambda content: content["runs"][0].update(weight=float("nan")),
        lambda content: content.update(rules={JOINT: {"scale": [1.0], "threshold": [0.0]}}),
        lambda content: content.update(rules={"nose": {"scale": [1.0], "threshold": [0.0]}}),
        lambda content: content.update(calibration={"temperatures": {}, "shifts": {}}),
        lambda content: content.update(labels=[]),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(file: Path, spoil: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text())
    spoil(content)
    file.write_text(json.dumps(content))
    with pytest.raises(ConfigError) as caught:
        Decision.read(file)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.json").write_text("no json")
    for name in ("none.json", "text.json"):
        with pytest.raises(ConfigError, match=name):
            Decision.read(tmp_path / name)


def test_models_with_other_heads_meet_attribute_by_attribute() -> None:
    """One head of 18 classes, and three heads: the mean of their attributes' probabilities."""
    one_head = LabelSpace(LABELS.to_config()["attributes"], {"all": ["mask", "gender", "age"]})
    (run,) = drawn_runs(20, 1)
    heads = {name: table.double().numpy() for name, table in run.table.by_head.items()}
    product = {"all": LABELS.joint_probabilities(run.table.by_head).double().numpy()}
    pool = Pool([one_head, LABELS])
    pooled = pool.heads([product, heads], [1.0, 3.0])
    assert list(pool.labels.heads) == ["mask", "gender", "age"]
    for name, table in heads.items():
        assert pooled[name] == pytest.approx(table, abs=1e-6)
    assert Way().steps == []
