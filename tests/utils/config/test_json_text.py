"""The strict reader: what it refuses; whatever it accepts equals what Python's own reader gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from utils.config.json_text import parse_json, read_json
from utils.errors import ConfigError

REFUSED = {
    "fault1-empty": ("", ":1:1: ", "empty"),
    "fault1-only-a-comment": ("// nothing\n", "", "empty"),
    "fault2-trailing-comma": ('{\n  "a": 1,\n}', ":3:1: ", "remove it"),
    "fault2-trailing-comma-in-list": ('{"a": [1, 2, ]}', ":1:14: ", "remove it"),
    "fault2-trailing-comma-before-comment": ('{"a": 1, // the last\n}', ":2:1: ", "remove it"),
    "fault2-unclosed-brace": ('{\n  "a": {"b": 1\n}\n', ":4:1: ", "not closed"),
    "fault2-unclosed-list": ('{"a": [1,\n 2', ":2:3: ", "not closed"),
    "fault2-unclosed-comment": ('{"a": 1}\n /* no end', ":2:2: ", "not valid JSON"),
    "fault2-second-value": ('{"a": 1} {"b": 2}', ":1:10: ", "not valid JSON"),
    "fault2-missing-comma": ('{"a": 1\n "b": 2}', ":2:2: ", "','"),
    "fault4-duplicate": ('{\n  "a": 1, // "b"\n  "b": 2,\n  "a": 3}', ": ", 'duplicate key "a"'),
    "fault4-duplicate-inside": ('{"a": [{"k": 1, "\\u006b": 2}], "k": 3}', ": ", '"k" in {"k": 2}'),
    "half-a-surrogate-pair": ('{"a": "\\ud800"}', ": ", "ud800"),
    "fault5-nan": ('{"a": NaN}', ": ", "NaN is not a finite number"),
    "fault5-infinity": ('{"a": 1,\n "b": -Infinity}', ": ", "-Infinity is not"),
    "fault5-1e999": ('{"a": [0, 1e999]}', ": ", "1e999 is not"),
    "fault5-endless-digits": ('{"a": ' + "9" * 5000 + "}", ": ", "digits"),
    "fault6-nesting": ('{"a": ' + "[" * 100_000, ": ", "50 levels"),
    "a-list": ("[1, 2]", ":1:1: ", "a list"),
}


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("text", "position", "word"), REFUSED.values(), ids=REFUSED)
def test_refusals(in_tmp: Path, text: str, position: str, word: str) -> None:
    (in_tmp / "x.json").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_json(Path("x.json"))
    assert str(caught.value).startswith(f"x.json{position}")
    assert word in str(caught.value)


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
