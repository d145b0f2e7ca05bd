"""Where a config's values come from: files that extend one another, flags; and what none of them may hold."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from tests.small_config import CONFIG, edited, exit_code_of, lines_of, read, write


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
    ("files", "message"),
    [
        ({"a.json": '{"extends": "a.json"}'}, 'a.json: extends = "a.json" loops: a.json -> a.json'),
        (
            {"a.json": '{"extends": "b.json"}', "b.json": '{"extends": "./a.json"}'},
            'b.json: extends = "./a.json" loops: a.json -> b.json -> a.json',
        ),
        (
            {"a.json": '{"extends": "b.json"}', "b.json": '{"extends": "confg.json"}'},
            'b.json: extends = "confg.json": there is no file confg.json; did you mean "config.json"? '
            "(read: a.json -> b.json -> confg.json)",
        ),
        ({"a.json": '{"extends": 3}'}, "a.json: extends = 3 must be a path or a list of paths"),
        (
            {"a.json": '{"extends": "b.json"}', "b.json": "{,}"},
            "b.json:1:2: a comma before } is one too many; remove it",
        ),
    ],
    ids=["fault18-itself", "fault18-loop", "fault18-missing", "fault18-kind", "fault2-in-a-parent"],
)
def test_extends_that_cannot_be(files: dict[str, str], message: str) -> None:
    for path, text in files.items():
        write(path, text)
    assert lines_of(lambda: read("a.json")) == [message]


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
    "fault24-unknown": (
        "trainer.epoch=3",
        "--set trainer.epoch=3: trainer.epoch is not a known key; did you mean "
        '"epochs"? (known: epochs, save_dir, monitor)',
    ),
    "fault24-unknown-section": (
        "trainr.epochs=3",
        '--set trainr.epochs=3: trainr is not a known key; did you mean "trainer"?',
    ),
    "fault24-kind": (
        "trainer.epochs=abc",
        '--set trainer.epochs=abc: trainer.epochs = "abc" is text; it must be a valid integer',
    ),
    "fault24-half-a-list": (
        "metrics=[1,",
        "--set metrics=[1,: is not valid JSON: the file ends, but the [ of line 1 is not closed",
    ),
    "fault24-half-a-text": ('name="a', '--set name="a: is not valid JSON: unterminated string'),
    "fault24-no-value": (
        "trainer.epochs",
        "--set trainer.epochs: a.b.c=value is expected, such as --set trainer.epochs=10",
    ),
    "fault24-no-place": ("=3", "--set : a.b.c=value is expected, such as --set trainer.epochs=10"),
    "fault24-empty-step": ("a..b=3", "--set a..b: a.b.c=value is expected, such as --set trainer.epochs=10"),
    "fault24-no-such-entry": ("data.1.args.root=x", '--set data.1.args.root=x: data is a list of 1; it has no "1"'),
    "fault24-inside-a-number": (
        "trainer.epochs.x=3",
        '--set trainer.epochs.x=3: trainer.epochs is a whole number; it has no "x"',
    ),
    "fault5-nan": (
        "optimizer.args.lr=NaN",
        '--set optimizer.args.lr=NaN: optimizer.args.lr = "NaN" is text; it must be a valid number',
    ),
    "fault10": ("trainer.epochs=-1", "--set trainer.epochs=-1: trainer.epochs = -1 must be greater than 0"),
}


@pytest.mark.parametrize(("text", "message"), BAD_OVERRIDES.values(), ids=BAD_OVERRIDES)
def test_overrides_that_cannot_be(text: str, message: str) -> None:
    [line] = lines_of(lambda: read("config.json", text))
    assert line.startswith(message)
    assert exit_code_of(lambda: read("config.json", text)) == 2


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
    assert lines[1] == 'x.json: trainer = [{"token": "(hidden)"}] is a list; an object is expected'


def test_innocent_values_are_no_credentials() -> None:
    write("x.json", edited("trainer.save_dir", "runs/" + "0123456789abcdef" * 3) | {"name": "tokens and passwords"})
    read("x.json")
