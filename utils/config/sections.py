"""The shapes that a config is made of: each checks its values, fills in what they leave out, and builds what they name.

A config is a `Sections`. A new key of the config is one line in experiment/schema.py.
"""

from __future__ import annotations

import copy
import functools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, ClassVar

from utils.config.json_text import arguments_of
from utils.config.plugins import Component, Names, described_failure, place_in_plugin, subclasses, why_unknown
from utils.config.signatures import (
    argument_names,
    argument_problems,
    arguments_schema,
    constructor_problems,
    convert_arguments,
    default_arguments,
)
from utils.errors import InvalidConfig, KeyPath, Problem
from utils.wording import format_value, kind, not_one_of, one_of


@functools.cache
def exported(module: ModuleType, *bases: type) -> Mapping[str, Component]:
    """What a config may name of a module: its `__all__`, and nothing else that it happens to hold.

    bases: the active plug-ins' subclasses of these can be named, too"""
    own = {name: getattr(module, name) for name in module.__all__}
    if not bases:
        return own
    return Names(own, f"a subclass of {' or '.join(base.__name__ for base in bases)}", subclasses(*bases))


def no_keys() -> None:
    """The signature of an object without plain keys."""


@dataclass(frozen=True, kw_only=True)
class Section(ABC):
    """One part of the config.

    optional: it may be left out, or null.
    """

    optional: bool = False
    json_type: ClassVar[type] = dict
    expected: ClassVar[str] = "an object"

    def problems(self, value: Any, key_path: KeyPath) -> list[Problem]:
        """What is wrong with the value at `key_path`."""
        if value is None and self.optional:
            return []
        if not isinstance(value, self.json_type):
            return [Problem(key_path, f"= {format_value(value)} is {kind(value)}; {self.expected} is expected")]
        return self._problems(value, key_path)

    def schema(self) -> dict[str, Any]:
        """The JSON Schema of this part."""
        return {"anyOf": [self._schema(), {"type": "null"}]} if self.optional else self._schema()

    def with_defaults(self, value: Any) -> Any:
        """The value with the defaults of all that it leaves out, in the schema's order; what is wrong is left alone."""
        return self._with_defaults(value) if isinstance(value, self.json_type) else value

    def part(self, step: str | int) -> Section:
        """The section of an inner key. Raises KeyError if there is none."""
        raise KeyError(step)

    @abstractmethod
    def build(self, value: Any, key_path: KeyPath, injected: Mapping[str, Any]) -> Any:
        """The object, list or dict that a checked value describes. Raises InvalidConfig, its key paths absolute."""

    @abstractmethod
    def _problems(self, value: Any, key_path: KeyPath) -> list[Problem]: ...

    @abstractmethod
    def _schema(self) -> dict[str, Any]: ...

    @abstractmethod
    def _with_defaults(self, value: Any) -> Any: ...


@dataclass(frozen=True)
class Settings(Section):
    """An object that holds the arguments of one callable.

    injected: its parameters that the program passes.
    """

    component: Component
    injected: tuple[str, ...] = ()

    def build(self, value: Any, key_path: KeyPath, injected: Mapping[str, Any]) -> Any:
        return None if value is None and self.optional else _call(self.component, value or {}, key_path, injected)

    def _problems(self, value: Any, key_path: KeyPath) -> list[Problem]:
        return argument_problems(self.component, value, key_path, self.injected)

    def _schema(self) -> dict[str, Any]:
        return arguments_schema(self.component, self.injected)

    def _with_defaults(self, value: Any) -> Any:
        return _filled_in(value, self.component, self.injected)


@dataclass(frozen=True)
class Sections(Section):
    """An object with a section for each key of `parts`, and the plain keys that the signature of `extra` describes."""

    parts: Mapping[str, Section] = field(default_factory=dict)
    extra: Component = no_keys
    own_keys: ClassVar[tuple[str, ...]] = ()

    def part(self, step: str | int) -> Section:
        return self.parts[str(step)]

    def build(self, value: Any, key_path: KeyPath, injected: Mapping[str, Any]) -> Any:
        value = value or {}
        entries = ((key, section, value.get(key)) for key, section in self.parts.items())
        return _build_all(entries, key_path, injected)

    def build_extra(self, value: Any, key_path: KeyPath) -> Any:
        """What `extra` makes of the plain keys. Raises InvalidConfig."""
        return _call(self.extra, self._plain(value or {}), key_path, {})

    def _problems(self, value: Any, key_path: KeyPath) -> list[Problem]:
        problems = []
        for key, section in self.parts.items():
            if key in value:
                problems += section.problems(value[key], (*key_path, key))
            elif not section.optional:
                problems.append(Problem((*key_path, key), f"is missing: {section.expected}"))
        also_known = (*self.own_keys, *self.parts)
        return problems + argument_problems(self.extra, self._plain(value), key_path, also_known=also_known)

    def _schema(self) -> dict[str, Any]:
        extra = arguments_schema(self.extra)
        parts = {key: section.schema() for key, section in self.parts.items()}
        required = [key for key, section in self.parts.items() if not section.optional]
        return {
            "type": "object",
            "properties": {**extra["properties"], **parts},
            "required": [*extra.get("required", []), *required],
            "additionalProperties": False,
        }

    def _with_defaults(self, value: Any) -> Any:
        parts = {
            key: section.with_defaults(value.get(key))
            for key, section in self.parts.items()
            if key in value or section.optional
        }
        return {**_filled_in(self._plain(value), self.extra), **parts}

    def _plain(self, value: Mapping[str, Any]) -> dict[str, Any]:
        return {key: inner for key, inner in value.items() if key not in (*self.own_keys, *self.parts)}


@dataclass(frozen=True)
class TypedSection(Sections):
    """`{"type": name, "args": {...}}`, with the keys beside them that `extra`'s signature and `parts` describe.

    names: what `type` may name;
    injected: parameters that the program passes to those that have them;
    extra: a callable that takes the plain keys beside "type" and "args";
    parts: the sections beside "type" and "args";
    deferred: parameters that may be left out, since the program knows them later; it passes them for null, too;
    nested: the parameter that holds a list of the same kind;
    defaults: by name, defaults that override the signature's;
    default: the type where none is given.
    """

    names: Mapping[str, Component]
    injected: tuple[str, ...] = ()
    parts: Mapping[str, Section] = field(default_factory=dict, kw_only=True)
    extra: Component = field(default=no_keys, kw_only=True)
    deferred: tuple[str, ...] = ()
    nested: str | None = None
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    default: str | None = None
    own_keys: ClassVar[tuple[str, ...]] = ("type", "args")
    expected: ClassVar[str] = 'an object with "type" and "args"'

    def build(self, value: Any, key_path: KeyPath, injected: Mapping[str, Any]) -> Any:
        if value is None:
            return None
        return _call(self.names[value["type"]], value["args"], (*key_path, "args"), injected)

    def arguments_schema(self, name: str) -> dict[str, Any]:
        """The JSON Schema of the arguments of a type."""
        schema = arguments_schema(self.names[name], self.injected, self.deferred)
        own = {
            key: {**schema["properties"][key], "default": value} for key, value in self.defaults.get(name, {}).items()
        }
        return {**schema, "properties": {**schema["properties"], **own}}

    def _problems(self, value: Any, key_path: KeyPath) -> list[Problem]:
        name, arguments, component = value.get("type", self.default), arguments_of(value), self._component(value)
        problems, inside = super()._problems(value, key_path), (*key_path, "args")
        if "type" not in value and self.default is None:
            problems.append(Problem((*key_path, "type"), f"is missing: {_one_of(self.names)}"))
        elif component is None:
            wrong = _not_one_of(name, self.names) if isinstance(name, str) else f"is {kind(name)}; a name is expected"
            problems.append(Problem((*key_path, "type"), f"= {format_value(name)} {wrong}"))
        if not isinstance(arguments, dict):
            wrong = f"= {format_value(arguments)} is {kind(arguments)}; an object is expected"
            problems.append(Problem(inside, wrong))
        elif component is not None:
            problems += argument_problems(component, arguments, inside, self.injected, deferred=self.deferred)
            if self.nested in arguments:
                problems += TypedList(self).problems(arguments[self.nested], (*inside, str(self.nested)))
        return problems

    def _schema(self) -> dict[str, Any]:
        choices, rules = [], []
        for name in self.names:
            arguments = self.arguments_schema(name)
            choices.append({"const": name, **{key: arguments[key] for key in ("description",) if key in arguments}})
            needed = {"required": ["args"]} if "required" in arguments else {}
            condition = {"properties": {"type": {"const": name}}, "required": ["type"]}
            rules.append({"if": condition, "then": {"properties": {"args": arguments}, **needed}})
        beside = super()._schema()
        named: dict[str, Any] = {"oneOf": choices} if choices else {"type": "string"}
        if self.default is not None:
            named["default"] = self.default
        return {
            **beside,
            "properties": {"type": named, "args": {"type": "object"}, **beside["properties"]},
            "required": [*(["type"] if self.default is None else []), *beside["required"]],
            **({"allOf": rules} if rules else {}),
        }

    def _with_defaults(self, value: Any) -> Any:
        if self.default is not None:
            value = {"type": self.default, **value}
        component, arguments = self._component(value), arguments_of(value)
        filled: dict[str, Any] = {key: value[key] for key in self.own_keys if key in value}
        if component is not None and isinstance(arguments, dict):
            own = {**self.defaults.get(value["type"], {}), **arguments}
            filled["args"] = _filled_in(own, component, self.injected)
            if self.nested in filled["args"]:
                filled["args"][self.nested] = TypedList(self).with_defaults(filled["args"][self.nested])
        return {**filled, **super()._with_defaults(value)}

    def _component(self, value: Mapping[str, Any]) -> Component | None:
        name = value.get("type", self.default)
        return self.names.get(name) if isinstance(name, str) else None


@dataclass(frozen=True)
class NamedSections(Section):
    """An object whose keys are free names (without dots), each with a value of one and the same section."""

    section: Section

    def part(self, step: str | int) -> Section:  # noqa: ARG002
        return self.section

    def build(self, value: Any, key_path: KeyPath, injected: Mapping[str, Any]) -> Any:
        entries = ((name, self.section, inner) for name, inner in (value or {}).items())
        return _build_all(entries, key_path, injected)

    def _problems(self, value: Any, key_path: KeyPath) -> list[Problem]:
        dotted = [
            Problem((*key_path, name), "holds a dot, which separates the keys of a path")
            for name in value
            if "." in name
        ]
        return dotted or [
            each for name, inner in value.items() for each in self.section.problems(inner, (*key_path, name))
        ]

    def _schema(self) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": self.section.schema()}

    def _with_defaults(self, value: Any) -> Any:
        return {name: self.section.with_defaults(inner) for name, inner in value.items()}


@dataclass(frozen=True)
class TypedList(Section):
    """A list of `TypedSection`s."""

    section: TypedSection
    json_type: ClassVar[type] = list
    expected: ClassVar[str] = 'a list of objects with "type" and "args"'

    def part(self, step: str | int) -> Section:  # noqa: ARG002
        return self.section

    def build(self, value: Any, key_path: KeyPath, injected: Mapping[str, Any]) -> Any:
        entries = ((number, self.section, inner) for number, inner in enumerate(value or []))
        return list(_build_all(entries, key_path, injected).values())

    def _problems(self, value: Any, key_path: KeyPath) -> list[Problem]:
        entries = enumerate(value)
        return [each for number, inner in entries for each in self.section.problems(inner, (*key_path, number))]

    def _schema(self) -> dict[str, Any]:
        return {"type": "array", "items": self.section.schema()}

    def _with_defaults(self, value: Any) -> Any:
        return [self.section.with_defaults(inner) for inner in value]


def _build_all(
    entries: Iterable[tuple[Any, Section, Any]], key_path: KeyPath, injected: Mapping[str, Any]
) -> dict[Any, Any]:
    """What is built of each key, section and value. Raises InvalidConfig with the problems of all."""
    built: dict[Any, Any] = {}
    problems: list[Problem] = []
    for key, section, value in entries:
        try:
            built[key] = section.build(value, (*key_path, key), injected)
        except InvalidConfig as error:
            problems += error.problems
    if problems:
        raise InvalidConfig(problems)
    return built


def _one_of(names: Mapping[str, Component]) -> str:
    return one_of(names) if names else "a plug-in must define it (docs/extending.md)"


def _not_one_of(name: str, names: Mapping[str, Component]) -> str:
    if not names:
        return f"is not known: no plug-in defines it{why_unknown(name, names)}"
    return f"{not_one_of(name, names)}{why_unknown(name, names)}"


def _filled_in(arguments: Mapping[str, Any], component: Component, injected: tuple[str, ...] = ()) -> dict[str, Any]:
    """The arguments with the defaults of those left out, in the order of the signature; unknown ones last."""
    filled = {**copy.deepcopy(default_arguments(component, injected)), **arguments}
    return {**{name: filled[name] for name in argument_names(component, injected) if name in filled}, **filled}


def _call(component: Component, arguments: Mapping[str, Any], key_path: KeyPath, injected: Mapping[str, Any]) -> Any:
    """Injected values are used for arguments that are null or missing."""
    passed = {name: value for name, value in injected.items() if name in argument_names(component)}
    given = {name: value for name, value in arguments.items() if value is not None or name not in passed}
    try:
        return component(**{**passed, **convert_arguments(component, given)})
    except (ValueError, TypeError, RuntimeError, AssertionError, LookupError) as error:
        raise InvalidConfig(constructor_problems(component, given, key_path, error)) from error
    except Exception as error:
        if place_in_plugin(error) is None:
            raise
        raise InvalidConfig([Problem(key_path, f"{component.__name__} fails{described_failure(error)}")]) from error
