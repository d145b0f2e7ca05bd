"""run.json, read back from the disk; git is asked of a repository that the test makes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from experiment.run_record import RunRecord, changes, code_state, leaves, read_record
from experiment.schema import SECTIONS
from parse_config import ConfigParser
from utils.config.layers import Override
from utils.run_folders import RunFolders

DEMO = Path("configs/demo.json")


def test_two_sessions_of_a_run(tmp_path: Path) -> None:
    folders = RunFolders.in_save_dir(tmp_path, "demo", "r1")
    folders.models.mkdir(parents=True)
    config = ConfigParser.from_file(DEMO, SECTIONS, [Override("optimizer.args.lr", "0.5", "--lr 0.5")])
    record = RunRecord(folders.models)
    record.begin(folders, config, "train.py -c configs/demo.json --lr 0.5", {"validation": "abc"}, DEMO)
    (session,) = read_record(folders.models)["sessions"]
    assert (session["outcome"], session["ended"]) == ("running", None)
    record.end("StopSignal")
    again = RunRecord(folders.models)
    again.begin(folders, config, "train.py --resume r1", {"validation": "abc"}, None)
    again.end("finished")

    stored = json.loads((folders.models / "run.json").read_text(encoding="utf-8"))
    assert [each["outcome"] for each in stored["sessions"]] == ["StopSignal", "finished"]
    assert [each["command"] for each in stored["sessions"]] == [
        "train.py -c configs/demo.json --lr 0.5",
        "train.py --resume r1",
    ]
    assert stored["digests"] == {"validation": "abc"}
    assert stored["origins"]["optimizer.args.lr"] == "--lr 0.5"
    assert stored["origins"]["trainer.epochs"] == "configs/demo.json"
    assert stored["changes"]["optimizer.args.lr"] == 0.5  # of the first session: the second brings no files
    assert stored["sessions"][0]["versions"]["torch"]


def test_a_damaged_record_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"sessions": [', encoding="utf-8")
    assert RunRecord(tmp_path).content == {}


def test_changes_are_what_differs_from_what_the_config_extends(tmp_path: Path) -> None:
    """Neither what lies deeper, nor the defaults of another type, nor a value that is the same."""
    middle, other, top = (tmp_path / name for name in ("middle.json", "other.json", "top.json"))
    middle.write_text(json.dumps({"extends": str(DEMO.resolve()), "seed": 7}), encoding="utf-8")
    other.write_text(json.dumps({"trainer": {"early_stop": 5}}), encoding="utf-8")
    values = {"trainer": {"epochs": 3, "early_stop": 5}, "seed": 7, "optimizer": {"type": "RMSprop"}}
    top.write_text(json.dumps({"extends": ["middle.json", "other.json"]} | values), encoding="utf-8")
    config = ConfigParser.from_file(top, SECTIONS, [Override("data_loader.args.batch_size", "5")])
    expected = {"trainer.epochs": 3, "data_loader.args.batch_size": 5, "optimizer.type": "RMSprop"}
    before = {"trainer.epochs": 12, "data_loader.args.batch_size": 16, "optimizer.type": "AdamW"}
    assert changes(config, top) == (expected, before)
    flags = ConfigParser.from_file(Path("config.json"), SECTIONS, [Override("seed", "8")])
    assert changes(flags, Path("config.json")) == ({"seed": 8}, {"seed": 42})


def test_a_resumed_run_still_knows_what_set_its_values(tmp_path: Path) -> None:
    folders = RunFolders.in_save_dir(tmp_path, "demo", "r1")
    folders.models.mkdir(parents=True)
    config = ConfigParser.from_file(DEMO, SECTIONS, [Override("optimizer.args.lr", "0.5", "--lr 0.5")])
    RunRecord(folders.models).begin(folders, config, "train.py", {}, DEMO)
    first = read_record(folders.models)
    longer = [Override("trainer.epochs", "80")]
    resumed = ConfigParser.from_dict(config.resolved, SECTIONS, f"run {folders.models}", longer)
    RunRecord(folders.models).begin(folders, resumed, "train.py --resume", {}, None)
    second = read_record(folders.models)
    assert second["origins"] == first["origins"] | {"trainer.epochs": "--set trainer.epochs=80"}
    assert second["changes"] == first["changes"] | {"trainer.epochs": 80}


def test_leaves_of_plain_data() -> None:
    data = {"a": {"b": [1, {"c": None}], "d": {}}, "e": []}
    assert dict(leaves(data)) == {"a.b.0": 1, "a.b.1.c": None, "a.d": {}, "e": []}


def test_the_state_of_the_code(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    assert code_state(tmp_path) is None
    git("init", "-q")
    (tmp_path / "a.py").write_text("a = 1\n")
    git("add", ".")
    git("commit", "-qm", "first")
    clean = code_state(tmp_path)
    assert clean == {"commit": git("rev-parse", "HEAD").strip(), "local_changes": None}
    states = []
    for text in ("a = 2\n", "a = 3\n"):
        (tmp_path / "a.py").write_text(text)
        states.append(code_state(tmp_path))
    (tmp_path / "new.py").write_text("b = 1\n")
    states.append(code_state(tmp_path))
    assert len({str(state) for state in states}) == 3
    assert all(state is not None and state["local_changes"] for state in states)


def test_a_full_disk_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    folders = RunFolders.in_save_dir(tmp_path, "demo", "r1")
    monkeypatch.setattr("experiment.run_record.write_atomically", full)
    record = RunRecord(folders.models)
    record.begin(folders, ConfigParser.from_file(DEMO, SECTIONS), "train.py", {}, None)
    assert "No space left" in caplog.text
