"""Strict JSON with comments: the reader of every file that a user writes by hand.

`//` and `/* */` comments and a byte order mark are allowed. Duplicate keys, NaN, infinities, numbers too large for a
float and absurd nesting, which Python's own reader accepts, are refused.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.errors import ConfigError
from utils.files import read_regular
from utils.wording import did_you_mean, format_value, kind

MAX_NESTING = 50
MAX_BYTES = 16 * 1024 * 1024
"""No config that a person writes is this large."""

# A string is matched first, so that what looks like a comment inside it is left alone.
_STRING_OR_COMMENT = re.compile(r'"(?:[^"\\\n]|\\.)*"|//[^\n]*|/\*.*?\*/', re.DOTALL)


def arguments_of(section: Mapping[str, Any]) -> Any:
    """The "args" of {"type": ..., "args": ...} as it was written: they may be left out."""
    return section.get("args", {})


def read_json(path: Path) -> dict[str, Any]:
    """The object of a JSON file. Raises ConfigError, `file:line:column: reason` for a text that is no JSON."""
    try:
        if not path.exists():
            raise ConfigError(f"{path}: {no_such_file(path)}")
        data = read_regular(path, MAX_BYTES)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{path}:{line}: is not UTF-8 (byte {data[error.start]:#04x}); save the file as UTF-8"
        ) from None
    value = parse_json(text, str(path))
    if not isinstance(value, dict):
        raise ConfigError(f"{path}:1:1: the file must hold an object, {{...}}, not {kind(value)}")
    return value


def no_such_file(path: Path) -> str:
    """That there is none, and the nearest name in its folder."""
    return f"there is no such file{did_you_mean(path.name, [other.name for other in path.parent.glob('*.json')])}"


def parse_json(text: str, name: str) -> Any:
    """The value of a JSON text; `name` is what errors call it. Raises ConfigError."""
    # Comments are replaced by spaces, so that each position stays where the user sees it.
    text = _STRING_OR_COMMENT.sub(_without_comment, text)
    brackets = re.findall(r"[][{}]", _STRING_OR_COMMENT.sub("", text))
    if max(itertools.accumulate(1 if bracket in "[{" else -1 for bracket in brackets), default=0) > MAX_NESTING:
        raise ConfigError(f"{name}: is nested more than {MAX_NESTING} levels deep")
    try:
        value = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_finite, parse_float=_finite)
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair could not be saved with the run
        return value
    except json.JSONDecodeError as error:
        raise ConfigError(f"{name}:{error.lineno}:{error.colno}: {_explained(error, text)}") from None
    except UnicodeEncodeError as error:
        raise ConfigError(f"{name}: holds {error.object[error.start : error.end]!a}, which is no character") from None
    except ValueError as error:  # of the hooks, or an integer of more digits than Python converts
        raise ConfigError(f"{name}: {error}") from None


def _without_comment(match: re.Match[str]) -> str:
    found = match.group()
    return found if found.startswith('"') else re.sub(r"[^\n]", " ", found)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        key = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"duplicate key {json.dumps(key)} in {format_value(values)}; keep one of them")
    return values


def _finite(word: str) -> float:
    if not math.isfinite(float(word)):
        raise ValueError(f"{word[:20]} is not a finite number")
    return float(word)


def _explained(error: json.JSONDecodeError, text: str) -> str:
    before, after = text[: error.pos].rstrip(), text[error.pos :].lstrip()
    if not before and not after:
        return "the file is empty; it must hold a JSON object, {...}"
    if before.endswith(",") and after[:1] in ("}", "]"):
        return f"a comma before {after[0]} is one too many; remove it"
    if not after:
        return "the file ends, but a { or [ is not closed"
    return f"not valid JSON: {error.msg[0].lower()}{error.msg[1:]}"
