"""Where a config's values come from: files that extend one another, flags; and what none of them may hold."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from scripts.editor_schema import editor_schema
from tests.small_config import CONFIG, SECTIONS, edited, lines_of, read, write


@pytest.fixture(autouse=True)
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write("config.json", CONFIG)


def test_objects_merge_lists_and_types_replace() -> None:
    write("configs/mid.json", {"extends": "../config.json", "optimizer": {"args": {"lr": 0.5}}, "data": []})
    write(
        "configs/child.json", {"extends": "mid.json", "loss": {"heads": {"age": {"type": "CrossEntropy"}}}, "name": "C"}
    )
    config = read("configs/child.json")
    assert config.short["optimizer"] == {"type": "Adam", "args": {"lr": 0.5, "amsgrad": True}}
    assert config["data"] == []
    # gamma was FocalLoss's; the weight is the head's
    assert config.short["loss"]["heads"]["age"] == {"type": "CrossEntropy", "weight": 0.3}
    assert "extends" not in config.resolved
    assert config.origin("name") == "configs/child.json"
    assert config.origin("optimizer.args.lr") == "configs/mid.json"
    assert config.origin("optimizer.args.amsgrad") == "config.json"
    write("same.json", {"extends": "config.json", "optimizer": {"type": "Adam", "args": {"lr": 1}}})
    assert read("same.json").short["optimizer"]["args"] == {"lr": 1, "amsgrad": True}


def test_what_else_belongs_to_a_schedule_goes_with_its_type() -> None:
    write("same.json", {"extends": "config.json", "lr_scheduler": {"type": "StepLR", "args": {"step_size": 2}}})
    assert read("same.json").short["lr_scheduler"] == {"type": "StepLR", "args": {"step_size": 2}, "interval": "step"}
    write("other.json", {"extends": "config.json", "lr_scheduler": {"type": "OneCycleLR", "args": {"max_lr": 0.1}}})
    assert read("other.json").short["lr_scheduler"] == {"type": "OneCycleLR", "args": {"max_lr": 0.1}}


def test_several_parents_are_laid_over_one_another_in_order() -> None:
    write("a.json", {"name": "A", "seed": 1})
    write("b.json", {"name": "B"})
    write("child.json", {"extends": ["config.json", "a.json", "b.json"]})
    assert (read("child.json")["name"], read("child.json")["seed"]) == ("B", 1)


def test_what_several_parents_extend_is_laid_once_so_that_they_add_up() -> None:
    write("a.json", {"extends": "config.json", "name": "A", "seed": 1, "optimizer": {"args": {"lr": 9}}})
    write("sub/b.json", {"extends": "../config.json", "name": "B", "transforms": {"train": {"remove": ["Blur"]}}})
    write("child.json", {"extends": ["a.json", "sub/b.json", "./a.json"], "trainer": {"epochs": 7}})
    expected = copy.deepcopy(CONFIG) | {"name": "B", "seed": 1}
    expected["optimizer"]["args"]["lr"] = 9
    expected["transforms"]["train"] = []
    expected["trainer"]["epochs"] = 7
    config = read("child.json")
    assert config.short == expected
    assert (config.origin("seed"), config.origin("optimizer.args.amsgrad")) == ("a.json", "config.json")


def test_each_error_names_the_file_that_set_the_value() -> None:
    write("bad.json", edited("trainer.epochs", "3"))
    write("child.json", {"extends": "bad.json", "seed": -1, "optimizer": {"args": {"lrr": 1}}})
    lines = lines_of(lambda: read("child.json"))
    assert [line.split(" ")[:2] for line in lines] == [
        ["child.json:", "optimizer.args.lrr"],
        ["bad.json:", "trainer.epochs"],
        ["child.json:", "seed"],
    ]


def test_what_was_replaced_is_no_longer_named() -> None:
    write("a.json", {"extends": "config.json", "trainer": None})
    write("b.json", {"extends": "a.json", "trainer": {}})
    assert lines_of(lambda: read("b.json")) == ["b.json: trainer.epochs is missing"]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a.json": '{"extends": "a.json"}'}, ("a.json: extends", "a.json -> a.json")),
        (
            {"a.json": '{"extends": "b.json"}', "b.json": '{"extends": "./a.json"}'},
            ("b.json: extends", "loops", "a.json -> b.json -> a.json"),
        ),
        (
            {"a.json": '{"extends": "b.json"}', "b.json": '{"extends": "confg.json"}'},
            ("b.json: extends", '"config.json"?'),
        ),
        ({"a.json": '{"extends": 3}'}, ("a.json: extends = 3", "path")),
        ({"a.json": '{"extends": "b.json"}', "b.json": "{,}"}, ("b.json:1:2: ",)),
    ],
    ids=["fault18-itself", "fault18-loop", "fault18-missing", "fault18-kind", "fault2-in-a-parent"],
)
def test_extends_that_cannot_be(files: dict[str, str], words: tuple[str, ...]) -> None:
    for path, text in files.items():
        write(path, text)
    [line] = lines_of(lambda: read("a.json"))
    assert line.startswith(words[0])
    assert all(word in line for word in words)


def test_overrides_set_what_they_say() -> None:
    config = read(
        "config.json",
        "optimizer.args.momentum=0.9",
        "optimizer.type=SGD",
        "data.0.args.root=b=c",
        "name=2024",
        'transforms.train=[{"type": "Blur", "args": {"p": 1}}]',
        "trainer.monitor=min val/loss",
        "lr_scheduler=null",
        "metrics=[]",
    )
    expected = copy.deepcopy(CONFIG) | {"name": "2024", "metrics": []}
    del expected["lr_scheduler"]
    expected["optimizer"] = {"type": "SGD", "args": {"momentum": 0.9}}  # in whatever order they were given
    expected["data"][0]["args"]["root"] = "b=c"
    expected["transforms"]["train"] = [{"type": "Blur", "args": {"p": 1}}]
    expected["trainer"]["monitor"] = "min val/loss"
    assert config.short == expected
    assert config.origin("trainer.monitor") == "--set trainer.monitor=min val/loss"


def test_an_override_may_name_an_object_that_the_file_leaves_out() -> None:
    write("x.json", edited("lr_scheduler", None))
    config = read("x.json", "lr_scheduler.type=StepLR", "lr_scheduler.args.step_size=3")
    assert config.short["lr_scheduler"] == {"type": "StepLR", "args": {"step_size": 3}}


def test_a_flag_merges_like_a_file() -> None:
    lines = {"loss": {"heads": {"age": {"args": {"gamma": 4}}}}}
    write("child.json", {"extends": "config.json", **lines})
    flags = read("config.json", 'loss.heads.age={"args": {"gamma": 4}}', 'data.0={"args": {"root": "b"}}')
    assert flags["loss"] == read("child.json")["loss"]
    assert flags.short["data"] == [{"type": "Folder", "args": {"root": "b"}}]
    assert "mask" not in read("config.json", 'loss={"heads": {"mask": null}}')["loss"]["heads"]
    origins = {key: flags.origin(f"loss.heads.age.{key}") for key in ("args.gamma", "weight", "type")}
    assert origins == {
        "args.gamma": '--set loss.heads.age={"args": {"gamma": 4}}',
        "weight": "config.json",
        "type": "config.json",
    }


def test_class_weights_that_a_new_loss_drops_are_told_with_both_origins() -> None:
    write(
        "weighted.json", {"extends": "config.json", "loss": {"heads": {"age": {"args": {"class_weights": [1, 2, 3]}}}}}
    )
    write("child.json", {"extends": "weighted.json", "loss": {"heads": {"age": {"type": "CrossEntropy"}}}})
    (note,) = read("child.json").notes
    assert all(word in note for word in ("child.json", "loss.heads.age", "weighted.json", "[1, 2, 3]"))
    (note,) = read("weighted.json", "loss.heads.age.type=CrossEntropy").notes
    assert all(word in note for word in ("--set", "loss.heads.age", "weighted.json", "[1, 2, 3]"))


def test_what_the_order_of_extends_decides_is_told() -> None:
    write("a.json", {"extends": "config.json", "lr_scheduler": {"args": {"step_size": 7}}})
    write("b.json", {"extends": "config.json", "lr_scheduler": None})
    write("c.json", {"extends": "config.json", "lr_scheduler": {"type": "OneCycleLR", "args": {"max_lr": 1}}})
    for later in ("b", "c"):
        write("x.json", {"extends": ["a.json", f"{later}.json"]})
        (note,) = read("x.json").notes
        assert all(word in note for word in (f"{later}.json", "lr_scheduler", "a.json"))
        assert read(f"{later}.json").notes == [], "a file knows what it extends"


BAD_OVERRIDES = {
    "fault24-unknown": ("trainer.epoch=3", 'trainer.epoch is not a known key; did you mean "epochs"?'),
    "fault24-unknown-section": ("trainr.epochs=3", 'trainr is not a known key; did you mean "trainer"?'),
    "fault24-kind": ("trainer.epochs=abc", 'trainer.epochs = "abc" is text'),
    "fault24-half-a-list": ("metrics=[1,", 'metrics = "[1," is text'),
    "fault24-no-such-entry": ("data.1.args.root=x", 'data is a list of 1; it has no "1"'),
    "fault24-inside-a-number": ("trainer.epochs.x=3", 'trainer.epochs is a whole number; it has no "x"'),
    "fault5-nan": ("optimizer.args.lr=NaN", 'optimizer.args.lr = "NaN"'),
    "fault10": ("trainer.epochs=-1", "trainer.epochs = -1 must be above 0"),
}


@pytest.mark.parametrize(("text", "words"), BAD_OVERRIDES.values(), ids=BAD_OVERRIDES)
def test_overrides_that_cannot_be(text: str, words: str) -> None:
    [line] = lines_of(lambda: read("config.json", text))
    assert line.startswith(f"--set {text}: ")
    assert words in line


@pytest.mark.parametrize("text", ["trainer.epochs", "=3", "a..b=3"])
def test_fault24_an_override_without_key_or_value(text: str) -> None:
    [line] = lines_of(lambda: read("config.json", text))
    assert "a.b.c=value is expected" in line


SECRETS = {
    "wandb_key": "hello",
    "WANDB_API_KEY": "hello",
    "apiKey": "hello",
    "password": 12345,
    "hub-token": "hello",
    "note": "0123456789abcdef" * 2 + "01234567",
    "other": "local-" + "a1" * 12,
    "aws": "AKIA" + "ABCD2345" * 2,
    "hub": "hf_" + "Ab1" * 10,
    "uri": "https://me:hunter2@tracker.example/x",
}


@pytest.mark.parametrize("key", SECRETS, ids=lambda key: f"fault16-{key}")
@pytest.mark.parametrize("place", ["", "optimizer.args."])
def test_credentials_are_refused_and_not_echoed(key: str, place: str) -> None:
    write("x.json", edited(place + key, SECRETS[key]))
    [line] = lines_of(lambda: read("x.json"))
    assert line.startswith(f"x.json: {place}{key} holds a credential; remove it")
    assert str(SECRETS[key]) not in line
    [line] = lines_of(lambda: read("config.json", f"{place}{key}={SECRETS[key]}"))
    assert line.startswith(f"--set {place}{key}=...: {place}{key} holds a credential; remove it")
    assert str(SECRETS[key]) not in line


def test_fault16_a_credential_that_is_not_valid_json_is_not_echoed_either() -> None:
    [line] = lines_of(lambda: read("config.json", 'wandb_key="hunter2'))
    assert line.startswith("--set wandb_key=...: wandb_key holds a credential")
    assert "hunter2" not in line


def test_fault16_other_problems_are_told_beside_a_credential() -> None:
    write("x.json", edited("trainer.token", "hunter2") | {"seed": -1, "name": "f" * 40})
    lines = lines_of(lambda: read("x.json"))
    assert [line.split(" ")[1] for line in lines] == ["name", "trainer.token", "seed"]
    assert "ffff" not in "".join(lines)
    assert "hunter2" not in "".join(lines)
    write("x.json", edited("trainer", [{"token": "hunter2"}]))
    lines = lines_of(lambda: read("x.json"))
    assert lines[1].startswith('x.json: trainer = [{"token": "(hidden)"}] is a list')


def test_innocent_values_are_no_credentials() -> None:
    write("x.json", edited("trainer.save_dir", "runs/" + "0123456789abcdef" * 3) | {"name": "tokens and passwords"})
    read("x.json")


NEW = {"type": "Posterize"}
BASE = [{"type": "Blur"}, {"type": "Solarize", "args": {"p": 0.1}}, {"type": "Blur", "args": {"p": 0.2}}]
EDITS: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "at the end": ({"add": [NEW, NEW]}, [*BASE, NEW, NEW]),
    "before the first of a type": ({"add": [NEW], "before": "Blur"}, [NEW, *BASE]),
    "after the first of a type": ({"add": [NEW], "after": "Blur"}, [BASE[0], NEW, *BASE[1:]]),
    "removed, all of a type": ({"remove": ["Blur"]}, [BASE[1]]),
    "removed, then added": ({"remove": ["Blur"], "add": [NEW], "before": "Solarize"}, [NEW, BASE[1]]),
    "all removed, then added": ({"remove": ["Blur", "Solarize"], "add": [NEW]}, [NEW]),
    "nothing": ({"add": [], "remove": []}, BASE),
}


def write_child(train: Any, **others: Any) -> None:
    write("base.json", {**CONFIG, "transforms": {"train": BASE, "eval": []}, "metrics": ["f1", "accuracy"]})
    write("child.json", {"extends": "base.json", "transforms": {"train": train}, **others})


@pytest.mark.parametrize(("edit", "expected"), EDITS.values(), ids=EDITS)
def test_an_object_edits_a_list(edit: dict[str, Any], expected: list[Any]) -> None:
    write_child(edit)
    assert read("child.json").short["transforms"] == {"train": expected, "eval": []}
    assert read("base.json", f"transforms.train={json.dumps(edit)}").short["transforms"]["train"] == expected
    write("part.json", {"transforms": {"train": edit}})
    write("mixed.json", {"extends": ["base.json", "part.json"]})
    assert read("mixed.json").short["transforms"]["train"] == expected


def test_plain_values_are_named_by_themselves_and_a_list_replaces() -> None:
    write_child([NEW], metrics={"remove": ["accuracy"], "add": ["recall"], "before": "f1"})
    config = read("child.json")
    assert (config.short["transforms"]["train"], config["metrics"]) == ([NEW], ["recall", "f1"])


def test_each_entry_keeps_its_origin_when_it_moves() -> None:
    write_child({"add": [NEW], "before": "Solarize"})
    write("grandchild.json", {"extends": "child.json", "transforms": {"train": {"remove": ["Blur"]}}})
    flag = 'transforms.train={"add": [{"type": "ToGray"}], "after": "Posterize"}'
    config = read("grandchild.json", flag, "transforms.train.2.args.p=0.7")
    assert config.short["transforms"]["train"] == [NEW, {"type": "ToGray"}, {"type": "Solarize", "args": {"p": 0.7}}]
    origins = ["child.json", f"--set {flag}", "base.json"]
    assert [config.origin(f"transforms.train.{number}.type") for number in range(3)] == origins
    assert config.origin("transforms.train.2.args.p") == "--set transforms.train.2.args.p=0.7"
    assert config.origin("transforms.train") == origins[1]
    write_child({"add": [{"type": "Bluur"}], "before": "Solarize"})
    [line] = lines_of(lambda: read("grandchild.json"))
    assert line.startswith('child.json: transforms.train.0.type = "Bluur"')


REFUSED_EDITS: dict[str, tuple[Any, dict[str, str]]] = {
    "no such anchor": ({"add": [], "before": "Solarise"}, {"transforms.train.before": '"Solarize"?'}),
    "removed anchor": ({"remove": ["Blur"], "add": [], "after": "Blur"}, {"transforms.train.after": "Solarize"}),
    "nothing to remove": (
        {"remove": ["Blur", "Crop", 3]},
        {"transforms.train.remove.1": "Blur, Solarize", "transforms.train.remove.2": "Blur, Solarize"},
    ),
    "unknown key": ({"ad": [], "remove": []}, {"transforms.train": '"add"'}),
    "an entry without its list": ({"type": "Blur"}, {"transforms.train": '"add"'}),
    "no edit": ({}, {"transforms.train": '"add"'}),
    "no list": ({"add": NEW, "remove": "Blur"}, {"transforms.train": '"add"'}),
    "two anchors": ({"add": [], "before": "Blur", "after": "Blur"}, {"transforms.train": '"before" or "after"'}),
    "anchor for nothing": ({"remove": ["Blur"], "before": "Blur"}, {"transforms.train": '"before" or "after"'}),
}
SCHEMA = jsonschema.Draft202012Validator(editor_schema(SECTIONS))


@pytest.mark.parametrize(("edit", "words"), REFUSED_EDITS.values(), ids=REFUSED_EDITS)
def test_edits_that_cannot_be(edit: Any, words: dict[str, str]) -> None:
    write_child(edit)
    lines = lines_of(lambda: read("child.json"))
    for line, (key_path, word) in zip(lines, words.items(), strict=True):
        assert line.startswith(f"child.json: {key_path} = ")
        assert word in line
    needs_the_list = any(path != "transforms.train" for path in words)
    assert SCHEMA.is_valid({"extends": "config.json", "transforms": {"train": edit}}) is needs_the_list


def test_there_is_nothing_to_edit() -> None:
    write("child.json", {"extends": "config.json", "optimizer": {"args": {"betas": {"add": [1]}}}})
    [line] = lines_of(lambda: read("child.json"))
    assert line.startswith('child.json: optimizer.args.betas = {"add": [1]}')


@pytest.mark.parametrize(("edit", "_"), EDITS.values(), ids=EDITS)
def test_editors_accept_edits(edit: dict[str, Any], _: Any) -> None:
    SCHEMA.validate({"extends": "config.json", "transforms": {"train": edit}})


def test_names_that_users_choose_are_no_edits() -> None:
    attributes = {"add": {"classes": ["a", "b"]}, "remove": {"classes": ["c"]}}
    write("named.json", {**CONFIG, "labels": {"attributes": attributes}})
    assert read("named.json")["labels"]["attributes"] == attributes


def test_a_credential_in_a_list_that_is_edited_is_reported_once() -> None:
    write("bad.json", {**CONFIG, "transforms": {"train": [{"type": "Blur", "args": {"token": "hunter2"}}], "eval": []}})
    write("child.json", {"extends": "bad.json", "transforms": {"train": {"add": [NEW], "before": "Blur"}}})
    [line] = lines_of(lambda: read("child.json"))
    assert line.startswith("bad.json: transforms.train.0.args.token holds a credential")
