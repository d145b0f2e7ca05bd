"""What messages share: how a value is formatted, what kind it is, which name was probably meant."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Iterable
from typing import Any

LONGEST_VALUE = 100
LONGEST_LIST = 40
LONGEST_LINE = 2000
"""Characters of a line of an error."""
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def format_value(value: Any) -> str:
    """The value as JSON, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 4] + " ..."


def shortened(line: str) -> str:
    """Its beginning and its end, which has the remedy, where it is longer than LONGEST_LINE."""
    if len(line) <= LONGEST_LINE:
        return line
    return f"{line[: LONGEST_LINE - 605]} ... {line[-600:]}"


def kind(value: Any) -> str:
    """What a JSON value is, in words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a truth value"
    names = {int: "a whole number", float: "a decimal number", str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)


def nearest(name: str, known: Iterable[str], count: int = 1) -> list[str]:
    """Up to `count` of the known names that look like `name`, the likeliest first; letter case does not matter."""
    by_lower = {other.lower(): other for other in known}
    return [by_lower[other] for other in difflib.get_close_matches(name.lower(), by_lower, count, 0.6)]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean "Adam"?`, or nothing where no known name looks like `name`."""
    found = nearest(name, known)
    return f'; did you mean "{found[0]}"?' if found else ""


def one_of(known: Collection[str]) -> str:
    """`one of Adam, SGD`; of a long list only the count."""
    return f"one of {', '.join(known)}" if len(known) <= LONGEST_LIST else f"one of {len(known)} known names"


def not_one_of(name: str, known: Collection[str]) -> str:
    """`is not one of Adam, SGD; did you mean "Adam"?`; of a long list only the near ones and the count."""
    if len(known) <= LONGEST_LIST:
        return f"is not {one_of(known)}{did_you_mean(name, known)}"
    found = nearest(name, known, 5)
    near = f"did you mean {' or '.join(json.dumps(other) for other in found)}?" if found else "none looks like it"
    return f"is not one of the {len(known)} known names; {near}"


def counted(number: int, noun: str) -> str:
    """`1 picture`, `1,200 pictures`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def on_one_line(text: str) -> str:
    """The text with its line ends and other control characters written as escapes: they came from a table or a file
    name, and would break the line, or do something to the terminal."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return (str(error).strip() or type(error).__name__).split("\n")[0]
