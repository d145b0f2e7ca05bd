"""Strict JSON, with comments: the reader of every file that a user writes by hand.

`//` and `/* */` comments and a byte order mark are fine. What Python's own reader passes over is refused: duplicate
keys, NaN and infinities, numbers too large for a float, text that is no Unicode, nesting without end. Each error has
its line and column.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any, NoReturn

from utils.errors import ConfigError
from utils.wording import did_you_mean, kind

DEEPEST_NESTING = 50

# A string is matched first, so that what looks like a comment inside it is left alone.
_STRING = r'"(?:[^"\\\n]|\\.)*"'
_STRING_OR_COMMENT = re.compile(rf"{_STRING}|//[^\n]*|/\*.*?(?:\*/|\Z)", re.DOTALL)
_TOKEN = re.compile(rf"(?P<string>{_STRING})|(?P<mark>[{{}}\[\]:])|(?P<word>-?[A-Za-z0-9][A-Za-z0-9.+-]*)")


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
    """The value of a JSON text; `name` is what errors call it. Raises ConfigError."""
    return _Reader(text, name).value()


class _Reader:
    """One text. Comments are blanked out, so that every position stays where the user sees it."""

    def __init__(self, text: str, name: str) -> None:
        self.name = name
        self.text = text
        self.text = _STRING_OR_COMMENT.sub(self._blank, text)
        self.tokens = list(_TOKEN.finditer(self.text))

    def _blank(self, match: re.Match[str]) -> str:
        found = match.group()
        if found.startswith('"'):
            return found
        if found.startswith("/*") and (len(found) < 4 or not found.endswith("*/")):
            self._fail(match.start(), "this /* comment is never closed")
        return re.sub(r"[^\n]", " ", found)

    def _where(self, position: int) -> str:
        line = self.text.count("\n", 0, position) + 1
        return f"{self.name}:{line}:{position - self.text.rfind(chr(10), 0, position)}"

    def _fail(self, position: int, problem: str) -> NoReturn:
        raise ConfigError(f"{self._where(position)}: {problem}")

    def value(self) -> Any:
        if not self.text.strip():
            self._fail(0, "the file is empty; it must hold a JSON object, {...}")
        unclosed = self._check_nesting_and_numbers()
        try:
            value = json.loads(self.text)
        except json.JSONDecodeError as error:
            self._explain(error, unclosed)
        self._check_strings()
        return value

    def _check_nesting_and_numbers(self) -> list[int]:
        """Returns the positions of the brackets that are never closed."""
        opened: list[int] = []
        problems: list[str] = []
        for token in self.tokens:
            found = token.group()
            if found in "{[":
                opened.append(token.start())
                if len(opened) > DEEPEST_NESTING:
                    self._fail(token.start(), f"nested more than {DEEPEST_NESTING} levels deep")
            elif found in "}]" and opened:
                opened.pop()
            elif token["word"] and not _is_finite(found):
                problems.append(f"{self._where(token.start())}: {found[:20]} is not a finite number")
        if problems:
            raise ConfigError("\n".join(problems))
        return opened

    def _check_strings(self) -> None:
        """Duplicate keys, and halves of surrogate pairs, which no file and no terminal can take."""
        problems: list[str] = []
        keys: list[dict[str, int]] = []
        for token, following in zip(self.tokens, [*self.tokens[1:], None], strict=True):
            found = token.group()
            if found in "{[":
                keys.append({})
            elif found in "}]":
                keys.pop()
            elif token["string"]:
                text = json.loads(found)
                if any("\ud800" <= character <= "\udfff" for character in text):
                    problems.append(f"{self._where(token.start())}: this text holds half a surrogate pair")
                if following is not None and following.group() == ":":
                    if text in keys[-1]:
                        first = self.text.count("\n", 0, keys[-1][text]) + 1
                        where = self._where(token.start())
                        problems.append(f"{where}: duplicate key {found}, first on line {first}; keep one of them")
                    keys[-1].setdefault(text, token.start())
        if problems:
            raise ConfigError("\n".join(problems))

    def _explain(self, error: json.JSONDecodeError, unclosed: list[int]) -> NoReturn:
        position = error.pos
        before = self.text[:position].rstrip()
        here = self.text[position : position + 1]
        comma = position if here == "," else len(before) - 1
        after_comma = self.text[comma + 1 :].lstrip()[:1]
        if self.text[comma : comma + 1] == "," and after_comma and after_comma in "}]":
            self._fail(comma, f"a comma before {after_comma} is one too many; remove it")
        if not self.text[position:].strip() and unclosed:
            bracket = self.text[unclosed[-1]]
            line = self.text.count("\n", 0, unclosed[-1]) + 1
            self._fail(len(before), f"the file ends, but the {bracket} of line {line} is not closed")
        if error.msg == "Extra data":
            self._fail(position, "there is more text after the end of the value")
        reason = error.msg.removesuffix(" at").removesuffix(" starting")  # which the position says
        self._fail(position, f"not valid JSON: {reason[0].lower()}{reason[1:]}")


def _is_finite(word: str) -> bool:
    """False for NaN, Infinity and numbers beyond a float; other words are left to the JSON reader."""
    try:
        return math.isfinite(float(word))
    except ValueError:
        return True
