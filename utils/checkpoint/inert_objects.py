"""What stands for the objects of classes that a foreign pickle names, so that none of those classes is used."""

from __future__ import annotations

import pickletools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

Inert = Callable[..., Any] | tuple[Callable[..., Any], str]
"""A class that stands for another, and the name of that one: an entry of torch.serialization.safe_globals."""


class InertObject:
    """Stands for an object of any class that a foreign checkpoint names: it keeps what the file says of the object, and
    can do nothing. arguments: what its class was to be called with; state: what its attributes were to be."""

    arguments: tuple[Any, ...]
    state: Any

    def __new__(cls, *arguments: Any) -> InertObject:
        made = super().__new__(cls)
        made.arguments, made.state = arguments, None
        return made

    def __init__(self, *arguments: Any) -> None:
        """As `__new__`: an unpickler calls either, or both."""

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _InertMapping:
    """Stands for a class built on dict: torch's restricted unpickler sets the items of plain ones only."""

    def __new__(cls, *_: Any) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict()


class _InertList:
    """Stands for a class built on list."""

    def __new__(cls, *_: Any) -> list[Any]:  # type: ignore[misc]
        return []


def inert_classes(names: set[str], pickled: bytes) -> list[Inert]:
    """For each name of a class in a pickle, what stands for it: by what the pickle does with its objects."""
    mappings, lists = _containers(pickled)
    return [
        (_InertMapping if name in mappings else _InertList if name in lists else InertObject, name) for name in names
    ]


def _containers(pickled: bytes) -> tuple[set[str | None], set[str | None]]:
    """The classes whose objects are given keys, and those whose objects are given items.

    The instructions are followed with names in the place of objects: that of its class for an object, None for plain
    data. Nothing is made or called."""
    stack: list[str | None] = []
    below: list[list[str | None]] = []
    memo: dict[Any, str | None] = {}
    mappings: set[str | None] = set()
    lists: set[str | None] = set()
    for opcode, argument, _ in pickletools.genops(pickled):
        match opcode.name:
            case "GLOBAL":
                stack.append(str(argument).replace(" ", "."))
            case "NEWOBJ" | "REDUCE" | "BUILD":  # the arguments or the state go, the class or the object stays
                stack.pop()
            case "SETITEM":
                del stack[-2:]
                mappings.add(stack[-1])
            case "APPEND":
                stack.pop()
                lists.add(stack[-1])
            case "MARK":
                below.append(stack)
                stack = []
            case "SETITEMS" | "APPENDS" as name:
                stack = below.pop()
                (mappings if name == "SETITEMS" else lists).add(stack[-1])
            case "TUPLE":
                stack = [*below.pop(), None]
            case "TUPLE1" | "TUPLE2" | "TUPLE3" as name:
                stack[-int(name[-1]) :] = [None]
            case "BINPERSID":
                stack[-1] = None
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "PROTO" | "STOP":
                pass
            case _:  # a constant: the restricted unpickler takes nothing else
                stack.append(None)
    return mappings, lists
