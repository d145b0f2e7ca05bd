"""The shapes that a config is made of: each checks its part, describes it to editors, and builds what it names.

A config is a `Group` of sections by key. Adding a key to the config is one line in the table of train.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from utils.config.signatures import (
    argument_names,
    argument_problems,
    arguments_schema,
    constructor_problems,
    convert_arguments,
)
from utils.errors import InvalidConfig, KeyPath, Problem, dotted
from utils.wording import kind, not_one_of, one_of, shown

Component = Callable[..., Any]


def listed(module: ModuleType) -> dict[str, Component]:
    """What a config may name of a module: its `__all__`, and nothing else that it happens to hold."""
    return {name: getattr(module, name) for name in module.__all__}


@dataclass(frozen=True, kw_only=True)
class Section(ABC):
    """One part of the config. optional: it may be left out, or null."""

    optional: bool = False

    def problems(self, value: Any, place: KeyPath) -> list[Problem]:
        """What is wrong with the value at `place`."""
        if value is None and self.optional:
            return []
        expected: type = list if isinstance(self, Many) else dict
        if not isinstance(value, expected):
            return [Problem(place, f"= {shown(value)} is {kind(value)}; {self.wanted} is expected")]
        return self._inner_problems(value, place)

    def schema(self) -> dict[str, Any]:
        """The JSON Schema of this part."""
        return {"anyOf": [self._inner_schema(), {"type": "null"}]} if self.optional else self._inner_schema()

    @property
    def wanted(self) -> str:
        """What stands here, in words."""
        return "an object"

    def part(self, step: str | int) -> Section:
        """The section of an inner place. Raises KeyError if there is none."""
        raise KeyError(step)

    @abstractmethod
    def _inner_problems(self, value: Any, place: KeyPath) -> list[Problem]: ...

    @abstractmethod
    def _inner_schema(self) -> dict[str, Any]: ...

    @abstractmethod
    def build(self, value: Any, place: KeyPath, supplied: Mapping[str, Any]) -> Any:
        """The object, list or dict that a checked value describes. Raises InvalidConfig."""


@dataclass(frozen=True)
class Settings(Section):
    """An object that holds the arguments of one callable. supplied: its parameters that the program passes."""

    component: Component
    supplied: tuple[str, ...] = ()

    def _inner_problems(self, value: Any, place: KeyPath) -> list[Problem]:
        return argument_problems(self.component, value, place, self.supplied, also_known=())

    def _inner_schema(self) -> dict[str, Any]:
        return arguments_schema(self.component, self.supplied)

    def build(self, value: Any, place: KeyPath, supplied: Mapping[str, Any]) -> Any:
        return None if value is None and self.optional else _call(self.component, value or {}, place, supplied)


@dataclass(frozen=True)
class One(Section):
    """`{"type": name, "args": {...}}`, with the keys beside them that `extra`'s signature describes.

    names: what `type` may say; supplied: parameters that the program passes to those that have them; filled: those
    that it passes if the config does not."""

    names: Mapping[str, Component]
    supplied: tuple[str, ...] = ()
    extra: Component | None = None
    filled: tuple[str, ...] = ()

    @property
    def wanted(self) -> str:
        return 'an object with "type" and "args"'

    def _inner_problems(self, value: Any, place: KeyPath) -> list[Problem]:
        name = value.get("type")
        arguments = value.get("args", {})
        component = self.names.get(name) if isinstance(name, str) else None
        problems = []
        if "type" not in value:
            problems.append(Problem((*place, "type"), f"is missing: {one_of(self.names)}"))
        elif component is None:
            wrong = not_one_of(name, self.names) if isinstance(name, str) else f"is {kind(name)}; a name is expected"
            problems.append(Problem((*place, "type"), f"= {shown(name)} {wrong}"))
        if not isinstance(arguments, dict):
            wrong = f"= {shown(arguments)} is {kind(arguments)}; an object is expected"
            problems.append(Problem((*place, "args"), wrong))
        elif component is not None:
            problems += argument_problems(component, arguments, (*place, "args"), self.supplied, filled=self.filled)
        others = {key: inner for key, inner in value.items() if key not in ("type", "args")}
        own = argument_names(component) if component is not None else []
        for key in [key for key in others if key in own and key not in argument_names(self.extra or _no_extra)]:
            meant = dotted((*place, "args", key))
            problems.append(Problem((*place, key), f"is not a known key; did you mean {meant}?"))
            del others[key]
        return problems + argument_problems(self.extra or _no_extra, others, place, also_known=("type", "args"))

    def _inner_schema(self) -> dict[str, Any]:
        choices, rules = [], []
        for name, component in self.names.items():
            arguments = arguments_schema(component, self.supplied, self.filled)
            choice = {"const": name}
            if "description" in arguments:
                choice["description"] = arguments["description"]
            choices.append(choice)
            then: dict[str, Any] = {"properties": {"args": arguments}}
            if "required" in arguments:
                then["required"] = ["args"]
            rules.append({"if": {"properties": {"type": {"const": name}}, "required": ["type"]}, "then": then})
        extra = arguments_schema(self.extra or _no_extra)
        return {
            "type": "object",
            "properties": {"type": {"oneOf": choices}, "args": {"type": "object"}, **extra.get("properties", {})},
            "required": ["type", *extra.get("required", [])],
            "additionalProperties": False,
            "allOf": rules,
        }

    def build(self, value: Any, place: KeyPath, supplied: Mapping[str, Any]) -> Any:
        if value is None:
            return None
        return _call(self.names[value["type"]], value.get("args", {}), (*place, "args"), supplied)


@dataclass(frozen=True)
class Many(Section):
    """A list of `One`s."""

    names: Mapping[str, Component]
    supplied: tuple[str, ...] = ()
    filled: tuple[str, ...] = ()

    @property
    def wanted(self) -> str:
        return 'a list of objects with "type" and "args"'

    def part(self, step: str | int) -> Section:  # noqa: ARG002
        return One(self.names, self.supplied, filled=self.filled)

    def _inner_problems(self, value: Any, place: KeyPath) -> list[Problem]:
        one = self.part(0)
        return [problem for number, inner in enumerate(value) for problem in one.problems(inner, (*place, number))]

    def _inner_schema(self) -> dict[str, Any]:
        return {"type": "array", "items": self.part(0).schema()}

    def build(self, value: Any, place: KeyPath, supplied: Mapping[str, Any]) -> Any:
        entries = {number: (self.part(number), inner) for number, inner in enumerate(value or [])}
        return list(_build_all(entries, place, supplied).values())


@dataclass(frozen=True)
class ByName(Section):
    """An object whose keys are free names, each with a value of one and the same section."""

    section: Section

    def part(self, step: str | int) -> Section:  # noqa: ARG002
        return self.section

    def _inner_problems(self, value: Any, place: KeyPath) -> list[Problem]:
        return [problem for name, inner in value.items() for problem in self.section.problems(inner, (*place, name))]

    def _inner_schema(self) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": self.section.schema()}

    def build(self, value: Any, place: KeyPath, supplied: Mapping[str, Any]) -> Any:
        return _build_all({name: (self.section, inner) for name, inner in (value or {}).items()}, place, supplied)


@dataclass(frozen=True)
class Group(Section):
    """An object with a section for each key, and the plain keys that `extra`'s signature describes."""

    parts: Mapping[str, Section]
    extra: Component | None = None

    def part(self, step: str | int) -> Section:
        return self.parts[str(step)]

    def _inner_problems(self, value: Any, place: KeyPath) -> list[Problem]:
        problems = []
        for key, section in self.parts.items():
            if key in value:
                problems += section.problems(value[key], (*place, key))
            elif not section.optional:
                problems.append(Problem((*place, key), f"is missing: {section.wanted}"))
        others = {key: inner for key, inner in value.items() if key not in self.parts}
        return problems + argument_problems(self.extra or _no_extra, others, place, also_known=tuple(self.parts))

    def _inner_schema(self) -> dict[str, Any]:
        extra = arguments_schema(self.extra or _no_extra)
        parts = {key: section.schema() for key, section in self.parts.items()}
        required = [key for key, section in self.parts.items() if not section.optional]
        return {
            "type": "object",
            "properties": {**extra.get("properties", {}), **parts},
            "required": [*extra.get("required", []), *required],
            "additionalProperties": False,
        }

    def build(self, value: Any, place: KeyPath, supplied: Mapping[str, Any]) -> Any:
        value = value or {}
        return _build_all({key: (section, value.get(key)) for key, section in self.parts.items()}, place, supplied)


def _build_all(
    entries: Mapping[Any, tuple[Section, Any]], place: KeyPath, supplied: Mapping[str, Any]
) -> dict[Any, Any]:
    """Each entry's section and value -> what is built of it. Raises InvalidConfig with the problems of all."""
    built: dict[Any, Any] = {}
    problems: list[Problem] = []
    for key, (section, value) in entries.items():
        try:
            built[key] = section.build(value, (*place, key), supplied)
        except InvalidConfig as error:
            problems += error.problems
    if problems:
        raise InvalidConfig(problems)
    return built


def build_extra(section: Section, value: Any, place: KeyPath) -> Any:
    """What the `extra` of a One or a Group makes of the keys that it describes."""
    assert isinstance(section, (One, Group))
    assert section.extra is not None
    own = section.parts if isinstance(section, Group) else ("type", "args")
    others = {key: inner for key, inner in (value or {}).items() if key not in own}
    return _call(section.extra, others, place, {})


def _no_extra() -> None:
    """No keys beside the known ones."""


def _call(component: Component, arguments: Mapping[str, Any], place: KeyPath, supplied: Mapping[str, Any]) -> Any:
    passed = {name: value for name, value in supplied.items() if name in argument_names(component)}
    try:
        return component(**{**passed, **convert_arguments(component, arguments)})
    except (ValueError, TypeError, RuntimeError, AssertionError, LookupError) as error:
        raise InvalidConfig(constructor_problems(component, arguments, place, error)) from error
