"""The config parser on a small table of sections: each refusal with its file, where, value and expectation."""

from __future__ import annotations

import copy
import json
import re
import types
from pathlib import Path
from typing import Any

import albumentations
import jsonschema
import pytest
import torch

from parse_config import ConfigParser
from scripts.editor_schema import editor_schema
from tests.small_config import (
    CONFIG,
    SECTIONS,
    Focal,
    RunSettings,
    ScheduleSettings,
    TrainerSettings,
    edited,
    exit_code_of,
    lines_of,
    read,
    write,
)
from utils.config.layers import Override
from utils.config.sections import exported
from utils.errors import ConfigError


@pytest.fixture(autouse=True)
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write("config.json", CONFIG)


REFUSED: dict[str, tuple[str, Any, str, str]] = {
    "fault7-top": ("nmae", 1, "nmae", 'did you mean "name"?'),
    "fault7-settings": ("trainer.epoch", 1, "trainer.epoch", '"epochs"'),
    "fault7-args": ("loss.heads.age.args.gama", 1, "loss.heads.age.args.gama", '"gamma"'),
    "fault7-beside-type": ("lr_scheduler.intervall", "step", "lr_scheduler.intervall", '"interval"'),
    "fault7-argument-beside-type": ("optimizer.lr", 1, "optimizer.lr", "known: type, args"),
    "fault7-group": ("loss.head", {}, "loss.head", '"heads"'),
    "fault7-label": ("labels.attributes.age.bin", [1], "labels.attributes.age.bin", '"bins"'),
    "fault8": ("trainer.epochs", "50", "trainer.epochs", "must be a whole number"),
    "fault8-args": ("optimizer.args.lr", "0.1", "optimizer.args.lr", "number"),
    "fault8-section": ("optimizer", "Adam", "optimizer", '"type" and "args"'),
    "fault8-section-in-list": ("data.0", 3, "data.0", '"type" and "args"'),
    "fault8-list": ("data", {}, "data", "a list of objects"),
    "fault8-group": ("transforms", [], "transforms", "an object"),
    "fault8-args-are-a-list": ("optimizer.args", [], "optimizer.args", "an object"),
    "fault8-null": ("optimizer", None, "optimizer", "an object"),
    "fault9": ("seed", True, "seed", "must be a whole number"),
    "fault10-zero": ("trainer.epochs", 0, "trainer.epochs", "above 0"),
    "fault10-negative": ("trainer.epochs", -1, "trainer.epochs", "above 0"),
    "fault11": ("data_loader.args.batch_size", 0, "data_loader.args.batch_size", "above 0"),
    "fault14": ("loss.heads.age.type", "Focall", "loss.heads.age.type", '"Focal"'),
    "fault14-of-many": ("transforms.train.0.type", "Bluur", "transforms.train.0.type", '"Blur"'),
    "fault14-no-text": ("optimizer.type", 3, "optimizer.type", "a name"),
    "fault14-none": ("data.0.type", ..., "data.0.type", "one of Folder"),
    "fault15": ("transforms.train.0.args", {"blur": 3}, "transforms.train.0.args.blur", "blur_limit"),
    "fault19-negative": ("loss.heads.age.args.class_weights", [1, -1], "loss.heads.age.args.class_weights.1", "0"),
    "fault23": ("lr_scheduler.args", {}, "lr_scheduler.args.step_size", "is missing"),
    "faultS2-module": ("optimizer.type", "os.system", "optimizer.type", "Adam, SGD"),
    "faultS2-through-a-module": ("optimizer.type", "logging.os.system", "optimizer.type", "Adam, SGD"),
    "faultS2-dunder": ("optimizer.type", "__class__", "optimizer.type", "Adam, SGD"),
    "faultS2-dunder-argument": ("optimizer.args.__class__", 1, "optimizer.args.__class__", "is not a known key"),
    "injected": ("optimizer.args.params", 1, "optimizer.args.params", "is not a known key"),
    "choice": ("lr_scheduler.interval", "steps", "lr_scheduler.interval", '"step"'),
    "missing-section": ("optimizer", ..., "optimizer", "is missing"),
    "missing-inner-section": ("transforms.eval", ..., "transforms.eval", "is missing"),
    "missing-plain-key": ("name", ..., "name", "is missing"),
    "missing-setting": ("trainer.epochs", ..., "trainer.epochs", "is missing"),
}


@pytest.mark.parametrize(("where", "value", "key_path", "word"), REFUSED.values(), ids=REFUSED)
def test_refusals_name_file_key_path_and_remedy(where: str, value: Any, key_path: str, word: str) -> None:
    write("configs/b4.json", edited(where, value))
    [line] = lines_of(lambda: read("configs/b4.json"))
    assert line.startswith(f"configs/b4.json: {key_path} ")
    assert word in line
    assert exit_code_of(lambda: read("configs/b4.json")) == 2


ACCEPTED: dict[str, tuple[str, Any]] = {
    "as it is": ("name", "Test"),
    "no schedule": ("lr_scheduler", ...),
    "null for what is optional": ("lr_scheduler", None),
    "no args": ("optimizer", {"type": "Adam"}),
    "no heads": ("loss.heads", {}),
    "a list for a tuple": ("metrics", ["a", "b"]),
    "another type": ("loss.heads.mask", {"type": "Focal", "weight": 1}),
    "null in a union": ("lr_scheduler.metric", None),
}


@pytest.mark.parametrize(("where", "value"), ACCEPTED.values(), ids=ACCEPTED)
def test_right_configs_are_taken_as_they_are(where: str, value: Any) -> None:
    write("x.json", edited(where, value))
    config = read("x.json")
    assert jsonschema.Draft202012Validator(SECTIONS.schema()).is_valid(config.resolved)
    for again in (config.short, config.resolved):
        assert ConfigParser.from_dict(again, SECTIONS, "again").resolved == config.resolved


def test_schema_is_valid_and_each_type_is_described() -> None:
    schema = editor_schema(SECTIONS)
    jsonschema.Draft202012Validator.check_schema(schema)
    heads = schema["properties"]["loss"]["properties"]["heads"]["additionalProperties"]["anyOf"][0]
    assert {"const": "Focal", "description": "Looks at what is hard."} in heads["properties"]["type"]["oneOf"]


@pytest.mark.parametrize(
    ("where", "value"),
    [(where, value) for where, value, *_ in (*REFUSED.values(), *ACCEPTED.values())],
    ids=[*REFUSED, *ACCEPTED],
)
def test_schema_and_checker_agree(where: str, value: Any) -> None:
    config = edited(where, value)
    try:
        ConfigParser.from_dict(config, SECTIONS, "x")
        taken = True
    except ConfigError:
        taken = False
    assert jsonschema.Draft202012Validator(SECTIONS.schema()).is_valid(config) is taken
    is_left_out = (value is ... and "type" not in where) or where == "lr_scheduler.args"
    assert jsonschema.Draft202012Validator(editor_schema(SECTIONS)).is_valid(config) is (taken or is_left_out)


@pytest.mark.parametrize(
    ("part", "good"),
    [
        ({}, True),
        ({"optimizer": {"args": {"lr": 1}}}, True),
        ({"loss": {"heads": {"age": {"weight": 2}}}, "$schema": "x.json"}, True),
        ({"lr_scheduler": {"type": "OneCycleLR", "args": {"max_lr": 0.1, "total_steps": 3}}}, True),
        ({"lr_scheduler": {"type": "StepLR", "interval": "epoch"}}, True),
        ({"trainer": {"epoch": 3}}, False),
        ({"optimizer": {"type": "SGD", "args": {"amsgrad": True}}}, False),
        ({"data": [{"args": {"root": "x"}}]}, False),
        ({"loss": {"heads": {"age": {"weight": 0}}}}, False),
        ({"loss": {"heads": {"mask": None}}}, True),
        ({"labels": {"attributes": {"mask": None}}, "metrics": ["f1"]}, True),
        (
            {
                "data_loader": {"type": "Loader", "args": {"size": {"add": []}}},
                "transforms": {"train": {"remove": ["Blur"]}},
            },
            True,
        ),
        ({"data_loader": {"type": "Loader", "args": {"size": {"ad": []}}}}, False),
        ({"data": {"add": [{"type": "Folder"}]}}, False),
    ],
)
def test_schema_and_checker_agree_on_files_that_extend(part: dict[str, Any], good: bool) -> None:
    child = {"extends": "config.json", **part}
    write("child.json", child)
    assert jsonschema.Draft202012Validator(editor_schema(SECTIONS)).is_valid(child) is good
    if good:
        read("child.json")
    else:
        assert lines_of(lambda: read("child.json"))


def test_building() -> None:
    config = read()
    assert config.build("labels").names == ["age", "mask"]
    assert [source.root for source in config.build("data")] == [Path("a")]
    assert config.build("data.0").root == Path("a")
    assert [type(each) for each in config.build("transforms")["train"]] == [albumentations.Blur]
    assert config.build("data_loader", records=["r"], unused=1) == {"records": ["r"], "batch_size": 4, "size": (2, 3)}
    heads = config.build("loss.heads")
    assert (list(heads), heads["age"].gamma) == (["age", "mask"], 1)
    assert (config.extra("loss.heads.age").weight, config.extra("loss.heads.mask").weight) == (0.3, 1.0)
    optimizer = config.build("optimizer", params=[torch.zeros(1, requires_grad=True)])
    assert optimizer.param_groups[0]["amsgrad"] is True
    scheduler = config.build("lr_scheduler", optimizer=optimizer, total_steps=10)  # StepLR takes no total_steps
    assert scheduler.step_size == 5
    assert config.extra("lr_scheduler") == ScheduleSettings("step")
    assert config.extra() == RunSettings("Test")
    assert config.build("trainer") == TrainerSettings(3)
    assert config.short["trainer"] == {"epochs": 3}


def test_building_what_is_left_out() -> None:
    write("x.json", edited("lr_scheduler", ...))
    assert read("x.json").build("lr_scheduler") is None
    assert read("x.json").extra("lr_scheduler") == ScheduleSettings()


def test_constructors_own_refusals_are_config_errors() -> None:
    write("b.json", {"extends": "config.json", "loss": {"heads": {"age": {"args": {"class_weights": [0, 0]}}}}})
    parameters = [torch.zeros(1, requires_grad=True)]
    config = read("b.json", "optimizer.args.lr=-1", "labels.attributes.age.bins=[2,1]")
    assert lines_of(lambda: config.build("loss.heads")) == [
        "b.json: loss.heads.age.args.class_weights = [0.0, 0.0] must not be all 0"
    ]
    assert lines_of(lambda: config.build("optimizer", params=parameters)) == [
        "--set optimizer.args.lr=-1: optimizer.args.lr = -1: Adam refuses it: Invalid learning rate: -1.0"
    ]
    assert lines_of(lambda: config.build("labels")) == [
        "--set labels.attributes.age.bins=[2,1]: labels.attributes.age.bins must rise"
    ]


def test_problem_lines_for_others() -> None:
    config = read("config.json", "trainer.monitor=min val/los")
    problems = [
        config.problem("trainer.monitor", "is not one of min val/loss"),
        config.problem("data.0.args.root", "is empty"),
        config.problem("trainer.save_dir", "cannot be written"),
    ]
    error = config.error(problems)
    assert error.problems == problems
    assert str(error).splitlines() == [
        'config.json: data.0.args.root = "a" is empty',
        '--set trainer.monitor=min val/los: trainer.monitor = "min val/los" is not one of min val/loss',
        'config.json: trainer.save_dir = "saved/" cannot be written',
    ]


def test_a_config_at_hand_is_copied_and_named() -> None:
    values = copy.deepcopy(CONFIG)
    config = ConfigParser.from_dict(values, SECTIONS, "checkpoint x.pth", [Override("trainer.epochs", "9")])
    assert (config["trainer"]["epochs"], values) == (9, CONFIG)
    assert ConfigParser.from_dict(config.resolved, SECTIONS, "again").resolved == config.resolved
    bad = edited("seed", "x")
    assert lines_of(lambda: ConfigParser.from_dict(bad, SECTIONS, "checkpoint x.pth")) == [
        'checkpoint x.pth: seed = "x" is text; it must be a whole number'
    ]


def test_listed_takes_only_what_a_module_lists() -> None:
    module = types.ModuleType("losses")
    module.__dict__.update(Focal=Focal, json=json, __all__=["Focal"])
    assert exported(module) == {"Focal": Focal}


def test_all_problems_at_once_in_the_order_of_the_file_and_always_the_same() -> None:
    config = copy.deepcopy(CONFIG)
    config["optimizer"]["args"]["lr"] = "a"
    config["loss"]["heads"]["mask"] = {"type": "Focall", "wieght": 1}
    config["trainer"] = {"epoch": 1}
    config["zzz"] = 1
    write("x.json", config)
    lines = lines_of(lambda: read("x.json"))
    assert lines == lines_of(lambda: read("x.json"))
    assert [re.sub(r"^x\.json: (\S+).*", r"\1", line) for line in lines] == [
        "loss.heads.mask.type",
        "loss.heads.mask.wieght",
        "optimizer.args.lr",
        "trainer.epoch",
        "trainer.epochs",
        "zzz",
    ]


def test_the_published_form_is_translated_on_reading() -> None:
    write("p.json", {"loss": "all_loss", "loss_name": [["focal", [], 1]]})
    assert [line.split(" ")[:2] for line in lines_of(lambda: read("p.json"))] == [
        ["p.json:", "loss_name"],
        ["p.json:", "data_loader"],
    ]
