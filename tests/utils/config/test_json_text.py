"""The strict reader: each refusal has its line and column; whatever it takes equals what Python's own reader gives."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from utils.config.json_text import parse_json, read_json
from utils.errors import ConfigError

REFUSED = {
    "fault1-empty": ("", "x.json:1:1: the file is empty; it must hold a JSON object, {...}"),
    "fault1-only-a-comment": ("// nothing\n", "x.json:1:1: the file is empty; it must hold a JSON object, {...}"),
    "fault2-trailing-comma": ('{\n  "a": 1,\n}', "x.json:2:9: a comma before } is one too many; remove it"),
    "fault2-trailing-comma-in-list": ('{"a": [1, 2, ]}', "x.json:1:12: a comma before ] is one too many; remove it"),
    "fault2-trailing-comma-before-comment": (
        '{"a": 1, // the last\n}',
        "x.json:1:8: a comma before } is one too many; remove it",
    ),
    "fault2-unclosed-brace": ('{\n  "a": {"b": 1\n}\n', "x.json:3:2: the file ends, but the { of line 1 is not closed"),
    "fault2-unclosed-list": ('{"a": [1,\n 2', "x.json:2:3: the file ends, but the [ of line 1 is not closed"),
    "fault2-unclosed-comment": ('{"a": 1}\n /* no end', "x.json:2:2: this /* comment is never closed"),
    "fault2-second-value": ('{"a": 1} {"b": 2}', "x.json:1:10: there is more text after the end of the value"),
    "fault2-missing-comma": ('{"a": 1\n "b": 2}', "x.json:2:2: not valid JSON: expecting ',' delimiter"),
    "fault4-duplicate": (
        '{\n  "a": 1, // "b"\n  "b": 2,\n  "a": 3}',
        'x.json:4:3: duplicate key "a", first on line 2; keep one of them',
    ),
    "fault4-duplicate-inside": (
        '{"a": [{"k": 1, "\\u006b": 2}], "k": 3}',
        'x.json:1:17: duplicate key "\\u006b", first on line 1; keep one of them',
    ),
    "fault5-nan": ('{"a": NaN}', "x.json:1:7: NaN is not a finite number"),
    "fault5-infinity": ('{"a": 1,\n "b": -Infinity}', "x.json:2:7: -Infinity is not a finite number"),
    "fault5-1e999": ('{"a": [0, 1e999]}', "x.json:1:11: 1e999 is not a finite number"),
    "fault5-endless-digits": ('{"a": ' + "9" * 5000 + "}", f"x.json:1:7: {'9' * 20} is not a finite number"),
    "fault6-nesting": ('{"a": ' + "[" * 100_000, "x.json:1:56: nested more than 50 levels deep"),
    "half-a-surrogate-pair": ('{"a": "\\ud800"}', "x.json:1:7: this text holds half a surrogate pair"),
    "a-list": ("[1, 2]", "x.json:1:1: the file must hold an object, {...}, not a list"),
}


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_refusals_name_line_and_column(in_tmp: Path, text: str, message: str) -> None:
    (in_tmp / "x.json").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        read_json(Path("x.json"))


def test_fault3_other_encodings_are_named_with_their_line(in_tmp: Path) -> None:
    (in_tmp / "x.json").write_bytes(b'{\n"a": "' + "마스크".encode("cp949") + b'"}')
    with pytest.raises(ConfigError, match=r"^x\.json:2: is not UTF-8 \(byte 0xb8\); save the file as UTF-8$"):
        read_json(Path("x.json"))
    (in_tmp / "x.json").write_bytes('{"a": 1}'.encode("utf-16"))
    with pytest.raises(ConfigError, match=r"^x\.json:1: is not UTF-8"):
        read_json(Path("x.json"))


def test_fault3_a_byte_order_mark_and_comments_are_fine(in_tmp: Path) -> None:
    text = '/* a\n b */ {"a": "x // y /* z */", // "b": 0,\n "마스크": ["\\"//", 1e3 /* , 2 */]}'
    (in_tmp / "x.json").write_text(text, encoding="utf-8-sig")
    assert read_json(Path("x.json")) == {"a": "x // y /* z */", "마스크": ['"//', 1000.0]}


def test_missing_file_names_its_neighbour(in_tmp: Path) -> None:
    (in_tmp / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match=r'^confg\.json: there is no such file; did you mean "config\.json"\?$'):
        read_json(Path("confg.json"))
    with pytest.raises(ConfigError, match=r"^\.: cannot be read: Is a directory$"):
        read_json(Path())


def test_all_duplicates_and_all_numbers_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_json('{"a": 1, "a": 2, "a": 3}', "x")
    assert str(caught.value).count("\n") == 1
    with pytest.raises(ConfigError) as caught:
        parse_json("[NaN, 1e999]", "x")
    assert str(caught.value).count("\n") == 1


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, -2.5, 1e-9, True, None], "b": {"c": "NaN", "d": "1e999"}},
        {"": {"a": {"a": {"a": []}}}, "text": 'a "quoted" \\ // /* */ \n \t 😀', "big": 2**60},
        [{"a": 1}, {"a": 2}],
    ],
    ids=["numbers", "texts", "same key in two objects"],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_plain_json_is_read_as_python_reads_it(value: object, indent: int | None) -> None:
    for ascii_only in (True, False):
        text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
        assert parse_json(text, "x") == json.loads(text) == value


def test_nesting_up_to_the_limit_is_read() -> None:
    assert json.dumps(parse_json("[" * 50 + "]" * 50, "x")) == "[" * 50 + "]" * 50
