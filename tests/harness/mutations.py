"""Hypothesis strategies of what is almost right: configs, and the bytes of tables, images and other files."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

KeyPath = tuple[str | int, ...]

ODD_TEXTS = (
    "", " ", "\0", "é", "e\u0301", "한국어", "😷", "\u202e", "\n", "a"*10_000, "nan", "NaN", "1e999", "true", "null",
    "0x10", "1_000", "../../x", "/etc/passwd", "/dev/zero", "/dev/null", ".", "..", "/", "~", "config.json",
    "os.system", "logging.os.system", "__class__", "__import__('os').system('true')", "$(touch canary)",
    "{0.__class__}", "%s%n", "<script>alert(1)</script>", "=1+1", "mask", "age", "min val/loss", "max val/f1",
    "auto", "cpu", "SGD", "AdamW", "StepLR", "Resize", "Normalize", "FocalLoss", "resnet18", "hf_hub:a/b",
    "local-dir:/", "C:\\x", "a,b", '"', "'", "\\", "*",
)  # fmt: skip
ODD_NUMBERS = (
    0, 1, -1, 2, 3, 255, 2**31, -(2**31), 2**32, 2**63-1, 2**63, 2**64, 10**30, 10**400, -(10**400), 0.0, -0.0, 0.5,
    1.5, 1e-300, 1e300, -1e300, 5e-324, 1e-8, float("nan"), float("inf"), float("-inf"),
)  # fmt: skip


def _nested(depth: int) -> Any:
    value: Any = 1
    for number in range(depth):
        value = [value] if number % 2 else {"a": value}
    return value


odd_values = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(ODD_NUMBERS),
    st.sampled_from(ODD_TEXTS),
    st.integers(-1000, 1000),
    st.floats(-100, 100),
    st.text(max_size=8),
    st.sampled_from([20, 60, 3000]).map(_nested),
    st.recursive(
        st.sampled_from([None, True, 0, -1, 0.5, "", "a", "type", "args"]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=6,
    ),
    st.sampled_from([[], {}, [0] * 2000, {str(number): number for number in range(2000)}, [[]], {"": {}}]),
)


@dataclass(frozen=True)
class Case:
    """A mutated file, and what was done to it.

    base: the name of what it was
    data: its bytes
    steps: each mutation, in words
    arguments: of the command line, beside the file
    """

    base: str
    data: bytes
    steps: tuple[str, ...] = ()
    arguments: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        return f"{self.base}: {'; '.join([*self.steps, *self.arguments]) or 'unchanged'}"


class Bases(dict[str, Any]):
    """What is mutated, by name. (Hypothesis would print all of it.)"""

    def __repr__(self) -> str:
        return f"{len(self)} bases"


def paths_in(value: Any, path: KeyPath = ()) -> list[KeyPath]:
    """The key paths of all values inside."""
    if len(path) > 20:
        return []
    entries = value.items() if isinstance(value, dict) else enumerate(value[:50]) if isinstance(value, list) else ()
    return [each for key, inner in entries for each in ((*path, key), *paths_in(inner, (*path, key)))]


def _at(value: Any, path: KeyPath) -> Any:
    for step in path:
        value = value[step]
    return value


@contextmanager
def _any_depth() -> Iterator[None]:
    """Within it, what is nested thousands of levels deep is copied and written."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


def _written(value: Any) -> bytes:
    """As JSON."""
    with _any_depth():
        return json.dumps(value).encode("utf-8", "surrogatepass")


@st.composite
def mutated_configs(draw: st.DrawFn, bases: Bases) -> Case:
    """One to four changes of a config; seldom of its text, and seldom with --set."""
    name = draw(st.sampled_from(sorted(bases)))
    config: Any = copy.deepcopy(dict(bases[name]))
    steps = []
    for _ in range(draw(st.integers(1, 4))):
        paths = paths_in(config)
        if not paths:
            break
        path = draw(st.sampled_from(paths))
        steps.append(draw(st.sampled_from(CHANGES))(draw, config, path, paths))
    data = _written(config)
    if draw(st.integers(0, 9)) == 0:
        data, more = draw(mutated_bytes(data))
        steps += more
    arguments: tuple[str, ...] = ()
    if draw(st.integers(0, 4)) == 0:
        path = draw(st.sampled_from(paths_in(bases[name])))
        path = (*path, *draw(st.lists(st.sampled_from(["0", "-1", "99", "args", "type", "x"]), max_size=2)))
        value = draw(odd_values | st.sampled_from(['{"type": "SGD"}', "[1,", '{"a": {"b": 1}}', "3 4"]))
        text = value if isinstance(value, str) else _written(value).decode("utf-8", "replace")
        arguments = ("--set", f"{'.'.join(map(str, path))}={text[:20_000]}".replace("\0", "0"))
    return Case(name, data, tuple(steps), arguments)


Change = Callable[[st.DrawFn, Any, KeyPath, Sequence[KeyPath]], str]


def _shown(value: Any) -> str:
    try:
        return f"{value!r:.60}"
    except (RecursionError, ValueError):  # of deep values, and of numbers with thousands of digits
        return f"a large {type(value).__name__}"


def _replace(draw: st.DrawFn, config: Any, path: KeyPath, _: Sequence[KeyPath]) -> str:
    with _any_depth():
        value = copy.deepcopy(draw(odd_values))  # the next change must not alter what others draw
    _at(config, path[:-1])[path[-1]] = value
    return f"{path} = {_shown(value)}"


def _delete(_draw: st.DrawFn, config: Any, path: KeyPath, _: Sequence[KeyPath]) -> str:
    del _at(config, path[:-1])[path[-1]]
    return f"{path} deleted"


def _swap(draw: st.DrawFn, config: Any, path: KeyPath, paths: Sequence[KeyPath]) -> str:
    """The value of another place."""
    other = draw(st.sampled_from(paths))
    with _any_depth():
        _at(config, path[:-1])[path[-1]] = copy.deepcopy(_at(config, other))
    return f"{path} = that of {other}"


def _rename(draw: st.DrawFn, config: Any, path: KeyPath, _: Sequence[KeyPath]) -> str:
    parent, name = _at(config, path[:-1]), draw(st.sampled_from(ODD_TEXTS) | st.text(max_size=6))[:200]
    if not isinstance(parent, dict):
        parent.insert(0, name)
        return f"{path[:-1]}: {name[:60]!r} inserted"
    parent[name] = parent.pop(path[-1])
    return f"{path} renamed {name[:60]!r}"


def _wrap(draw: st.DrawFn, config: Any, path: KeyPath, _: Sequence[KeyPath]) -> str:
    parent = _at(config, path[:-1])
    value = parent[path[-1]]
    how = draw(st.sampled_from(["list", "object", "text", "typed"]))
    parent[path[-1]] = {
        "list": [value, value], "object": {"a": value}, "text": _written(value).decode("utf-8", "replace"),
        "typed": {"type": value, "args": {}},
    }[how]  # fmt: skip
    return f"{path} as {how}"


def _scale(draw: st.DrawFn, config: Any, path: KeyPath, paths: Sequence[KeyPath]) -> str:
    """A number changed, where it is one; a list cut."""
    value, parent = _at(config, path), _at(config, path[:-1])
    if isinstance(value, list):
        parent[path[-1]] = value[: draw(st.integers(0, max(0, len(value) - 1)))]
        return f"{path} cut"
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 2**1000:
        factor = draw(st.sampled_from([-1, 0, 0.5, 2, 1000, 1e9, 1e-9]))
        parent[path[-1]] = value * factor
        return f"{path} times {factor}"
    return _replace(draw, config, path, paths)


CHANGES: tuple[Change, ...] = (_replace, _replace, _delete, _swap, _rename, _wrap, _scale, _scale)

ODD_BYTES = (
    b"\0", b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b'"', b'""', b"'", b",", b";", b"\t", b"\n", b"\r\n", b"\r",
    b"\n\n\n", b"{", b"[", b"}", b"//", b"/*", b"\\", b"../", b"/", b"=", b"-", b"999999999999999999999", b"1e999",
    b"nan", b"-1", b"\xc3", b"\xed\xa0\x80", b"\xcc\x81", b"\xff\xd8", b"\xff\xd9", b"\xff\xda",
    b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"IEND", b"IDAT", b"tEXt", b"<",
    b"a"*3000,
)  # fmt: skip


@st.composite
def mutated_bytes(draw: st.DrawFn, data: bytes) -> tuple[bytes, list[str]]:
    """One to three changes: bits flipped, parts cut, zeroed, doubled or moved, odd bytes put in."""
    steps = []
    for _ in range(draw(st.integers(1, 3))):
        at, other = (draw(st.integers(0, max(0, len(data)))) for _ in range(2))
        start, end = min(at, other), max(at, other)
        how = draw(st.sampled_from(["flip", "cut", "keep", "zero", "double", "put", "overwrite", "header"]))
        if how == "flip" and at < len(data):
            data = data[:at] + bytes([data[at] ^ (1 << draw(st.integers(0, 7)))]) + data[at + 1 :]
        elif how == "cut":
            data = data[:start] + data[end:]
        elif how == "keep":
            data = data[:at]
        elif how == "zero":
            end = min(end, start + 64)
            data = data[:start] + bytes(end - start) + data[end:]
        elif how == "double":
            data = data[:end] + data[start:end][:4096] + data[end:]
        else:
            odd = draw(st.sampled_from(ODD_BYTES) | st.binary(min_size=1, max_size=4))
            at = min(at, draw(st.integers(0, 40))) if how == "header" else at
            data = data[:at] + odd + data[at + (len(odd) if how == "overwrite" or how == "header" else 0) :]
        steps.append(f"{how} at {start if how in ('cut', 'zero', 'double') else at}")
    return data, steps
