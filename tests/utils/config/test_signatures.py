"""Signatures as schemas: the checker beside the constructors themselves, and beside a JSON Schema validator."""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NewType, TypedDict

import albumentations
import jsonschema
import pytest
import pytorch_metric_learning.losses
import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import nn
from torch.optim import SGD, Adam, lr_scheduler

from utils.config.signatures import (
    Fraction,
    argument_names,
    argument_problems,
    arguments_schema,
    constructor_problems,
    convert_arguments,
)
from utils.errors import dotted

if TYPE_CHECKING:
    from somewhere import Unknown  # type: ignore[import-not-found]


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Spec(TypedDict, total=False):
    classes: list[str]
    bins: list[float]


class Corner(TypedDict):
    x: int


class Settings:
    """The first line.

    The rest."""

    def __init__(
        self,
        epochs: PositiveInt,
        batch_size: Annotated[int, Field(ge=1, le=4096)] = 8,
        share: Fraction = 0.1,
        lr: PositiveFloat | list[PositiveFloat] = 0.1,
        weights: list[NonNegativeFloat] | None = None,
        mode: Literal["min", "max"] = "min",
        interpolation: Literal[0, 1, 4] = 1,
        size: int | tuple[int, int] = 240,
        colour: Colour = Colour.RED,
        folder: Path = Path("x"),
        attributes: dict[str, Spec] | None = None,
        corner: Corner | None = None,
        model_name: str = "a",
        schema: bool = False,
        patience: NonNegativeInt = 0,
    ) -> None:
        pass


class Parent:
    def __init__(self, margin: float = 0.5, *, name: str = "") -> None:
        pass


class Child(Parent):
    def __init__(self, scale, reduce="mean", count=3, **kwargs) -> None:  # type: ignore[no-untyped-def]
        pass


Seconds = NewType("Seconds", float)


def strange(
    tensor: torch.Tensor,
    module: nn.Module | None,
    function: Callable[[int], int] | list[Callable[[int], int]],
    either: float | torch.Tensor,
    steps: Iterable[int],
    names: Sequence[str],
    time: Seconds,
    unknown: Unknown = 3,
    number: int = None,  # type: ignore[assignment] # noqa: RUF013
    anything: object = None,
) -> None:
    """Annotations that JSON cannot hold."""


ONE = {"epochs": 1}
REFUSED: dict[str, tuple[Callable[..., Any], dict[str, Any], str, str]] = {
    "fault7-unknown": (Adam, {"lrr": 1}, "lrr", '"lr"'),
    "fault7-nothing-near": (albumentations.HorizontalFlip, {"brightness": 1}, "brightness", "known: p"),
    "fault7-inside": (Settings, {**ONE, "attributes": {"age": {"binz": [1]}}}, "attributes.age.binz", '"bins"'),
    "fault8-text-for-whole-number": (Settings, {"epochs": "50"}, "epochs", '"50" is text; it must be a whole number'),
    "fault8-text-for-number": (Adam, {"lr": "1e-3"}, "lr", "number"),
    "fault8-text-in-list": (Adam, {"betas": [0.9, "b"]}, "betas.1", "number"),
    "fault8-number-for-text": (
        Settings,
        {**ONE, "model_name": 3},
        "model_name",
        "3 is a whole number; it must be text",
    ),
    "fault8-fraction-for-whole-number": (Settings, {"epochs": 1.5}, "epochs", "whole number"),
    "fault9-true-for-number": (Adam, {"lr": True}, "lr", "number"),
    "fault9-true-for-whole-number": (Settings, {"epochs": True}, "epochs", "whole number"),
    "fault9-true-for-a-choice-of-numbers": (Settings, {**ONE, "interpolation": True}, "interpolation", "0 or 1 or 4"),
    "fault9-number-for-truth": (Adam, {"amsgrad": 1}, "amsgrad", "true or false"),
    "fault10-epochs": (Settings, {"epochs": 0}, "epochs", "must be above 0"),
    "fault10-negative": (Settings, {"epochs": -1}, "epochs", "must be above 0"),
    "fault11-batch": (Settings, {**ONE, "batch_size": 0}, "batch_size", "= 0 must be at least 1"),
    "fault11-large": (Settings, {**ONE, "batch_size": 5000}, "batch_size", "4096"),
    "fault19-negative-weight": (Settings, {**ONE, "weights": [1, -2]}, "weights.1", "0"),
    "share": (Settings, {**ONE, "share": 1.5}, "share", "1"),
    "above-zero": (Settings, {**ONE, "lr": 0}, "lr", "above 0"),
    "union-of-two": (Settings, {**ONE, "lr": "x"}, "lr", "must be a number or a list"),
    "union-inside-the-member-that-fits": (Settings, {**ONE, "lr": [0.1, "x"]}, "lr.1", "number"),
    "null": (Settings, {"epochs": None}, "epochs", "null; it must be a whole number"),
    "choice": (Settings, {**ONE, "mode": "mxa"}, "mode", "'min' or 'max'; did you mean \"max\"?"),
    "enum": (Settings, {**ONE, "colour": "green"}, "colour", "'red' or 'blue'"),
    "too-short": (Adam, {"betas": []}, "betas", "2"),
    "too-long": (Adam, {"betas": [0, 0, 0]}, "betas", "2"),
    "missing": (lr_scheduler.StepLR, {}, "step_size", "is missing"),
    "missing-inside": (Settings, {**ONE, "corner": {}}, "corner.x", "is missing"),
    "injected": (Adam, {"params": []}, "params", "is not a known key"),
    "lazily-iterated": (lr_scheduler.MultiStepLR, {"milestones": [1, "x"]}, "milestones.1", "whole number"),
    "albumentations": (
        albumentations.CoarseDropout,
        {"num_holes_range": [1.5, 2]},
        "num_holes_range.0",
        "whole number",
    ),
}
SUPPLIED = ("params", "optimizer", "last_epoch")


@pytest.mark.parametrize(("component", "arguments", "key_path", "word"), REFUSED.values(), ids=REFUSED)
def test_refusals(component: Callable[..., Any], arguments: dict[str, Any], key_path: str, word: str) -> None:
    (problem,) = argument_problems(component, arguments, ("a",), SUPPLIED)
    assert dotted(problem.key_path) == f"a.{key_path}"
    assert word in problem.text
    validator = jsonschema.Draft202012Validator(arguments_schema(component, SUPPLIED))
    assert not validator.is_valid(arguments)


ACCEPTED: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (Adam, {"lr": 1, "betas": [0, 0.99], "amsgrad": True, "foreach": None}),
    (SGD, {}),
    (lr_scheduler.OneCycleLR, {"max_lr": [0.1, 1], "total_steps": 10, "anneal_strategy": "linear"}),
    (lr_scheduler.LambdaLR, {"lr_lambda": 3}),
    (albumentations.Normalize, {"mean": [0.5, 0.5, 0.5], "std": 1, "max_pixel_value": None}),
    (albumentations.CoarseDropout, {"fill": "random", "hole_height_range": [1, 2]}),
    (albumentations.OneOf, {"transforms": [{"type": "Blur"}], "p": 1}),
    (Settings, {"epochs": 1, "size": [1, 2], "lr": [1, 0.5], "weights": None, "colour": "blue", "folder": "a/b"}),
    (Settings, {"epochs": 1, "attributes": {"age": {"bins": [1, 2.5]}, "mask": {}}, "corner": {"x": 1}}),
    (Settings, {"epochs": 1, "schema": True, "model_name": "b", "attributes": None}),
    (Child, {"scale": 2, "margin": 1, "count": 2.5, "name": "n"}),
    (strange, {"tensor": 1, "module": None, "function": "f", "either": 1, "steps": [1], "names": ["a"], "time": 1.5}),
]


@pytest.mark.parametrize(("component", "arguments"), ACCEPTED, ids=lambda value: getattr(value, "__name__", ""))
def test_right_arguments_are_taken(component: Callable[..., Any], arguments: dict[str, Any]) -> None:
    assert argument_problems(component, arguments, (), SUPPLIED) == []
    jsonschema.Draft202012Validator(arguments_schema(component, SUPPLIED)).validate(arguments)


def test_keyword_arguments_of_a_class_are_its_parents() -> None:
    assert argument_names(Child) == ["scale", "reduce", "count", "margin", "name"]
    found = argument_problems(Child, {"scale": 1, "reduce": [3], "margn": 1})
    assert [(*problem.key_path,) for problem in found] == [("reduce",), ("margn",)]
    assert '"margin"' in found[1].text
    # A loss of pytorch-metric-learning passes its keyword arguments up through several parents.
    names = argument_names(pytorch_metric_learning.losses.ContrastiveLoss)
    parents = ["reducer", "distance", "embedding_regularizer", "embedding_reg_weight"]
    assert {"pos_margin", "neg_margin", *parents} <= set(names)
    pytorch_metric_learning.losses.ContrastiveLoss(**dict.fromkeys(parents))


def test_what_json_cannot_hold_is_anything_and_the_rest_is_still_checked() -> None:
    wrong = {"either": "x", "steps": ["a"], "names": "abc", "time": "t", "number": "n", "module": 5}
    found = argument_problems(strange, {**dict.fromkeys(["tensor", "function"]), **wrong})
    assert [dotted(problem.key_path) for problem in found] == ["either", "steps.0", "names", "time", "number"]


def test_converted_arguments_have_the_annotated_types() -> None:
    converted = convert_arguments(Settings, {"epochs": 3, "size": [1, 2], "folder": "a", "colour": "red", "lr": [1]})
    assert converted == {"epochs": 3, "size": (1, 2), "folder": Path("a"), "colour": Colour.RED, "lr": [1.0]}
    assert isinstance(converted["size"], tuple)
    assert convert_arguments(Adam, {"betas": [0, 1]})["betas"] == (0.0, 1.0)


def test_schema_has_description_defaults_and_no_references() -> None:
    schema = arguments_schema(Settings)
    assert schema["description"] == "The first line."
    assert schema["required"] == ["epochs"]
    assert schema["properties"]["batch_size"] == {"default": 8, "maximum": 4096, "minimum": 1, "type": "integer"}
    assert schema["properties"]["attributes"]["anyOf"][0]["additionalProperties"]["additionalProperties"] is False
    assert "$ref" not in json.dumps(schema)
    assert "params" not in arguments_schema(Adam, ("params",))["properties"]


def _components() -> list[type]:
    modules = [torch.optim, lr_scheduler, albumentations, pytorch_metric_learning.losses]
    kinds = (torch.optim.Optimizer, lr_scheduler.LRScheduler, nn.Module, albumentations.BasicTransform)
    values = [value for module in modules for value in vars(module).values()]
    return [value for value in values if isinstance(value, type) and issubclass(value, kinds)]


def test_schemas_of_whole_libraries_are_valid_and_their_own_defaults_pass() -> None:
    components = _components()
    assert len(components) > 150
    for component in components:
        schema = arguments_schema(component)
        jsonschema.Draft202012Validator.check_schema(schema)
        defaults = {name: inner["default"] for name, inner in schema["properties"].items() if "default" in inner}
        lines = [str(each) for each in argument_problems(component, json.loads(json.dumps(defaults)))]
        assert [line for line in lines if " is missing" not in line] == [], component


def _refusal(component: Callable[..., Any], **arguments: Any) -> Exception:
    with pytest.raises((ValueError, TypeError)) as caught:
        component(**arguments)
    return caught.value


def test_constructors_own_refusals_name_the_argument() -> None:
    parameters = [torch.zeros(1, requires_grad=True)]

    def refusal(component: Callable[..., Any], arguments: dict[str, Any]) -> str:
        error = _refusal(component, **arguments, params=parameters)
        return "\n".join(map(str, constructor_problems(component, arguments, ("a", "args"), error)))

    assert refusal(Adam, {"eps": 0.1, "lr": -1.0}).startswith("a.args.lr = -1.0: Adam refuses it")
    assert refusal(Adam, {"betas": (0.5, 3.0), "lr": 0.1}).startswith('a.args = {"betas": [0.5, 3.0], "lr": 0.1}: Adam')
    error = _refusal(albumentations.HorizontalFlip, p=3)
    [problem] = constructor_problems(albumentations.HorizontalFlip, {"p": 3}, ("args",), error)
    assert (problem.key_path, problem.text[:4]) == (("args", "p"), "= 3 ")


def test_own_style_messages_keep_their_words() -> None:
    error = ValueError("weights = [0, 0] must not be all 0")
    [problem] = constructor_problems(Settings, {"weights": [0, 0]}, ("loss", "args"), error)
    assert problem.key_path == ("loss", "args", "weights")
    assert problem.text == "= [0, 0] must not be all 0"
