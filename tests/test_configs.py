"""The files of configs/: each is right, is told of in its comment and in configs/README.md, and does what these say."""

from __future__ import annotations

import copy
import csv
import functools
import json
import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from data_loader.records import LabelTable, Record
from data_loader.transforms import AugmentationKey, build_transforms
from experiment.checks import check_config
from experiment.cli import parse_arguments
from experiment.schema import SECTIONS
from inference.tta import PRESETS
from model.model import build_without_weights
from parse_config import ConfigParser
from scripts.editor_schema import editor_schema
from utils.config.json_text import parse_json, read_json
from utils.config.layers import REPLACED_WHOLE
from utils.errors import ConfigError, Problem

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(path for path in (ROOT / "configs").glob("*.json") if path.name != "config.schema.json")
README = (ROOT / "configs" / "README.md").read_text(encoding="utf-8")
IN_ONE_LINE = README.partition("## In one line")[2]
ROWS = dict(re.findall(r"^\| \[`(\w+\.json)`\]\((?:\w+\.json)\) \|(.*)\|$", README, re.MULTILINE))


@pytest.fixture(autouse=True)
def at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the project's folder, where relative paths lead."""
    monkeypatch.chdir(ROOT)


@functools.cache
def parsed(path: Path) -> ConfigParser:
    return ConfigParser.from_file(path, SECTIONS)


def of_call(text: str) -> ConfigParser:
    arguments = parse_arguments(shlex.split(text))
    return ConfigParser.from_file(arguments.config or "config.json", SECTIONS, arguments.overrides)


def problems_of(path: Path) -> list[Problem]:
    try:
        check_config(ConfigParser.from_file(path, SECTIONS))
    except ConfigError as error:
        return error.problems
    return []


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_each_is_right_and_says_what_it_is(path: Path) -> None:
    missing = [("preparation", 0, "args", "weights_file")] if path.stem == "background_removal" else []
    assert [problem.key_path for problem in problems_of(path)] == missing
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[2].startswith('    "extends": ')
    assert re.match(r"    // [A-Z]", lines[3]), "a comment says what it is"
    assert parsed(path)["name"].lower() == path.stem
    comment = " ".join(line.strip(" /") for line in lines[3:] if line.startswith("    //"))
    assert path.stem in ("demo", "real_faces", "gender_age_only") or re.search(r"\b(Costs|costs|Saves) ", comment)
    assert all(len(line) <= 120 for line in lines)


def test_names_are_distinct_and_each_has_a_row() -> None:
    names = [parsed(path)["name"] for path in CONFIGS]
    assert len(set(names)) == len(names) == len(CONFIGS)
    assert sorted(ROWS) == [path.name for path in CONFIGS]
    assert all(f"[`{name}`]({name})" in README for name in ROWS)
    assert all(len(row.split("|")) == 3 for row in ROWS.values())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_each_differs_from_the_default_in_more_than_its_name(path: Path) -> None:
    default = {**parsed(ROOT / "config.json").resolved, "name": ""}
    assert {**parsed(path).resolved, "name": ""} != default


def test_ideas_validate_on_the_same_people() -> None:
    """Whatever the training bins and the run's seed are."""
    stream = np.random.default_rng(0)
    records = []
    for number in range(600):
        raw = {"mask": "wear", "gender": ["male", "female"][stream.integers(2)], "age": str(stream.integers(18, 61))}
        records.append(Record(Path(f"{number}.jpg"), f"{number}.jpg", f"p{number // 2}", raw, ""))
    sides = set()
    for call in (
        "-c config.json",
        "-c config.json --set seed=7",
        "-c configs/age_58.json",
        "-c configs/six_decades.json",
    ):
        config = of_call(call)
        table = LabelTable.from_records(records, config.build("labels"))
        sides.add(config.build("split").divide(table, config.extra().seed).validation_digest())
    assert len(sides) == 1


CALLS = re.findall(r"`((?:-c|--set) [^`]+)`", IN_ONE_LINE.partition("`python test.py")[0])


@pytest.mark.parametrize("call", CALLS)
def test_each_call_of_the_readme_is_right(call: str) -> None:
    check_config(of_call(call))


def test_views_of_the_readme_are_there() -> None:
    named = re.findall(r"`--views (\w+)`", IN_ONE_LINE)
    assert named
    assert set(named) | {"none"} == set(PRESETS)


def test_ideas_add_up_as_the_readme_shows(tmp_path: Path) -> None:
    [example] = re.findall(r"```jsonc\n(.*?)```", README, re.DOTALL)
    values = parse_json(example, "README.md")
    parents = [ROOT / "configs" / name for name in values["extends"]]
    (tmp_path / "x.json").write_text(json.dumps({**values, "extends": [str(path) for path in parents]}))
    config = ConfigParser.from_file(tmp_path / "x.json", SECTIONS)
    check_config(config)
    expected = copy.deepcopy(parsed(ROOT / "config.json").short)
    decades, mixed, averaged = (parsed(path).short for path in parents)
    expected |= {"name": values["name"], "labels": decades["labels"], "loss": decades["loss"]}
    expected |= {"mixing": mixed["mixing"], "weight_averaging": averaged["weight_averaging"]}
    expected["transforms"]["train"].insert(-1, values["transforms"]["train"]["add"][0])
    assert config.short == expected


def test_no_setting_may_be_a_list_or_an_object() -> None:
    """An object in the place of a list is an edit of it, so no argument may take both (lists' entries are apart)."""

    def look(schema: Any, key_path: str) -> None:
        if isinstance(schema, list):
            for inner in schema:
                look(inner, key_path)
        elif isinstance(schema, dict):
            kinds = {member.get("type") for key in ("anyOf", "oneOf") for member in schema.get(key, [])}
            assert not kinds >= {"array", "object"}, key_path
            for key in schema.keys() - {"items"}:
                look(schema[key], f"{key_path}.{key}")

    schema = copy.deepcopy(SECTIONS.schema())
    for *parents, name in REPLACED_WHOLE:
        holder = schema
        for step in parents:
            holder = holder["properties"][step]
            holder = next((each for each in holder.get("anyOf", []) if "properties" in each), holder)
        del holder["properties"][name]
    look(schema, "")


@functools.cache
def _validator() -> Any:
    return jsonschema.Draft202012Validator(editor_schema(SECTIONS))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_editors_take_each(path: Path) -> None:
    _validator().validate(read_json(path))


@pytest.mark.parametrize(
    "path",
    [path for path in CONFIGS if "transforms" in read_json(path) or "crop" in str(read_json(path))],
    ids=lambda path: path.stem,
)
def test_photographs_come_out_in_the_right_size(path: Path) -> None:
    config = parsed(path)
    size = config["data_loader"]["args"]["input_size"]
    transforms = build_transforms(config["transforms"], size, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    photograph = np.random.default_rng(0).integers(0, 256, (512, 384, 3), dtype=np.uint8)
    shape = (size, size, 3) if isinstance(size, int) else (*size, 3)
    assert transforms.evaluation(photograph).shape == shape
    seen = [transforms.train(photograph, AugmentationKey(seed=0, epoch=1, index=index)) for index in range(12)]
    assert {image.shape for image in seen} == {shape}
    assert len({image.tobytes() for image in seen}) > 3, "training images vary"


def test_label_fixes_are_a_table_of_the_form_that_is_read() -> None:
    with (ROOT / parsed(ROOT / "configs" / "label_fixes.json")["label_fixes"]).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    genders = parsed(ROOT / "config.json")["labels"]["attributes"]["gender"]["classes"]
    assert len({row["person"] for row in rows}) == len(rows) == 8
    assert {row["attribute"] for row in rows} == {"gender"}
    assert {row["value"] for row in rows} == set(genders)


BACKBONES = re.findall(r"^\| (?:as it is, (\d+)|`--set data_loader.args.input_size=(\d+)`) \| (.*) \|$", README, re.M)
BACKBONE_CALLS = [
    (name, int(own or given)) for own, given, names in BACKBONES for name in re.findall(r"`(\w+)`", names)
]


def test_backbones_of_the_readme_have_weights() -> None:
    assert len(BACKBONE_CALLS) > 20
    assert [name for name, _ in BACKBONE_CALLS if not timm.is_model_pretrained(name)] == []


@pytest.mark.long
@pytest.mark.parametrize(("name", "size"), BACKBONE_CALLS)
def test_backbones_of_the_readme_take_their_size(name: str, size: int) -> None:
    check_config(of_call(f"--set arch.args.model_name={name} --set data_loader.args.input_size={size}"))


FIGURES = {
    name: tuple(map(float, found))
    for name, row in ROWS.items()
    for found in re.findall(r"arithmetic × ([\d.]+), memory × ([\d.]+)", row)
}


UNRELATED = ("demo.json", "faces_with_drawn_masks.json", "real_faces.json")
"""Of other data, where the default's costs say nothing."""


def test_what_has_another_model_or_size_has_figures_of_its_cost() -> None:
    default = parsed(ROOT / "config.json")

    def of(config: ConfigParser) -> Any:
        arch = config["arch"]
        return arch["type"], arch["args"].get("model_name"), config["data_loader"]["args"]["input_size"]

    others = [path.name for path in CONFIGS if of(parsed(path)) != of(default)]
    assert sorted(FIGURES) == [name for name in others if name not in UNRELATED]


@pytest.mark.long
@pytest.mark.parametrize("name", FIGURES)
def test_figures_of_cost(name: str) -> None:
    default = _cost(parsed(ROOT / "config.json"))
    for own, of_default, documented in zip(_cost(parsed(ROOT / "configs" / name)), default, FIGURES[name], strict=True):
        assert own / of_default == pytest.approx(documented, rel=0.05, abs=0.05 if documented > 0.05 else 0.005)


def _cost(config: ConfigParser) -> tuple[float, float]:
    """Multiplications of an image's forward pass, and bytes that it keeps for the backward one."""
    size = config["data_loader"]["args"]["input_size"]
    height_width = (size, size) if isinstance(size, int) else size
    model = build_without_weights(config["arch"], config.build("labels").num_classes)
    images = torch.rand(2, 3, *height_width)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(images)
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = model.train()(images)
    assert outputs
    size_kept = sum(tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in own)
    return counter.get_total_flops() / 2, size_kept
