"""Absolute paths and signatures, against the standard library's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from data_loader.records.file_signatures import NO_SIGNATURE, absolute_paths, signatures_of

PATHS = [
    "a.jpg", "a/b.jpg", "./a/./b.jpg", "a//b.jpg", "../b.jpg", "a/../../b.jpg", "/", "//", "///", "//a/b",
    "///a/b", "/a/b.jpg", "/a/../b.jpg", "/../a", "/a/./b/", "a..b.jpg", "..a/b", ".a/b", "a/.b", "a ", " /a", "~/a",
    "\u00e9/\n",
]  # fmt: skip


@pytest.mark.parametrize("here", ["/", "/tmp", None])
def test_paths_are_those_of_the_library(here: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here or tmp_path)
    paths = [Path(text) for text in PATHS]
    assert absolute_paths(paths) == [os.path.abspath(path) for path in paths]  # noqa: PTH100


def test_a_path_through_a_link_and_back_is_the_file_that_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `link/../d` names is beside the folder that the link leads to, not beside the link."""
    (tmp_path / "real" / "sub").mkdir(parents=True)
    (tmp_path / "real" / "d").mkdir()
    (tmp_path / "d").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "sub")
    (tmp_path / "here").symlink_to(tmp_path / "d")
    for number, folder in enumerate(("real/d", "d")):
        (tmp_path / folder / "a.jpg").write_text(str(number))
    monkeypatch.chdir(tmp_path)
    paths = [
        Path("link/../d/a.jpg"),
        tmp_path / "link/../d/a.jpg",
        Path("d/../d/a.jpg"),
        tmp_path / "here/../here/a.jpg",
    ]
    found = absolute_paths(paths)
    for path, text in zip(paths, found, strict=True):
        assert Path(text).read_text() == path.read_text()
        assert ".." not in text
    assert found[2:] == [str(tmp_path / "d/a.jpg"), str(tmp_path / "here/a.jpg")]


def test_signatures(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    assert signatures_of([str(file)]) == {str(file): NO_SIGNATURE}
    file.write_bytes(b"12345")
    os.utime(file, ns=(1, 123_456_789_012_345_678))
    (tmp_path / "link").symlink_to(file)
    paths = [str(file), str(tmp_path / "link"), "a\0b", str(file / "below"), ""]
    signature = (5, 123_456_789_012_345_678)
    assert signatures_of(paths) == dict(
        zip(paths, [signature, signature, NO_SIGNATURE, NO_SIGNATURE, NO_SIGNATURE], strict=True)
    )
