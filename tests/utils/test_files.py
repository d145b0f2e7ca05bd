"""Files are whole or absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from utils import files
from utils.files import link_or_copy, write_atomically


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
    link_or_copy(tmp_path / "last", tmp_path / "best")
    assert (tmp_path / "best").read_bytes() == b"first"
    write_atomically(tmp_path / "last", b"second")
    assert (tmp_path / "best").read_bytes() == b"first"
