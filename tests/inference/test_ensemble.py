"""Ensembles against sums and products by hand, class by class."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from base.label_space import LabelSpace
from inference.ensemble import Ensemble, Group
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


def said_by(labels: LabelSpace, seed: int) -> Probabilities:
    """Any probabilities, independent between heads, not within."""
    stream = numpy_stream(seed, "probabilities")
    by_head = {
        name: torch.from_numpy(stream.dirichlet(np.ones(number), NUM_IMAGES)).float()
        for name, number in labels.num_classes.items()
    }
    return Probabilities.of_heads(labels, by_head)


def ensemble_of(*labels: LabelSpace, weights: tuple[float, ...] = ()) -> Ensemble:
    return Ensemble(labels, weights or (1.0,) * len(labels), [f"model {number}" for number in range(len(labels))])


def joint(labels: LabelSpace, said: Probabilities) -> np.ndarray:
    """(N, 3, 2, 3) over mask, gender and age, of a model that answers all three."""
    names = [attribute.name for attribute in labels.joint_attributes]
    table = joint_of(said).double().numpy().reshape(-1, *(SIZES[name] for name in names))
    return np.transpose(table, (0, *(names.index(name) + 1 for name in SIZES)))


def marginal(said: Probabilities, name: str) -> np.ndarray:
    return said.by_attribute[name].double().numpy()


def answers_of(table: np.ndarray) -> list[int]:
    """mask * 6 + gender * 3 + age of the likeliest, by looking at all 18."""
    classes = list(itertools.product(*(range(size) for size in SIZES.values())))
    best = [max(classes, key=lambda c, row=row: row[c]) for row in table]  # type: ignore[misc]
    return [mask * 6 + gender * 3 + age for mask, gender, age in best]


@pytest.mark.parametrize("vote", ["soft", "hard"])
@pytest.mark.parametrize("labels", [THREE_HEADS, SIX_AGES, ONE_HEAD, BACKWARDS, GENDER_AGE, AGE_ONLY])
@pytest.mark.parametrize("weights", [(1.0,), (0.3,), (1.0, 1.0), (1.0, 2.0), (0.1, 0.2, 0.7)])
def test_a_model_alone_or_several_times_is_that_model_to_the_bit(
    labels: LabelSpace, weights: tuple[float, ...], vote: Any
) -> None:
    said = said_by(labels, 1)
    ensemble = ensemble_of(*[labels] * len(weights), weights=weights)
    assert ensemble.labels is labels
    predicted = ensemble.predict([said] * len(weights), vote)
    assert torch.equal(joint_of(predicted), joint_of(said).argmax(dim=1))
    assert list(predicted.probabilities) == list(said.by_attribute)
    for name, probabilities in said.by_attribute.items():
        assert torch.equal(predicted.probabilities[name], probabilities)
        if vote == "soft":
            assert torch.equal(predicted.classes[name], probabilities.argmax(dim=1))
        else:
            assert torch.equal(predicted.classes[name], labels.attribute_classes(joint_of(predicted))[name])


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (1.0, 2.0, 0.5)])
def test_models_of_the_same_attributes_are_averaged_jointly(weights: tuple[float, ...]) -> None:
    """Whatever their heads, their training bins and the order of their answers."""
    models = (SIX_AGES, ONE_HEAD, BACKWARDS)
    said = [said_by(labels, number) for number, labels in enumerate(models)]
    tables = [joint(labels, each) for labels, each in zip(models, said, strict=True)]
    expected = sum(weight * table for weight, table in zip(weights, tables, strict=True)) / sum(weights)
    predicted = ensemble_of(*models, weights=weights).predict(said)
    assert joint_of(predicted).tolist() == answers_of(np.asarray(expected))
    for axis, name in enumerate(SIZES, start=1):
        others = tuple(other for other in (1, 2, 3) if other != axis)
        np.testing.assert_allclose(predicted.probabilities[name], np.sum(expected, axis=others), rtol=1e-5, atol=1e-7)
    product_of_marginals = np.einsum("nm,ng,na->nmga", *(predicted.probabilities[name] for name in SIZES))
    assert joint_of(predicted).tolist() != answers_of(product_of_marginals)  # that the joint decides can be seen


@pytest.mark.parametrize(
    "models", [(MASK_ONLY, GENDER_AGE), (GENDER_AGE, MASK_ONLY), (MASK_ONLY, GENDER_ONLY, AGE_ONLY)]
)
def test_specialists_make_the_full_answer(models: tuple[LabelSpace, ...]) -> None:
    said = [said_by(labels, number) for number, labels in enumerate(models)]
    ensemble = Ensemble(models, [3.0, 1.0, 2.0][: len(models)], ["a", "b", "c"][: len(models)])
    order = [attribute.name for attribute in ensemble.labels.joint_attributes]
    assert set(order) == set(SIZES)
    assert ensemble.labels.num_joint_classes == 18
    product = np.ones((NUM_IMAGES, 3, 2, 3))
    for labels, each in zip(models, said, strict=True):
        own = [attribute.name for attribute in labels.joint_attributes]
        for classes in itertools.product(range(3), range(2), range(3)):
            at = dict(zip(SIZES, classes, strict=True))
            place = 0
            for name in own:
                place = place * SIZES[name] + at[name]
            product[(slice(None), *classes)] *= joint_of(each)[:, place].numpy()
    parts = ensemble.labels.attribute_classes(joint_of(ensemble.predict(said)))
    assert (parts["mask"] * 6 + parts["gender"] * 3 + parts["age"]).tolist() == answers_of(product)
    assert torch.equal(parts["mask"], next(s for s in said if "mask" in s.by_attribute).by_attribute["mask"].argmax(1))


def test_sets_that_overlap_are_averaged_attribute_by_attribute() -> None:
    """A full model, a gender x age model and an age model; a weight counts wherever its model speaks."""
    models, weights = (ONE_HEAD, GENDER_AGE, AGE_ONLY), (1.0, 2.0, 4.0)
    full, pair, age = (said_by(labels, number) for number, labels in enumerate(models))
    expected = {
        "mask": marginal(full, "mask"),
        "gender": (marginal(full, "gender") + 2 * marginal(pair, "gender")) / 3,
        "age": (marginal(full, "age") + 2 * marginal(pair, "age") + 4 * marginal(age, "age")) / 7,
    }
    predicted = ensemble_of(*models, weights=weights).predict([full, pair, age])
    for name, probabilities in expected.items():
        np.testing.assert_allclose(predicted.probabilities[name], probabilities, rtol=1e-5, atol=1e-7)
    product = np.einsum("nm,ng,na->nmga", *(expected[name] for name in SIZES))
    assert joint_of(predicted).tolist() == answers_of(product)


def test_a_set_that_none_cuts_keeps_its_dependence_beside_others_that_overlap() -> None:
    pair = LabelSpace({"mask": MASK, "glasses": GENDER})
    ensemble = ensemble_of(GENDER_AGE, MASK_ONLY, pair, GENDER_AGE)
    assert ensemble.groups == [Group(("gender", "age"), (0, 3)), Group(("mask",), (1, 2)), Group(("glasses",), (2,))]


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (1.0, 2.0, 3.0, 4.0)])
def test_the_hard_vote_counts_weights_and_ties_go_to_the_mean(weights: tuple[float, ...]) -> None:
    models = (THREE_HEADS, ONE_HEAD, SIX_AGES, ONE_HEAD)
    said = [said_by(labels, number) for number, labels in enumerate(models)]
    tables = [joint_of(each).double().numpy() for each in said]
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
    predicted = ensemble_of(*models, weights=weights).predict(said, "hard")
    assert joint_of(predicted).tolist() == expected
    assert ties > 0 or weights[1] == 2.0
    soft = ensemble_of(*models, weights=weights).predict(said, "soft")
    assert joint_of(soft).tolist() != expected
    for name in SIZES:
        assert torch.equal(soft.probabilities[name], predicted.probabilities[name])
        assert torch.equal(predicted.classes[name], THREE_HEADS.attribute_classes(joint_of(predicted))[name])


def test_a_tie_is_one_though_floats_add_up_otherwise() -> None:
    """0.1 + 0.2 is more than 0.3 in floats; the means say the other class."""
    tables = [[0.4, 0.3, 0.3], [0.4, 0.3, 0.3], [0.0, 1.0, 0.0]]
    said = [Probabilities.of_heads(MASK_ONLY, {"mask": torch.tensor([table])}) for table in tables]
    assert 0.1 + 0.2 > 0.3
    assert joint_of(ensemble_of(*[MASK_ONLY] * 3, weights=(0.1, 0.2, 0.3)).predict(said, "hard")).tolist() == [1]
    assert joint_of(ensemble_of(*[MASK_ONLY] * 3, weights=(0.1, 0.3, 0.3)).predict(said, "hard")).tolist() == [0]


def test_in_a_hard_vote_specialists_vote_among_themselves() -> None:
    models = (MASK_ONLY, MASK_ONLY, MASK_ONLY, GENDER_AGE)
    said = [said_by(labels, number) for number, labels in enumerate(models)]
    ensemble = ensemble_of(*models)
    answers = joint_of(ensemble.predict(said, "hard"))
    masks = joint_of(ensemble_of(*models[:3]).predict(said[:3], "hard"))
    parts = ensemble.labels.attribute_classes(answers)
    assert torch.equal(parts["mask"], masks)
    assert torch.equal(parts["gender"] * 3 + parts["age"], joint_of(said[3]).argmax(dim=1))


def test_what_is_predicted_beside_the_answer_counts_only_where_nobody_answers_it() -> None:
    beside = LabelSpace({**ALL, "glasses": GENDER}, None, ["mask"])
    models = (beside, GENDER_AGE)
    said = [said_by(labels, number) for number, labels in enumerate(models)]
    ensemble = ensemble_of(*models)
    predicted = ensemble.predict(said)
    assert {attribute.name for attribute in ensemble.labels.joint_attributes} == set(SIZES)
    np.testing.assert_allclose(predicted.probabilities["age"], marginal(said[1], "age"), rtol=1e-6)
    np.testing.assert_allclose(predicted.probabilities["mask"], marginal(said[0], "mask"), rtol=1e-6)
    np.testing.assert_allclose(predicted.probabilities["glasses"], marginal(said[0], "glasses"), rtol=1e-6)


@pytest.mark.parametrize(
    ("models", "order", "origin"),
    [
        ((THREE_HEADS,), "mask * 6 + gender * 3 + age", "model 0"),
        ((AGE_ONLY, BACKWARDS), "age * 6 + gender * 3 + mask", "model 1"),
        ((MASK_ONLY, GENDER_AGE), "mask * 6 + gender * 3 + age", "labels.attributes of model 1"),
        ((GENDER_AGE, MASK_ONLY), "mask * 6 + gender * 3 + age", "labels.attributes of model 0"),
        ((AGE_ONLY, GENDER_ONLY), "age * 2 + gender", None),
        ((GENDER_ONLY, AGE_ONLY), "gender * 3 + age", None),
        ((AGE_ONLY,), "age", "model 0"),
    ],
)
def test_the_order_of_the_joint_class(models: tuple[LabelSpace, ...], order: str, origin: str | None) -> None:
    """Where only the command line tells it, the same models the other way round answer with other codes: a warning."""
    ensemble = ensemble_of(*models)
    assert f"answer = {order} (" in ensemble.describe()[0]
    assert (origin or "in the order of the models") in ensemble.describe()[0]
    assert len(ensemble.warnings()) == (origin is None)
    assert all(order in line and "--resume" in line for line in ensemble.warnings())


def test_who_decides_what_is_told() -> None:
    assert ensemble_of(MASK_ONLY, GENDER_AGE, MASK_ONLY, weights=(1, 2, 3)).describe()[1:] == [
        "mask: by model 0 (0.25), model 2 (0.75)",
        "gender x age: by model 1 (1)",
    ]
    lines = ensemble_of(GENDER_AGE, AGE_ONLY).describe()
    assert lines[1].startswith("gender: by model 0 (1), apart from the others, as the models' attributes overlap")
    assert lines[2].startswith("age: by model 0 (0.5), model 1 (0.5), apart")


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (
            {"age": {"bins": [30, 58]}},
            r"age .*model 0 is scored with bins = \[30, 60\], model 1 with bins = \[30, 58\]",
        ),
        (
            {"mask": {"classes": ["wear", "not_wear", "incorrect"]}},
            r"mask .*model 0 .*classes = \[wear, incorrect, not_wear\], model 1 .*\[wear, not_wear, incorrect\]",
        ),
        ({"age": {"classes": ["<30", "30-59", ">=60"]}}, r"age .*bins = \[30, 60\], model 1 with classes = \[<30"),
    ],
)
def test_models_that_are_scored_otherwise_are_refused(other: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        ensemble_of(THREE_HEADS, LabelSpace(other))
