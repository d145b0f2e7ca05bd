"""Tables: every kind of file that is read, rows counted as a spreadsheet does, and what is refused."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import pytest

from data_loader.records.tables import as_cell, find_column, read_table
from utils.errors import DataError

CELLS = [["path", "mask", "note"], ["a.jpg", "wear", "one, two"], ["얼굴 하나 😷.jpg", "", "NA"]]
EXPECTED = [(number, dict(zip(CELLS[0], row, strict=True))) for number, row in enumerate(CELLS[1:], start=2)]


def _write(path: Path, separator: str = ",") -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=separator).writerows(CELLS)


def _refusal(path: Path, *columns: str) -> str:
    with pytest.raises(DataError) as caught:
        read_table(path, columns)
    assert caught.value.exit_code == 3
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_what_is_read(tmp_path: Path) -> None:
    _write(tmp_path / "t.csv")
    _write(tmp_path / "t.tsv", "\t")
    (tmp_path / "marked.csv").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "t.csv").read_bytes())
    for name in ("t.csv", "t.tsv"):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    for name in ("t.csv", "t.tsv", "t.csv.gz", "t.tsv.gz", "marked.csv"):
        assert read_table(tmp_path / name, ["mask"]) == EXPECTED


def test_parquet_is_read_where_its_engine_is(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        path.write_bytes(b"PAR1")
        assert "pip install pyarrow" in _refusal(path)
        return
    import pandas

    pandas.DataFrame({"path": ["a.jpg", "b.jpg"], "age": [30, None]}).to_parquet(path)
    assert [cells for _, cells in read_table(path)] == [{"path": "a.jpg", "age": "30.0"}, {"path": "b.jpg", "age": ""}]


def test_rows_are_numbered_as_a_spreadsheet_does(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('path,note\n\n a.jpg ,"two\nlines"\n,\nb.jpg,\n')
    assert read_table(tmp_path / "t.csv") == [
        (3, {"path": "a.jpg", "note": "two\nlines"}),
        (5, {"path": "b.jpg", "note": ""}),
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["no rows"]),
        (b"path,mask\n", ["no rows"]),
        (b"path,mask\n\n,\n", ["no rows"]),
        (b"paht,mask\na,b\n", ['"path"', "paht, mask", 'did you mean "paht"']),
        (b"path,mask,mask\na,b,c\n", ['"mask" 2 times']),
        (b"path;mask\na;b\n", ['"path"', "path;mask"]),
        (b"path,mask\na.jpg,wear,7\n", ["row 2", "3 cells", "2", "quoted"]),
        (b"path,mask\na.jpg,wear\nb.jpg\n", ["row 3", "1 cells"]),
        (b'path,mask\n"a.jpg,wear\n', ["row 2", "not CSV"]),
        (b"path,mask\na.jpg,we\0ar\n", ["row 2", "NUL"]),
        ("path,mask\n얼굴.jpg,wear\n".encode("utf-16"), ["row 1", "save it as UTF-8"]),
        ("path,mask\na.jpg,wear\n".encode("utf-16-le"), ["row 1", "save it as UTF-8"]),
        ("path,mask\n마스크 얼굴.jpg,wear\n".encode("cp949"), ["row 2", "save it as UTF-8"]),
        (b"path,mask\n\xff\xe9,wear\n", ["row 2", "save it as UTF-8"]),
        (b"PK\x03\x04 and so on", ["spreadsheet", "save it as CSV"]),
        (b"\xd0\xcf\x11\xe0 and so on", ["spreadsheet", "save it as CSV"]),
        (gzip.compress(b"path\na.jpg\n", mtime=0)[:-6], ["damaged"]),
    ],
)
def test_what_is_refused(tmp_path: Path, content: bytes, words: list[str]) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    refusal = _refusal(tmp_path / "t.csv", "path")
    assert all(word in refusal for word in words), refusal
    assert "\n" not in refusal


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "no such file" in _refusal(tmp_path / "gone.csv")


def test_a_column_that_two_may_be_is_asked_for() -> None:
    with pytest.raises(DataError, match=r"t\.csv.*Subject.*Patient.*person_column"):
        find_column(Path("t.csv"), ["Subject", "Patient"], "person", "person_column")


def test_formulas_are_not_written() -> None:
    for text in ("=1+1", "+1", "-1.jpg", "@a", "\ta", "\ra"):
        assert as_cell(text) == f"'{text}"
    assert as_cell("a=1") == "a=1"
