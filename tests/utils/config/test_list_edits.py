"""Lists of an extended file, edited: what comes out, who is named for each entry, and what is refused."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.small_config import CONFIG, SECTIONS, lines_of, read, write
from utils.config.editor_schema import editor_schema
from utils.config.list_edits import edited

BASE = [{"type": "Blur"}, {"type": "Solarize", "args": {"p": 0.1}}, {"type": "Blur", "args": {"p": 0.2}}]


@pytest.fixture(autouse=True)
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write("config.json", {**CONFIG, "transforms": {"train": BASE, "eval": []}, "metrics": ["f1", "accuracy"]})


def child(train: Any, **others: Any) -> str:
    write("child.json", {"extends": "config.json", "transforms": {"train": train}, **others})
    return "child.json"


NEW = {"type": "Posterize"}
EDITS: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "at the end": ({"add": [NEW, NEW]}, [*BASE, NEW, NEW]),
    "before the first of a type": ({"add": [NEW], "before": "Blur"}, [NEW, *BASE]),
    "after the first of a type": ({"add": [NEW], "after": "Blur"}, [BASE[0], NEW, *BASE[1:]]),
    "removed, all of a type": ({"remove": ["Blur"]}, [BASE[1]]),
    "removed, then added": ({"remove": ["Blur"], "add": [NEW], "before": "Solarize"}, [NEW, BASE[1]]),
    "all removed": ({"remove": ["Blur", "Solarize"]}, []),
    "all removed, then added": ({"remove": ["Blur", "Solarize"], "add": [NEW]}, [NEW]),
    "nothing": ({"add": [], "remove": []}, BASE),
}


@pytest.mark.parametrize(("edit", "expected"), EDITS.values(), ids=EDITS)
def test_edits_of_a_file_and_of_a_flag(edit: dict[str, Any], expected: list[Any]) -> None:
    assert read(child(edit)).short["transforms"] == {"train": expected, "eval": []}
    assert read("config.json", f"transforms.train={json.dumps(edit)}").short["transforms"]["train"] == expected


def test_plain_values_go_by_themselves_and_a_list_replaces() -> None:
    config = read(child([NEW], metrics={"remove": ["accuracy"], "add": ["recall"], "before": "f1"}))
    assert (config.short["transforms"]["train"], config["metrics"]) == ([NEW], ["recall", "f1"])
    assert edited([1, True, 2], {"remove": [1]}, ()) == [(1, True), (2, 2)]  # Python holds True for 1


def test_a_file_edits_what_another_has_edited() -> None:
    child({"add": [NEW], "before": "Solarize"})
    write("grandchild.json", {"extends": "child.json", "transforms": {"train": {"remove": ["Blur"]}}})
    config = read("grandchild.json", 'transforms.train={"add": [{"type": "ToGray"}], "after": "Posterize"}')
    assert config.short["transforms"]["train"] == [NEW, {"type": "ToGray"}, BASE[1]]
    origins = [
        "child.json",
        '--set transforms.train={"add": [{"type": "ToGray"}], "after": "Posterize"}',
        "config.json",
    ]
    assert [config.origin(f"transforms.train.{number}.type") for number in range(3)] == origins
    assert config.origin("transforms.train.2.args.p") == "config.json"
    assert config.origin("transforms.train") == origins[1]


def test_a_part_to_be_mixed_in() -> None:
    write("part.json", {"transforms": {"train": {"add": [NEW]}}})
    write("mixed.json", {"extends": ["config.json", "part.json"]})
    assert read("mixed.json").short["transforms"]["train"] == [*BASE, NEW]


def test_each_entry_keeps_what_has_set_it_wherever_it_moves() -> None:
    """Against a list that is edited beside it, each entry marked with its file, by another road."""
    draw = random.Random(0)
    names = ["Blur", "Solarize", "Posterize", "ToGray"]
    for _ in range(40):
        write("0.json", {**CONFIG, "transforms": {"train": [], "eval": []}})
        expected: list[tuple[str, str]] = []
        for number in range(1, 5):
            present = [name for name, _ in expected]
            edit: dict[str, Any] = {"add": [{"type": draw.choice(names)} for _ in range(draw.randint(0, 2))]}
            if present and draw.random() < 0.5:
                edit["remove"] = [draw.choice(present)]
                expected = [entry for entry in expected if entry[0] not in edit["remove"]]
            at = len(expected)
            if expected and draw.random() < 0.7:
                anchor = draw.choice([name for name, _ in expected])
                key = draw.choice(["before", "after"])
                edit[key] = anchor
                at = [name for name, _ in expected].index(anchor) + (key == "after")
            expected[at:at] = [(entry["type"], f"{number}.json") for entry in edit["add"]]
            write(f"{number}.json", {"extends": f"{number - 1}.json", "transforms": {"train": edit}})
        config = read("4.json")
        places = [f"transforms.train.{number}.type" for number in range(len(expected))]
        found = [entry["type"] for entry in config["transforms"]["train"]]
        assert list(zip(found, map(config.origin, places), strict=True)) == expected


def test_an_error_in_an_added_entry_names_the_file_that_added_it() -> None:
    child({"add": [{"type": "Bluur"}], "before": "Solarize"})
    write("grandchild.json", {"extends": "child.json", "transforms": {"train": {"remove": ["Solarize"]}}})
    [line] = lines_of(lambda: read("grandchild.json"))
    assert line.startswith('child.json: transforms.train.1.type = "Bluur" is not one of')
    assert read("child.json", "transforms.train.1.type=ToGray").short["transforms"]["train"][1] == {"type": "ToGray"}


REFUSED: dict[str, tuple[Any, list[str]]] = {
    "no such anchor": (
        {"add": [], "before": "Solarise"},
        ['transforms.train.before = "Solarise" is not in the list (Blur, Solarize); did you mean "Solarize"?'],
    ),
    "removed anchor": (
        {"remove": ["Blur"], "add": [], "after": "Blur"},
        ['transforms.train.after = "Blur" is not in the list (Solarize)'],
    ),
    "anchor in nothing": (
        {"remove": ["Blur", "Solarize"], "add": [], "after": "Blur"},
        ['transforms.train.after = "Blur" is not in the list, which is empty'],
    ),
    "nothing to remove": (
        {"remove": ["Blur", "Crop", 3]},
        [
            'transforms.train.remove.1 = "Crop" is not in the list (Blur, Solarize)',
            "transforms.train.remove.2 = 3 is not in the list (Blur, Solarize)",
        ],
    ),
    "unknown key": (
        {"ad": [], "remove": []},
        [
            'transforms.train.ad is not one of add, remove, before, after; did you mean "add"? '
            "(an object edits the list of the extended file, a list replaces it)"
        ],
    ),
    "an entry without its list": (
        {"type": "Blur"},
        [
            "transforms.train.type is not one of add, remove, before, after "
            "(an object edits the list of the extended file, a list replaces it)"
        ],
    ),
    "nothing said": (
        {},
        [
            'transforms.train = {} has neither "add" nor "remove" '
            "(an object edits the list of the extended file, a list replaces it)"
        ],
    ),
    "no list": (
        {"add": NEW, "remove": "Blur"},
        [
            'transforms.train.add = {"type": "Posterize"} is an object; a list is expected',
            'transforms.train.remove = "Blur" is text; a list is expected',
        ],
    ),
    "two anchors": (
        {"add": [], "before": "Blur", "after": "Blur"},
        ['transforms.train has "before" and "after"; one of them says where to add'],
    ),
    "anchor for nothing": (
        {"remove": ["Blur"], "before": "Blur"},
        ['transforms.train.before says where to add, and there is no "add"'],
    ),
}


@pytest.mark.parametrize(("edit", "lines"), REFUSED.values(), ids=REFUSED)
def test_edits_that_cannot_be(edit: Any, lines: list[str]) -> None:
    path = child(edit)
    assert lines_of(lambda: read(path)) == [f"child.json: {line}" for line in lines]


def test_an_edit_where_there_is_nothing_to_edit() -> None:
    edit = {"add": [NEW]}
    write("alone.json", {**CONFIG, "transforms": {"train": edit, "eval": []}})
    text = '= {"add": [{"type": "Posterize"}]} edits a list, and no extended file has one; write a list'
    assert lines_of(lambda: read("alone.json")) == [f"alone.json: transforms.train {text}"]
    write("child.json", {"extends": "config.json", "lr_scheduler": edit, "seed": edit})
    assert lines_of(lambda: read("child.json"))[0] == f"child.json: seed {text}"
    assert lines_of(lambda: read("config.json", f"seed={json.dumps(edit)}")) == [
        f'--set seed={{"add": [{{"type": "Posterize"}}]}}: seed {text}'
    ]


def test_a_flag_that_empties_what_must_hold_something_is_applied_once() -> None:
    lines = lines_of(
        lambda: read("config.json", 'transforms={"train": 3, "eval": null}', 'transforms.eval={"remove": ["Blur"]}')
    )
    assert len(lines) == 2
    assert lines[0].endswith(
        'transforms.eval = {"remove": ["Blur"]} edits a list, and no extended file has one; write a list'
    )


def test_names_that_users_choose_are_no_edits() -> None:
    attributes = {"add": {"classes": ["a", "b"]}, "remove": {"classes": ["c"]}}
    write("named.json", {**CONFIG, "labels": {"attributes": attributes}})
    assert read("named.json")["labels"]["attributes"] == attributes


def test_a_credential_in_a_list_that_is_edited_is_told_once() -> None:
    write("bad.json", {**CONFIG, "transforms": {"train": [{"type": "Blur", "args": {"token": "hunter2"}}], "eval": []}})
    write("child.json", {"extends": "bad.json", "transforms": {"train": {"add": [NEW], "before": "Blur"}}})
    [line] = lines_of(lambda: read("child.json"))
    assert line.startswith("bad.json: transforms.train.0.args.token holds a credential")


SCHEMA = jsonschema.Draft202012Validator(editor_schema(SECTIONS))


@pytest.mark.parametrize(("edit", "_"), EDITS.values(), ids=EDITS)
def test_editors_take_what_is_right(edit: dict[str, Any], _: Any) -> None:
    SCHEMA.validate({"extends": "config.json", "transforms": {"train": edit}})
    SCHEMA.validate({"extends": "config.json", "metrics": {"remove": ["f1"]}})
    assert not SCHEMA.is_valid({**CONFIG, "transforms": {"train": edit, "eval": []}}), "nothing is extended"


@pytest.mark.parametrize(
    "name", ["unknown key", "an entry without its list", "nothing said", "no list", "two anchors", "anchor for nothing"]
)
def test_editors_refuse_what_is_wrong(name: str) -> None:
    assert not SCHEMA.is_valid({"extends": "config.json", "transforms": {"train": REFUSED[name][0]}})
    assert not SCHEMA.is_valid({"extends": "config.json", "transforms": {"train": {"add": [{"type": "Bluur"}]}}})
