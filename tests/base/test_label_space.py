"""The label space against brute force: loops over every class, every number, every pair."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from base.attribute import is_unknown
from base.label_space import LabelSpace
from utils.errors import DataError, InvalidConfig

MASK = {"classes": ["wear", "incorrect", "not_wear"]}
GENDER = {"classes": ["male", "female"]}
AGE = {"bins": [30, 60], "limits": [0, 120]}
DECADES = [20, 30, 40, 50, 60]


def space(age: dict[str, Any] | None = None, **more: Any) -> LabelSpace:
    attributes: dict[str, Any] = {"mask": MASK, "gender": GENDER, "age": {**AGE, **(age or {})}}
    return LabelSpace(attributes, **more)


def age_group(age: float) -> int:
    """The competition's rule, in its own words: below 30, 30 to 59, 60 and more."""
    if age < 30:
        return 0
    return 1 if age < 60 else 2


def draw_probabilities(labels: LabelSpace, count: int = 5) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.rand(count, head.num_classes, generator=generator, dtype=torch.float64).softmax(dim=1)
        for name, head in labels.heads.items()
    }


def targets(labels: LabelSpace, raw: dict[str, Any]) -> dict[str, int]:
    """By head, the class to train on."""
    classes = {name: torch.tensor([each.training_class(raw.get(name))]) for name, each in labels.attributes.items()}
    return {name: int(head.targets(classes)) for name, head in labels.heads.items()}


def scoring_targets(labels: LabelSpace, raw: dict[str, Any]) -> dict[str, int]:
    return {name: each.scoring_class(raw.get(name)) for name, each in labels.predicted_attributes.items()}


# The competition's space


def test_competition_answer_is_mask_6_gender_3_age() -> None:
    labels = space()
    assert labels.num_joint_classes == 18
    seen = []
    for (m, mask), (g, gender), age in itertools.product(
        enumerate(MASK["classes"]), enumerate(GENDER["classes"]), range(121)
    ):
        raw = {"mask": mask, "gender": gender, "age": str(age)}
        classes = {"mask": m, "gender": g, "age": age_group(age)}
        assert targets(labels, raw) == classes
        assert scoring_targets(labels, raw) == classes
        answer = labels.joint_classes({name: torch.tensor([value]) for name, value in classes.items()})
        assert answer.tolist() == [m * 6 + g * 3 + age_group(age)]
        seen.append(answer.item())
    assert set(seen) == set(range(18))


@pytest.mark.parametrize("order", list(itertools.permutations(["mask", "gender", "age"])))
def test_parts_undo_answers_in_any_order(order: tuple[str, ...]) -> None:
    labels = space(answer=list(order))
    sizes = {"mask": 3, "gender": 2, "age": 3}
    every = torch.arange(18)
    parts = labels.attribute_classes(every)
    assert list(parts) == list(order)
    assert torch.equal(labels.joint_classes(parts), every)
    by_hand = list(itertools.product(*(range(sizes[name]) for name in order)))
    assert list(zip(*(parts[name].tolist() for name in order), strict=True)) == by_hand
    assert labels.joint_class_names == tuple(
        " ".join(labels.attributes[name].class_names[k] for name, k in zip(order, row, strict=True)) for row in by_hand
    )


def test_unknown_parts_make_an_unknown_answer() -> None:
    labels = space()
    rows = list(itertools.product([-1, 0, 2], [-1, 0, 1], [-1, 0, 2]))
    columns = [torch.tensor(column) for column in zip(*rows, strict=True)]
    answers = labels.joint_classes(dict(zip(["mask", "gender", "age"], columns, strict=True)))
    assert answers.tolist() == [-1 if -1 in row else row[0] * 6 + row[1] * 3 + row[2] for row in rows]
    parts = labels.attribute_classes(answers)
    for index, row in enumerate(rows):
        expected = [-1, -1, -1] if -1 in row else list(row)
        assert [parts[name][index].item() for name in ("mask", "gender", "age")] == expected


# Raw values


@pytest.mark.parametrize("raw", [None, "", "  ", math.nan, np.float64("nan")])
def test_unknown_values(raw: Any) -> None:
    assert is_unknown(raw)
    labels = space()
    assert targets(labels, {"mask": raw, "gender": "male", "age": raw}) == {"mask": -1, "gender": 0, "age": -1}
    assert scoring_targets(labels, {"gender": raw}) == {"mask": -1, "gender": -1, "age": -1}


@pytest.mark.parametrize(
    ("raw", "expected"), [(29.9, 0), ("29.9", 0), (30, 1), (" 59 ", 1), (60.0, 2), (0, 0), (120, 2), (np.int64(45), 1)]
)
def test_edges_of_age(raw: Any, expected: int) -> None:
    assert scoring_targets(space(), {"age": raw})["age"] == expected


@pytest.mark.parametrize("raw", ["abc", -1, "-1", 300, "300", 120.1, "nan", "inf", math.inf, True, [30]])
def test_ages_that_are_none_are_refused(raw: Any) -> None:
    labels = space()
    for read in (targets, scoring_targets):
        with pytest.raises(DataError) as caught:
            read(labels, {"mask": "wear", "gender": "male", "age": raw})
        assert f"age = {raw!r}" in str(caught.value)


@pytest.mark.parametrize(("name", "raw"), [("gender", "man"), ("gender", "Male"), ("mask", "mask1"), ("mask", 0)])
def test_unknown_classes_are_refused_with_the_known_ones(name: str, raw: Any) -> None:
    known = {"gender": GENDER, "mask": MASK}[name]["classes"]
    with pytest.raises(DataError) as caught:
        targets(space(), {name: raw})
    assert all(word in str(caught.value) for word in [name, repr(raw), *known])


def test_without_limits_any_number_is_believed() -> None:
    labels = LabelSpace({"height": {"bins": [1.5]}})
    assert targets(labels, {"height": -3})["height"] == 0
    assert targets(labels, {"height": 1e9})["height"] == 1
    assert labels.attributes["height"].class_names == ("<1.5", ">=1.5")


# Training bins


def test_an_old_age_cut_for_training_is_not_the_one_that_is_scored() -> None:
    labels = space({"training_bins": [30, 58]})
    for age in range(121):
        assert targets(labels, {"age": age})["age"] == (0 if age < 30 else 1 if age < 58 else 2)
        assert scoring_targets(labels, {"age": age})["age"] == age_group(age)
    assert labels.attributes["age"].training_to_scoring == (0, 1, 2)
    assert labels.heads["age"].class_names == ("<30", "30-57", ">=58")


def test_decades_are_summed_back() -> None:
    labels = space({"training_bins": DECADES})
    assert labels.attributes["age"].training_to_scoring == (0, 0, 1, 1, 1, 2)
    assert labels.heads["age"].class_names == ("<20", "20-29", "30-39", "40-49", "50-59", ">=60")
    for age in range(121):
        decade = targets(labels, {"age": age})["age"]
        assert decade == sum(age >= edge for edge in DECADES)
        assert labels.attributes["age"].training_to_scoring[decade] == age_group(age)


def test_finer_bins_that_move_an_edge_need_a_mapping() -> None:
    with pytest.raises(ValueError, match=r"training_bins = \[20, 30, 40, 58\].*lack the edge 60") as caught:
        space({"training_bins": [20, 30, 40, 58]})
    assert "training_to_scoring" in str(caught.value)
    labels = space({"training_bins": [20, 30, 40, 58], "training_to_scoring": [0, 0, 1, 1, 2]})
    assert labels.attributes["age"].training_to_scoring == (0, 0, 1, 1, 2)
    assert targets(labels, {"age": 59})["age"] == 4


# Combined heads: probabilities against loops

HEADS: dict[str, dict[str, list[str]] | None] = {
    "three": None,
    "gender_age": {"mask": ["mask"], "gender_age": ["gender", "age"]},
    "age_first": {"age_gender": ["age", "gender"], "mask": ["mask"]},
    "around": {"mask_age": ["mask", "age"], "gender": ["gender"]},
    "all": {"mask_gender_age": ["mask", "gender", "age"]},
    "all_turned": {"everything": ["age", "mask", "gender"]},
}


@pytest.mark.parametrize("heads", HEADS.values(), ids=HEADS.keys())
@pytest.mark.parametrize("training_bins", [[30, 60], [30, 58], DECADES])
@pytest.mark.parametrize("answer", [None, ["age", "mask", "gender"], ["gender", "mask"], ["age"]])
def test_probabilities_equal_a_loop(
    heads: dict[str, list[str]] | None, training_bins: list[int], answer: list[str] | None
) -> None:
    labels = space({"training_bins": training_bins}, heads=heads, answer=answer)
    probabilities = draw_probabilities(labels, 3)
    sizes = {"mask": 3, "gender": 2, "age": len(training_bins) + 1}
    scoring = {"mask": 3, "gender": 2, "age": 3}
    to_age = labels.attributes["age"].training_to_scoring
    names = answer or ["mask", "gender", "age"]
    expected = np.zeros((3, math.prod(scoring[name] for name in names)))
    alone = {name: np.zeros((3, scoring[name])) for name in scoring}
    head_parts = heads or {name: [name] for name in sizes}
    for row in range(3):
        for m, g, a in itertools.product(range(3), range(2), range(sizes["age"])):
            classes = {"mask": m, "gender": g, "age": a}
            probability = 1.0
            for head, parts in head_parts.items():
                index = 0
                for part in parts:
                    index = index * sizes[part] + classes[part]
                probability *= probabilities[head][row, index].item()
            scored = {"mask": m, "gender": g, "age": to_age[a]}
            cell = 0
            for name in names:
                cell = cell * scoring[name] + scored[name]
            expected[row, cell] += probability
            for name, index in scored.items():
                alone[name][row, index] += probability
    np.testing.assert_allclose(labels.joint_probabilities(probabilities).numpy(), expected, atol=1e-12)
    by_attribute = labels.attribute_probabilities(probabilities)
    assert set(by_attribute) == set(scoring)
    for name, sums in alone.items():
        np.testing.assert_allclose(by_attribute[name].numpy(), sums, atol=1e-12)


def test_a_combined_head_is_unknown_where_a_part_is() -> None:
    labels = space(heads={"mask": ["mask"], "gender_age": ["gender", "age"]})
    assert targets(labels, {"mask": "wear", "gender": "female", "age": ""}) == {"mask": 0, "gender_age": -1}
    assert targets(labels, {"gender": "female", "age": 61}) == {"mask": -1, "gender_age": 5}
    assert scoring_targets(labels, {"gender": "female"}) == {"mask": -1, "gender": 1, "age": -1}


def test_one_head_only() -> None:
    labels = space(heads={"mask": ["mask"]})
    assert labels.num_joint_classes == 3
    assert labels.joint_class_names == ("wear", "incorrect", "not_wear")
    assert list(scoring_targets(labels, {"mask": "wear", "age": 20})) == ["mask"]
    torch.testing.assert_close(labels.joint_probabilities({"mask": torch.eye(3)}), torch.eye(3))


def test_probabilities_keep_their_kind_and_an_empty_batch() -> None:
    labels = space({"training_bins": DECADES})
    empty = {name: torch.zeros(0, head.num_classes) for name, head in labels.heads.items()}
    assert labels.joint_probabilities(empty).shape == (0, 18)
    assert labels.attribute_probabilities(empty)["age"].shape == (0, 3)
    assert labels.joint_probabilities(draw_probabilities(labels)).dtype == torch.float64


def test_config_makes_the_same_space_again() -> None:
    labels = space({"training_bins": DECADES}, heads=HEADS["gender_age"], answer=["age", "mask"])
    again = LabelSpace(**json.loads(json.dumps(labels.to_config())))
    assert again.heads == labels.heads
    assert again.attributes == labels.attributes
    assert again.joint_attributes == labels.joint_attributes
    assert LabelSpace(**space().to_config()).joint_class_names == space().joint_class_names


# Config errors


def of(**spec: Any) -> dict[str, Any]:
    """The arguments of a space of one attribute, a."""
    return {"attributes": {"a": spec}}


A = ("attributes", "a")
TWO: dict[str, Any] = {"mask": MASK, "gender": GENDER}
MANY: dict[str, Any] = {f"a{number}": GENDER for number in range(40)}
WRONG: dict[str, tuple[dict[str, Any], tuple[str, ...], list[str]]] = {
    "no attribute": ({"attributes": {}}, ("attributes",), ["empty"]),
    "neither": (of(), A, ['"classes"', '"bins"']),
    "both": (of(classes=["x", "y"], bins=[1]), A, ['"classes"', '"bins"']),
    "one class": (of(classes=["x"]), (*A, "classes"), ["['x']"]),
    "class twice": (of(classes=["x", "y", "x"]), (*A, "classes"), ["'x'"]),
    "padded class": (of(classes=["x", "y "]), (*A, "classes"), ["'y '"]),
    "limits on classes": (of(classes=["x", "y"], limits=[0, 1]), (*A, "limits"), ['"bins"']),
    "no bins": (of(bins=[]), (*A, "bins"), ["[]"]),
    "bins fall": (of(bins=[60, 30]), (*A, "bins"), ["[60, 30]", "rise"]),
    "bins nan": (of(bins=[math.nan]), (*A, "bins"), ["nan"]),
    "training bins fall": (of(bins=[30, 60], training_bins=[30, 20, 60]), (*A, "training_bins"), ["[30, 20, 60]"]),
    "training bins fewer": (of(bins=[30, 60], training_bins=[30]), (*A, "training_bins"), ["[30]", "[30, 60]"]),
    **{
        f"mapping {mapping}": (
            of(bins=[30], training_bins=[20, 30], training_to_scoring=mapping),
            (*A, "training_to_scoring"),
            [str(mapping)],
        )
        for mapping in ([0, 1], [0, 0, 0], [1, 0, 1])
    },
    "limits turned": (of(bins=[30], limits=[9, 1]), (*A, "limits"), ["[9, 1]"]),
    "a bin beyond the limits": (of(bins=[30, 130], limits=[0, 120]), (*A, "bins"), ["[30, 130]", "[0, 120]"]),
    "name with a dot": ({"attributes": {"a.b": GENDER}}, ("attributes",), ["a.b", "letters"]),
    "name without letters": ({"attributes": {"": GENDER}}, ("attributes",), ["letters"]),
    "head with a dot": ({"attributes": TWO, "heads": {"m.n": ["mask"]}}, ("heads",), ["m.n", "letters"]),
    "no heads": ({"attributes": TWO, "heads": {}}, ("heads",), ["empty"]),
    "head of nothing": ({"attributes": TWO, "heads": {"h": []}}, ("heads", "h"), ["attribute"]),
    "unknown in a head": ({"attributes": TWO, "heads": {"h": ["mask", "msk"]}}, ("heads", "h"), ['"msk"', "mask"]),
    "in two heads": ({"attributes": TWO, "heads": {"h": ["mask"], "i": ["mask"]}}, ("heads", "i"), ['"mask"', '"h"']),
    "answer of no head": (
        {"attributes": TWO, "heads": {"h": ["mask"]}, "answer": ["gender"]},
        ("answer",),
        ['"gender"', "mask"],
    ),
    "answer empty": ({"attributes": TWO, "answer": []}, ("answer",), ["[]"]),
    "answer of too many": ({"attributes": MANY, "answer": list(MANY)[:13]}, ("answer",), ["8,192", "leave it out"]),
}


@pytest.mark.parametrize(("arguments", "key_path", "words"), WRONG.values(), ids=WRONG.keys())
def test_one_mistake_is_one_problem(arguments: dict[str, Any], key_path: tuple[str, ...], words: list[str]) -> None:
    """At its key path, with the value or the remedy; no other problem follows from it."""
    with pytest.raises(InvalidConfig) as caught:
        LabelSpace(**arguments)
    (problem,) = caught.value.problems
    assert problem.key_path == key_path
    assert all(word in problem.text for word in words), problem.text


def test_all_mistakes_are_reported_together() -> None:
    with pytest.raises(InvalidConfig) as caught:
        LabelSpace({"mask": {"classes": ["x"]}, "age": {"bins": [60, 30], "limits": [5, 1]}}, heads={"mask": ["msk"]})
    assert {problem.key_path[-2:] for problem in caught.value.problems} == {
        ("mask", "classes"), ("age", "bins"), ("age", "limits"), ("heads", "mask"),
    }  # fmt: skip


@pytest.mark.parametrize(("number", "has_joint_class"), [(12, True), (13, False), (40, False)])
def test_too_many_combinations_make_no_joint_class(number: int, has_joint_class: bool) -> None:
    labels = LabelSpace(dict(list(MANY.items())[:number]))
    assert labels.has_joint_class == has_joint_class
    assert labels.num_combinations == 2**number
    assert LabelSpace(**labels.to_config()).has_joint_class == has_joint_class
    by_attribute = labels.attribute_probabilities(draw_probabilities(labels))
    assert list(by_attribute) == list(labels.attributes)
