"""The files that paths name: inside the root, with links and other spellings."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from data_loader.records.image_root import ImageRoot

KOREAN = "사진"


def _touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_files_are_found(tmp_path: Path) -> None:
    for name in ("a.jpg", "b/c d 😷.png", "-5.jpg", "=1+1.jpg"):
        _touch(tmp_path / name)
        assert ImageRoot(tmp_path).find(name) == tmp_path / name


@pytest.mark.parametrize(
    ("relative", "word"),
    [
        ("", "empty"),
        ("../x.jpg", "leaves"),
        ("a/../../x.jpg", "leaves"),
        ("/etc/passwd", "leaves"),
        ("C:/x.jpg", "leaves"),
        (".", "leaves"),
        ("a\\x.jpg", '"/"'),
        ("folder", "is not a file"),
        ("pipe", "is not a file"),
        ("gone.jpg", "is missing"),
        ("x" * 300, "is missing"),
        ("to nothing.jpg", "is missing"),
    ],
)
def test_what_is_refused(tmp_path: Path, relative: str, word: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "to nothing.jpg").symlink_to("nothing")
    with pytest.raises(ValueError, match=word):
        ImageRoot(tmp_path).find(relative)


def test_links_may_lead_out_of_the_root_only_where_that_is_allowed(tmp_path: Path) -> None:
    blob = _touch(tmp_path / "blobs" / "0a1b")
    root = tmp_path / "data"
    _touch(root / "real.jpg")
    (root / "inside.jpg").symlink_to("real.jpg")
    (root / "out.jpg").symlink_to(blob)
    (root / "folder").symlink_to(blob.parent)
    strict, open_ = ImageRoot(root), ImageRoot(root, allow_links=True)
    assert strict.find("inside.jpg") == root / "inside.jpg"
    for relative in ("out.jpg", "folder/0a1b"):
        with pytest.raises(ValueError, match="allow_links"):
            strict.find(relative)
        assert open_.find(relative) == root / relative
    with pytest.raises(ValueError, match="leaves"):
        open_.find("../blobs/0a1b")


def test_paths_are_absolute_and_name_the_file_that_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`link/..` is the folder that holds what the link leads to, not the folder of the link."""
    _touch(tmp_path / "real" / "sub" / "b.jpg")
    _touch(tmp_path / "real" / "d" / "a.jpg")
    _touch(tmp_path / "d" / "a.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "real" / "sub")
    (tmp_path / "here").symlink_to(tmp_path / "d")
    monkeypatch.chdir(tmp_path)
    for root, expected in {"d": "d", "./here/": "here", "link/../d": "real/d", "link": "link"}.items():
        name = "b.jpg" if root == "link" else "a.jpg"
        path = ImageRoot(Path(root)).find(f"./{name}")
        assert path == tmp_path / expected / name
        assert path.samefile(Path(root) / name)


@pytest.mark.parametrize(("on_disk", "in_table"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_letters_are_compared_as_they_look(tmp_path: Path, on_disk: str, in_table: str) -> None:
    there = unicodedata.normalize(on_disk, f"{KOREAN}/{KOREAN}0.png")  # type: ignore[arg-type]
    asked = unicodedata.normalize(in_table, f"{KOREAN}/{KOREAN}0.png")  # type: ignore[arg-type]
    _touch(tmp_path / there)
    assert there != asked
    assert ImageRoot(tmp_path).find(asked) == tmp_path / there


def test_an_extension_may_be_left_out_where_one_image_is_meant(tmp_path: Path) -> None:
    for name in ("one.JPG", "two.jpg", "two.png", "three.txt", "four"):
        _touch(tmp_path / name)
    root = ImageRoot(tmp_path)
    assert root.find("one") == tmp_path / "one.JPG"
    assert root.find("four") == tmp_path / "four"
    for relative in ("two", "three"):
        with pytest.raises(ValueError, match="missing"):
            root.find(relative)
