"""Strict JSON, with comments: the reader of every file that a user writes by hand.

`//` and `/* */` comments and a byte order mark are fine. What Python's own reader takes is refused: duplicate keys, NaN
and infinities, numbers too large for a float, text that is no Unicode, nesting without end. Each error has its line and
column.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils.errors import ConfigError
from utils.wording import did_you_mean, kind

DEEPEST_NESTING = 50
NOT_JSON = "not valid JSON: "

# A string is matched first, so that what looks like a comment inside it is left alone.
_STRING = r'"(?:[^"\\\n]|\\.)*"'
_STRING_OR_COMMENT = re.compile(rf"{_STRING}|//[^\n]*|/\*.*?(?:\*/|\Z)", re.DOTALL)
_TOKEN = re.compile(rf"(?P<string>{_STRING})|(?P<mark>[{{}}\[\]:])|(?P<word>-?[A-Za-z0-9][A-Za-z0-9.+-]*)")


class JsonError(ConfigError):
    """A text is no JSON.

    reasons: what is wrong, without the places.
    """

    def __init__(self, name: str, text: str, found: Sequence[tuple[int, str]]) -> None:
        """found: position in the text, and reason."""
        super().__init__(
            "\n".join(f"{name}:{_line_and_column(text, position)}: {reason}" for position, reason in found)
        )
        self.reasons = [reason for _, reason in found]


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds. Raises ConfigError, a line for each problem: `file:line:column: ...`."""
    if not path.exists():
        neighbours = [other.name for other in path.parent.glob("*.json")] if path.parent.is_dir() else []
        raise ConfigError(f"{path}: there is no such file{did_you_mean(path.name, neighbours)}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{path}:{line}: is not UTF-8 (byte {data[error.start]:#04x}); save the file as UTF-8"
        ) from None
    value = parse_json(text, str(path))
    if not isinstance(value, dict):
        raise ConfigError(f"{path}:1:1: the file must hold an object, {{...}}, not {kind(value)}")
    return value


def parse_json(text: str, name: str) -> Any:
    """The value of a JSON text; `name` is what errors call it. Raises JsonError."""
    # Comments are blanked out, so that every position stays where the user sees it.
    unclosed = [each.start() for each in _STRING_OR_COMMENT.finditer(text) if _is_open_comment(each.group())]
    if unclosed:
        raise JsonError(name, text, [(unclosed[0], "this /* comment is never closed")])
    text = _STRING_OR_COMMENT.sub(lambda found: _blanked(found.group()), text)
    if not text.strip():
        raise JsonError(name, text, [(0, "the file is empty; it must hold a JSON object, {...}")])
    tokens = list(_TOKEN.finditer(text))
    opened, found = _nesting_and_numbers(tokens)
    if found:
        raise JsonError(name, text, found)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise JsonError(name, text, [_explained(error, text, opened)]) from None
    found = _keys_and_texts(tokens, text)
    if found:
        raise JsonError(name, text, found)
    return value


def _is_open_comment(found: str) -> bool:
    return found.startswith("/*") and (len(found) < 4 or not found.endswith("*/"))


def _blanked(found: str) -> str:
    return found if found.startswith('"') else re.sub(r"[^\n]", " ", found)


def _line_and_column(text: str, position: int) -> str:
    return f"{_line(text, position)}:{position - text.rfind(chr(10), 0, position)}"


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def _nesting_and_numbers(tokens: Sequence[re.Match[str]]) -> tuple[list[int], list[tuple[int, str]]]:
    """The positions of the brackets that are never closed, and what is wrong."""
    opened: list[int] = []
    problems: list[tuple[int, str]] = []
    for token in tokens:
        found = token.group()
        if found in "{[":
            opened.append(token.start())
            if len(opened) > DEEPEST_NESTING:
                return opened, [(token.start(), f"nested more than {DEEPEST_NESTING} levels deep")]
        elif found in "}]" and opened:
            opened.pop()
        elif token["word"] and not _is_finite(found):
            problems.append((token.start(), f"{found[:20]} is not a finite number"))
    return opened, problems


def _keys_and_texts(tokens: Sequence[re.Match[str]], text: str) -> list[tuple[int, str]]:
    """Duplicate keys, and halves of surrogate pairs, which no file and no terminal can take."""
    problems: list[tuple[int, str]] = []
    keys: list[dict[str, int]] = []
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        found = token.group()
        if found in "{[":
            keys.append({})
        elif found in "}]":
            keys.pop()
        elif token["string"]:
            value = json.loads(found)
            if any("\ud800" <= character <= "\udfff" for character in value):
                problems.append((token.start(), "this text holds half a surrogate pair"))
            if following is not None and following.group() == ":":
                if value in keys[-1]:
                    first = _line(text, keys[-1][value])
                    problems.append((token.start(), f"duplicate key {found}, first on line {first}; keep one of them"))
                keys[-1].setdefault(value, token.start())
    return problems


def _explained(error: json.JSONDecodeError, text: str, unclosed: Sequence[int]) -> tuple[int, str]:
    """Where a JSON reader's error really is, and in words that say what to do."""
    position, before = error.pos, text[: error.pos].rstrip()
    comma = position if text[position : position + 1] == "," else len(before) - 1
    after_comma = text[comma + 1 :].lstrip()[:1]
    if text[comma : comma + 1] == "," and after_comma and after_comma in "}]":
        return comma, f"a comma before {after_comma} is one too many; remove it"
    if not text[position:].strip() and unclosed:
        bracket = text[unclosed[-1]]
        return len(before), f"the file ends, but the {bracket} of line {_line(text, unclosed[-1])} is not closed"
    if error.msg == "Extra data":
        return position, "there is more text after the end of the value"
    reason = error.msg.removesuffix(" at").removesuffix(" starting")  # which the position says
    return position, f"{NOT_JSON}{reason[0].lower()}{reason[1:]}"


def _is_finite(word: str) -> bool:
    """False for NaN, Infinity and numbers beyond a float; other words are left to the JSON reader."""
    try:
        return math.isfinite(float(word))
    except ValueError:
        return True
