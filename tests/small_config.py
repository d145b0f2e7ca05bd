"""A small table of sections, a config that fits it, and ways to read and to break it: for the tests of the config."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

import albumentations
import pytest
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch.optim import SGD, Adam, lr_scheduler

from experiment.cli import parse_override
from parse_config import ConfigParser
from utils.config.sections import NamedSections, Sections, Settings, TypedList, TypedSection
from utils.errors import ConfigError, InvalidConfig, Problem, run_command


class AttributeSpec(TypedDict, total=False):
    classes: list[str]
    bins: list[float]


class Labels:
    def __init__(self, attributes: dict[str, AttributeSpec]) -> None:
        falling = [name for name, spec in attributes.items() if spec.get("bins", []) != sorted(spec.get("bins", []))]
        if falling:
            raise InvalidConfig([Problem(("attributes", name, "bins"), "must rise") for name in falling])
        self.names = list(attributes)


class Folder:
    def __init__(self, root: Path) -> None:
        self.root = root


class CrossEntropy:
    def __init__(self, class_weights: list[NonNegativeFloat] | None = None) -> None:
        if class_weights is not None and not any(class_weights):
            raise ValueError(f"class_weights = {class_weights} must not be all 0")
        self.class_weights = class_weights


class Focal(CrossEntropy):
    """Looks at what is hard."""

    def __init__(self, gamma: NonNegativeFloat = 2.0, class_weights: list[NonNegativeFloat] | None = None) -> None:
        super().__init__(class_weights)
        self.gamma = gamma


def make_loader(records: list[str], batch_size: PositiveInt, size: tuple[int, int] = (4, 4)) -> dict[str, Any]:
    return {"records": records, "batch_size": batch_size, "size": size}


@dataclass(frozen=True)
class TrainerSettings:
    epochs: PositiveInt
    save_dir: str = "saved/"
    monitor: str = "off"


@dataclass(frozen=True)
class RunSettings:
    name: str
    seed: NonNegativeInt = 42
    metrics: tuple[str, ...] = ("f1",)


@dataclass(frozen=True)
class HeadSettings:
    weight: PositiveFloat = 1.0


@dataclass(frozen=True)
class ScheduleSettings:
    interval: Literal["epoch", "step"] = "epoch"
    metric: str | None = None


TRANSFORMS = {
    name: value
    for name, value in vars(albumentations).items()
    if isinstance(value, type) and issubclass(value, albumentations.ImageOnlyTransform)
}
SECTIONS = Sections(
    {
        "labels": Settings(Labels),
        "data": TypedList(TypedSection({"Folder": Folder})),
        "transforms": Sections(
            {"train": TypedList(TypedSection(TRANSFORMS)), "eval": TypedList(TypedSection(TRANSFORMS))}
        ),
        "data_loader": TypedSection({"Loader": make_loader}, ("records",)),
        "loss": Sections(
            {"heads": NamedSections(TypedSection({"Focal": Focal, "CrossEntropy": CrossEntropy}, extra=HeadSettings))}
        ),
        "optimizer": TypedSection({"Adam": Adam, "SGD": SGD}, ("params",)),
        "lr_scheduler": TypedSection(
            {"StepLR": lr_scheduler.StepLR, "OneCycleLR": lr_scheduler.OneCycleLR},
            ("optimizer", "last_epoch"),
            extra=ScheduleSettings,
            optional=True,
        ),
        "trainer": Settings(TrainerSettings),
    },
    RunSettings,
)
CONFIG: dict[str, Any] = {
    "name": "Test",
    "labels": {"attributes": {"age": {"bins": [30, 60]}, "mask": {"classes": ["wear", "not"]}}},
    "data": [{"type": "Folder", "args": {"root": "a"}}],
    "transforms": {"train": [{"type": "Blur"}], "eval": []},
    "data_loader": {"type": "Loader", "args": {"batch_size": 4, "size": [2, 3]}},
    "loss": {
        "heads": {
            "age": {"type": "Focal", "args": {"gamma": 1}, "weight": 0.3},
            "mask": {"type": "CrossEntropy"},
        }
    },
    "optimizer": {"type": "Adam", "args": {"lr": 0.1, "amsgrad": True}},
    "lr_scheduler": {"type": "StepLR", "args": {"step_size": 5}, "interval": "step"},
    "trainer": {"epochs": 3},
}


def write(path: str, content: dict[str, Any] | str) -> None:
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def read(path: str = "config.json", *sets: str) -> ConfigParser:
    return ConfigParser.from_file(path, SECTIONS, [parse_override(text) for text in sets])


def lines_of(call: Callable[[], Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        call()
    return str(caught.value).splitlines()


def edited(key_path: str, value: Any) -> dict[str, Any]:
    """CONFIG with one value set, or taken away where it is ..., by plain Python."""
    config = copy.deepcopy(CONFIG)
    *way, last = [int(step) if step.isdigit() else step for step in key_path.split(".")]
    node: Any = config
    for step in way:
        node = node[step]
    if value is ...:
        del node[last]
    else:
        node[last] = value
    return config


def exit_code_of(call: Callable[[], Any]) -> int:
    def command() -> None:
        call()

    return run_command(command)
