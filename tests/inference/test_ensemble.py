"""Ensembles against sums and products by hand, class by class."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from base.label_space import LabelSpace
from inference.ensemble import Ensemble
from inference.predictor import Probabilities
from tests.inference.conftest import joint_of
from utils.errors import ConfigError
from utils.random_streams import numpy_stream

MASK: Any = {"classes": ["wear", "incorrect", "not_wear"]}
GENDER: Any = {"classes": ["male", "female"]}
AGE: Any = {"bins": [30, 60]}
DECADES: Any = {"bins": [30, 60], "training_bins": [20, 30, 40, 50, 60]}
ALL: Any = {"mask": MASK, "gender": GENDER, "age": AGE}
SIZES = {"mask": 3, "gender": 2, "age": 3}
NUM_IMAGES = 40

THREE_HEADS = LabelSpace(ALL)
SIX_AGES = LabelSpace({**ALL, "age": DECADES})
ONE_HEAD = LabelSpace(ALL, {"all": ["mask", "gender", "age"]})
BACKWARDS = LabelSpace(ALL, {"all": ["age", "mask", "gender"]}, ["age", "gender", "mask"])
MASK_ONLY = LabelSpace({"mask": MASK})
GENDER_AGE = LabelSpace(ALL, {"gender_age": ["gender", "age"]})
AGE_ONLY = LabelSpace({"age": DECADES})
GENDER_ONLY = LabelSpace({"gender": GENDER})


def probabilities_of(*models: LabelSpace) -> list[Probabilities]:
    """Any probabilities, independent between heads, not within."""
    found = []
    for seed, labels in enumerate(models):
        stream = numpy_stream(seed, "probabilities")
        by_head = {
            name: torch.from_numpy(stream.dirichlet(np.ones(number), NUM_IMAGES)).float()
            for name, number in labels.num_classes.items()
        }
        found.append(Probabilities.from_heads(labels, by_head))
    return found


def ensemble_of(*labels: LabelSpace, weights: tuple[float, ...] = ()) -> Ensemble:
    return Ensemble(labels, weights or (1.0,) * len(labels), [f"model {number}" for number in range(len(labels))])


def joint_table(labels: LabelSpace, predicted: Probabilities) -> np.ndarray:
    """(N, 3, 2, 3) over mask, gender and age, of a model that answers all three."""
    names = [attribute.name for attribute in labels.joint_attributes]
    table = joint_of(predicted).double().numpy().reshape(-1, *(SIZES[name] for name in names))
    return np.transpose(table, (0, *(names.index(name) + 1 for name in SIZES)))


def marginal(predicted: Probabilities, name: str) -> np.ndarray:
    return predicted.by_attribute[name].double().numpy()


def answers_of(table: np.ndarray) -> list[int]:
    """mask * 6 + gender * 3 + age of the likeliest, by looking at all 18."""
    classes = list(itertools.product(*(range(size) for size in SIZES.values())))
    best = [max(classes, key=lambda c, row=row: row[c]) for row in table]  # type: ignore[misc]
    return [mask * 6 + gender * 3 + age for mask, gender, age in best]


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (1.0, 2.0, 0.5)])
def test_models_of_the_same_attributes_are_averaged_jointly(weights: tuple[float, ...]) -> None:
    """Whatever their heads, their training bins and the order of their answers."""
    models = (SIX_AGES, ONE_HEAD, BACKWARDS)
    by_model = probabilities_of(*models)
    tables = [joint_table(labels, each) for labels, each in zip(models, by_model, strict=True)]
    expected = np.average(tables, axis=0, weights=weights)
    predicted = ensemble_of(*models, weights=weights).predict(by_model)
    assert joint_of(predicted).tolist() == answers_of(expected)
    for axis, name in enumerate(SIZES, start=1):
        others = tuple(other for other in (1, 2, 3) if other != axis)
        np.testing.assert_allclose(predicted.probabilities[name], np.sum(expected, axis=others), rtol=1e-5, atol=1e-7)
    product_of_marginals = np.einsum("nm,ng,na->nmga", *(predicted.probabilities[name] for name in SIZES))
    assert joint_of(predicted).tolist() != answers_of(product_of_marginals)


@pytest.mark.parametrize(
    "models", [(MASK_ONLY, GENDER_AGE), (GENDER_AGE, MASK_ONLY), (MASK_ONLY, GENDER_ONLY, AGE_ONLY)]
)
def test_specialists_make_the_full_answer(models: tuple[LabelSpace, ...]) -> None:
    by_model = probabilities_of(*models)
    ensemble = ensemble_of(*models, weights=(3.0, 1.0, 2.0)[: len(models)])
    assert ensemble.labels.num_joint_classes == 18
    product = np.ones((NUM_IMAGES, 3, 2, 3))
    for labels, each in zip(models, by_model, strict=True):
        own = [attribute.name for attribute in labels.joint_attributes]
        for classes in itertools.product(range(3), range(2), range(3)):
            at = dict(zip(SIZES, classes, strict=True))
            column = 0
            for name in own:
                column = column * SIZES[name] + at[name]
            product[(slice(None), *classes)] *= joint_of(each)[:, column].numpy()
    parts = ensemble.labels.attribute_classes(joint_of(ensemble.predict(by_model)))
    assert (parts["mask"] * 6 + parts["gender"] * 3 + parts["age"]).tolist() == answers_of(product)


def test_sets_that_overlap_are_averaged_attribute_by_attribute() -> None:
    """A full model, a gender x age model and an age model; each counts where it predicts."""
    models, weights = (ONE_HEAD, GENDER_AGE, AGE_ONLY), (1.0, 2.0, 4.0)
    full, pair, age = by_model = probabilities_of(*models)
    expected = {
        "mask": marginal(full, "mask"),
        "gender": (marginal(full, "gender") + 2 * marginal(pair, "gender")) / 3,
        "age": (marginal(full, "age") + 2 * marginal(pair, "age") + 4 * marginal(age, "age")) / 7,
    }
    predicted = ensemble_of(*models, weights=weights).predict(by_model)
    for name, probabilities in expected.items():
        np.testing.assert_allclose(predicted.probabilities[name], probabilities, rtol=1e-5, atol=1e-7)
    product = np.einsum("nm,ng,na->nmga", *(expected[name] for name in SIZES))
    assert joint_of(predicted).tolist() == answers_of(product)


def test_a_set_that_no_other_cuts_keeps_its_dependence_beside_others_that_overlap() -> None:
    pair = LabelSpace({"mask": MASK, "glasses": GENDER})
    ensemble = ensemble_of(GENDER_AGE, MASK_ONLY, pair, GENDER_AGE)
    assert ensemble.groups == {("gender", "age"): (0, 3), ("mask",): (1, 2), ("glasses",): (2,)}


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (1.0, 2.0, 3.0, 4.0)])
def test_the_hard_vote_counts_weights_and_ties_go_to_the_mean(weights: tuple[float, ...]) -> None:
    models = (THREE_HEADS, ONE_HEAD, SIX_AGES, ONE_HEAD)
    by_model = probabilities_of(*models)
    tables = [joint_of(each).double().numpy() for each in by_model]
    mean = np.average(tables, axis=0, weights=weights)
    expected, ties = [], 0
    for row in range(NUM_IMAGES):
        votes: dict[int, float] = {}
        for weight, table in zip(weights, tables, strict=True):
            choice = int(table[row].argmax())
            votes[choice] = round(votes.get(choice, 0) + weight, 6)
        most = [choice for choice, number in votes.items() if number == max(votes.values())]
        ties += len(most) > 1
        expected.append(max(most, key=lambda choice, row=row: mean[row, choice]))  # type: ignore[misc]
    predicted = ensemble_of(*models, weights=weights).predict(by_model, "hard")
    assert joint_of(predicted).tolist() == expected
    assert ties > 0 or weights[1] == 2.0
    soft = ensemble_of(*models, weights=weights).predict(by_model, "soft")
    assert joint_of(soft).tolist() != expected
    for name in SIZES:
        assert torch.equal(soft.probabilities[name], predicted.probabilities[name])
        assert torch.equal(predicted.classes[name], THREE_HEADS.attribute_classes(joint_of(predicted))[name])


def test_a_tie_is_one_though_floats_add_up_otherwise() -> None:
    """0.1 + 0.2 is more than 0.3 in floats; the means are for the other class."""
    tables = [[0.4, 0.3, 0.3], [0.4, 0.3, 0.3], [0.0, 1.0, 0.0]]
    by_model = [Probabilities.from_heads(MASK_ONLY, {"mask": torch.tensor([table])}) for table in tables]
    for weights, winner in (((0.1, 0.2, 0.3), 1), ((0.1, 0.3, 0.3), 0)):
        predicted = ensemble_of(*[MASK_ONLY] * 3, weights=weights).predict(by_model, "hard")
        assert joint_of(predicted).tolist() == [winner]


def test_in_a_hard_vote_specialists_vote_among_themselves() -> None:
    models = (MASK_ONLY, MASK_ONLY, MASK_ONLY, GENDER_AGE)
    by_model = probabilities_of(*models)
    ensemble = ensemble_of(*models)
    parts = ensemble.labels.attribute_classes(joint_of(ensemble.predict(by_model, "hard")))
    assert torch.equal(parts["mask"], joint_of(ensemble_of(*models[:3]).predict(by_model[:3], "hard")))
    assert torch.equal(parts["gender"] * 3 + parts["age"], joint_of(by_model[3]).argmax(dim=1))


def test_what_is_predicted_beside_the_answer_counts_only_where_no_model_answers_it() -> None:
    models = (LabelSpace({**ALL, "glasses": GENDER}, None, ["mask"]), GENDER_AGE)
    by_model = probabilities_of(*models)
    ensemble = ensemble_of(*models)
    predicted = ensemble.predict(by_model)
    assert {attribute.name for attribute in ensemble.labels.joint_attributes} == set(SIZES)
    for name, model in (("age", 1), ("mask", 0), ("glasses", 0)):
        np.testing.assert_allclose(predicted.probabilities[name], marginal(by_model[model], name), rtol=1e-6)


@pytest.mark.parametrize(
    ("models", "order", "warned"),
    [
        ((THREE_HEADS,), "mask * 6 + gender * 3 + age", False),
        ((AGE_ONLY, BACKWARDS), "age * 6 + gender * 3 + mask", False),
        ((MASK_ONLY, GENDER_AGE), "mask * 6 + gender * 3 + age", False),
        ((GENDER_AGE, MASK_ONLY), "mask * 6 + gender * 3 + age", False),
        ((AGE_ONLY, GENDER_ONLY), "age * 2 + gender", True),
        ((GENDER_ONLY, AGE_ONLY), "gender * 3 + age", True),
        ((AGE_ONLY,), "age", False),
    ],
)
def test_the_order_of_the_joint_class(models: tuple[LabelSpace, ...], order: str, warned: bool) -> None:
    """Where only the command line decides it, the same models the other way round give other codes: a warning."""
    ensemble = ensemble_of(*models)
    assert f"answer = {order} (" in ensemble.describe()[0]
    warning = ensemble.warning() or ""
    assert (order in warning and "--resume" in warning) == warned


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"age": {"bins": [30, 58]}}, r"^age .*model 0 \(bins = \[30, 60\].*model 1 \(bins = \[30, 58\]"),
        ({"mask": {"classes": ["wear", "not_wear", "incorrect"]}}, r"^mask .*model 1 .*\[wear, not_wear, incorrect\]"),
        ({"age": {"classes": ["<30", "30-59", ">=60"]}}, r"^age .*bins = \[30, 60\].*model 1 \(classes = \[<30"),
    ],
)
def test_models_of_other_scored_classes_are_refused(other: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ensemble_of(THREE_HEADS, LabelSpace(other))
