"""Files are whole or absent."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import pytest

from utils import files
from utils.files import link_or_copy, obstacle_to_replacing, write_atomically


def test_it_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "file"
    write_atomically(path, b"first")
    write_atomically(path, b"second")
    assert path.read_bytes() == b"second"
    assert [file.name for file in path.parent.iterdir()] == ["file"]


def test_others_may_read_what_the_umask_lets_them(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_atomically(tmp_path / "file", b"text")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_earlier_file_and_no_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"first")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, step, fail)
    if step == "replace":
        monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"second")
    monkeypatch.undo()
    assert path.read_bytes() == b"first"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_link_stays_and_the_file_behind_it_is_written(tmp_path: Path) -> None:
    for number, behind in enumerate(("there", "new folder/not yet")):
        link = tmp_path / f"link {number}"
        link.symlink_to(tmp_path / behind)
        write_atomically(tmp_path / "there", b"first")
        write_atomically(link, b"second")
        assert link.is_symlink()
        assert (tmp_path / behind).read_bytes() == b"second"


def test_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    write_atomically(tmp_path / "file", b"text")
    for path in (pipe, link):
        with pytest.raises(OSError, match="is no regular file"):
            write_atomically(path, b"text")
        with pytest.raises(OSError, match="is no regular file"):
            link_or_copy(tmp_path / "file", path)
        assert obstacle_to_replacing(path) == "is no regular file, but a device, a pipe or the like"
    assert pipe.is_fifo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link", "pipe"]


def test_what_is_linked_does_not_follow_the_other_though_it_did(tmp_path: Path) -> None:
    write_atomically(tmp_path / "last", b"first")
    (tmp_path / "best").symlink_to("last")
    link_or_copy(tmp_path / "last", tmp_path / "best")
    write_atomically(tmp_path / "last", b"second")
    assert (tmp_path / "best").read_bytes() == b"first"


def test_what_must_not_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("text")
    (tmp_path / "link.csv").symlink_to("table.csv")
    read = [tmp_path / "gone.csv", tmp_path / "table.csv"]
    for name in ("table.csv", "link.csv", "./table.csv"):
        assert "is what this command reads" in (obstacle_to_replacing(tmp_path / name, read) or "")
        assert obstacle_to_replacing(tmp_path / name) is None
        assert "is nothing that this command writes" in (obstacle_to_replacing(tmp_path / name, suffix=".json") or "")
    assert obstacle_to_replacing(tmp_path / "gone.csv", read) is None
    for name in ("model_best.pth", "config.json", "face.jpg"):
        assert obstacle_to_replacing(tmp_path / name, suffix=".json") is None
        (tmp_path / name).write_text("precious")
        assert "is nothing that this command writes" in (obstacle_to_replacing(tmp_path / name, suffix=".json") or "")
    assert "is a folder" in (obstacle_to_replacing(tmp_path) or "")


@pytest.mark.parametrize("has_links", [True, False])
def test_a_link_or_a_copy_is_the_same_file_and_outlives_a_rewrite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    def no_link(*_: object) -> None:
        raise PermissionError

    if not has_links:
        monkeypatch.setattr(files.os, "link", no_link)
    write_atomically(tmp_path / "last", b"first")
    write_atomically(tmp_path / "best", b"old")
    for _ in range(2):  # rename(2) does nothing where both names are one file already
        link_or_copy(tmp_path / "last", tmp_path / "best")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "last"]
    assert (tmp_path / "best").read_bytes() == b"first"
    write_atomically(tmp_path / "last", b"second")
    assert (tmp_path / "best").read_bytes() == b"first"


def test_what_a_killed_writer_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    path, own = tmp_path / "last.pth", f"{platform.node()}-{os.getpid()}-0123abcd"
    dead, zombie = subprocess.Popen(["true"]), subprocess.Popen(["true"])
    dead.wait()
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)  # its parent has not asked for its end
    left = [
        f".last.pth.{platform.node()}-{dead.pid}-0123abcd.tmp",
        ".last.pth.elsewhere-1-0123abcd.tmp",
        f".last.pth.{platform.node()}-{zombie.pid}-0123abcd.tmp",
    ]
    kept = [f".last.pth.{own}.tmp", ".last.pth.elsewhere-2-0123abcd.tmp", ".best.pth.123-4.tmp"]
    for name in [*left, *kept]:
        (tmp_path / name).write_bytes(b"half")
    os.utime(tmp_path / left[1], (0, 0))
    write_atomically(path, b"whole")
    zombie.wait()
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([*kept, path.name])


def test_a_file_that_begins_otherwise_is_somebody_else_s(tmp_path: Path) -> None:
    for text, is_ours in (('{\n    "format": 1}', True), ("", True), ('{"name": "Mine"}', False), ("\x89PNG", False)):
        (tmp_path / "tuned.json").write_text(text)
        assert (obstacle_to_replacing(tmp_path / "tuned.json", (), ".json", '{"format":') is None) == is_ours
