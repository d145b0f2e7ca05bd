"""A run's folders: new, sorted by time, never two runs in one."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from utils import files, run_folders
from utils.errors import ConfigError, StorageFullError
from utils.run_folders import new_run, read_kept_config, runs_named


def test_runs_of_one_moment_get_folders_of_their_own_that_sort_by_time(tmp_path: Path) -> None:
    runs = [new_run(tmp_path, "Name") for _ in range(12)]
    names = [run.run for run in runs]
    assert len(set(names)) == 12
    assert names == sorted(names)
    assert all(re.fullmatch(r"[0-9-]+", name) for name in names)
    assert all(run.models.is_dir() and run.log.is_dir() for run in runs)


def test_the_newest_run_comes_first_with_its_config(tmp_path: Path) -> None:
    runs = [new_run(tmp_path, "Name") for _ in range(3)]
    for number, run in enumerate(runs[:2]):
        run.write_config({"number": number, "text": "가"})
    found = runs_named(tmp_path, "Name")
    assert [run.run for run in found] == [run.run for run in reversed(runs)]
    kept = [read_kept_config(run.models) for run in found]
    assert [config and config["number"] for config in kept] == [None, 1, 0]
    assert json.loads((runs[0].models / "config.json").read_text(encoding="utf-8"))["text"] == "가"
    assert runs_named(tmp_path, "Other") == []


def test_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "saved").write_text("")
    with pytest.raises(ConfigError, match=r"trainer\.save_dir"):
        new_run(tmp_path / "saved", "Name")


def test_what_stands_in_the_way_of_writing_is_found_without_a_trace(tmp_path: Path) -> None:
    assert run_folders.obstacle_to_writing(tmp_path / "a" / "b") is None
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    assert "file" in str(run_folders.obstacle_to_writing(tmp_path / "file" / "b"))


@pytest.mark.parametrize(("number", "kind"), [(28, StorageFullError), (27, StorageFullError), (13, ConfigError)])
def test_a_disk_that_takes_no_config_is_told_in_one_line(
    number: int, kind: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, _data: bytes) -> None:
        raise OSError(number, os.strerror(number), str(path))

    run = new_run(tmp_path, "Name")
    monkeypatch.setattr(files, "_write_and_flush", fail)
    with pytest.raises(kind) as caught:
        run.write_config({})
    assert str(caught.value).startswith(f"{run.models / 'config.json'}: ")
    assert len(str(caught.value).splitlines()) == 1
