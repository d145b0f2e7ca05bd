"""The shapes that a config is made of: each checks its values, fills in what they leave out, and builds what they name.

A config is a `Sections`. A new key of the config is one line in experiment/schema.py.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from utils.config.signatures import (
    argument_names,
    argument_problems,
    arguments_schema,
    constructor_problems,
    convert_arguments,
    default_arguments,
)
from utils.errors import InvalidConfig, KeyPath, Problem, dotted
from utils.wording import format_value, kind, not_one_of, one_of

Component = Callable[..., Any]


def exported(module: ModuleType) -> dict[str, Component]:
    """What a config may name of a module: its `__all__`, and nothing else that it happens to hold."""
    return {name: getattr(module, name) for name in module.__all__}


@dataclass(frozen=True, kw_only=True)
class Section(ABC):
    """One part of the config.

    optional: it may be left out, or null.
    """

    optional: bool = False

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

    def without_defaults(self, value: Any) -> Any:
        """The value without what equals its default: `with_defaults` gives it back."""
        return self._without_defaults(value) if isinstance(value, self.json_type) else value

    @property
    def json_type(self) -> type:
        return dict

    @property
    def expected(self) -> str:
        """What is expected here, in words."""
        return "an object"

    def part(self, step: str | int) -> Section:
        """The section of an inner key. Raises KeyError if there is none."""
        raise KeyError(step)

    @abstractmethod
    def _problems(self, value: Any, key_path: KeyPath) -> list[Problem]: ...

    @abstractmethod
    def _schema(self) -> dict[str, Any]: ...

    @abstractmethod
    def _with_defaults(self, value: Any) -> Any: ...

    @abstractmethod
    def _without_defaults(self, value: Any) -> Any: ...

    @abstractmethod
    def build(self, value: Any, key_path: KeyPath, injected: Mapping[str, Any]) -> Any:
        """The object, list or dict that a checked value describes. Raises InvalidConfig, its key paths absolute."""


@dataclass(frozen=True)
class Settings(Section):
    """An object that holds the arguments of one callable.

    injected: its parameters that the program passes.
    """

    component: Component
    injected: tuple[str, ...] = ()

    def _problems(self, value: Any, key_path: KeyPath) -> list[Problem]:
        return argument_problems(self.component, value, key_path, self.injected, also_known=())

    def _schema(self) -> dict[str, Any]:
        return arguments_schema(self.component, self.injected)

    def _with_defaults(self, value: Any) -> Any:
        return _filled_in(value, self.component, default_arguments(self.component, self.injected))

    def _without_defaults(self, value: Any) -> Any:
        return _differing(value, default_arguments(self.component, self.injected))

    def build(self, value: Any, key_path: KeyPath, injected: Mapping[str, Any]) -> Any:
        return None if value is None and self.optional else _call(self.component, value or {}, key_path, injected)


@dataclass(frozen=True)
class TypedSection(Section):
    """`{"type": name, "args": {...}}`, with the keys beside them that `extra`'s signature and `parts` describe.

    names: what `type` may say;
    injected: parameters that the program passes to those that have them;
    extra: a callable that takes the plain keys beside "type" and "args";
    parts: the sections beside "type" and "args";
    deferred: parameters that may be left out, since the program knows them later; it passes them for null, too;
    nested: the parameter that holds a list of the same kind;
    defaults: by name, what an argument left out means where it is not what the signature says.
    """

    names: Mapping[str, Component]
    injected: tuple[str, ...] = ()
    extra: Component | None = None
    parts: Mapping[str, Section] = field(default_factory=dict)
    deferred: tuple[str, ...] = ()
    nested: str | None = None
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def expected(self) -> str:
        return 'an object with "type" and "args"'

    def part(self, step: str | int) -> Section:
        return self.parts[str(step)]

    def _problems(self, value: Any, key_path: KeyPath) -> list[Problem]:
        name = value.get("type")
        arguments = value.get("args", {})
        component = self._component(value)
        problems = []
        if "type" not in value:
            problems.append(Problem((*key_path, "type"), f"is missing: {one_of(self.names)}"))
        elif component is None:
            wrong = not_one_of(name, self.names) if isinstance(name, str) else f"is {kind(name)}; a name is expected"
            problems.append(Problem((*key_path, "type"), f"= {format_value(name)} {wrong}"))
        if not isinstance(arguments, dict):
            wrong = f"= {format_value(arguments)} is {kind(arguments)}; an object is expected"
            problems.append(Problem((*key_path, "args"), wrong))
        elif component is not None:
            inside = (*key_path, "args")
            problems += argument_problems(component, arguments, inside, self.injected, deferred=self.deferred)
            if self.nested in arguments:
                problems += self._list().problems(arguments[self.nested], (*inside, str(self.nested)))
        others = self._others(value)
        own = argument_names(component) if component is not None else []
        for key in [key for key in others if key in own and key not in argument_names(self._extra)]:
            meant = dotted((*key_path, "args", key))
            problems.append(Problem((*key_path, key), f"is not a known key; did you mean {meant}?"))
            del others[key]
        for key, section in self.parts.items():
            problems += section.problems(value.get(key), (*key_path, key))
        return problems + argument_problems(self._extra, others, key_path, also_known=("type", "args", *self.parts))

    def _schema(self) -> dict[str, Any]:
        choices, rules = [], []
        for name, component in self.names.items():
            arguments = arguments_schema(component, self.injected, self.deferred)
            for argument, default in self.defaults.get(name, {}).items():
                arguments["properties"] = {**arguments["properties"], argument: {"default": default}}
            choice = {"const": name}
            if "description" in arguments:
                choice["description"] = arguments["description"]
            choices.append(choice)
            then: dict[str, Any] = {"properties": {"args": arguments}}
            if "required" in arguments:
                then["required"] = ["args"]
            rules.append({"if": {"properties": {"type": {"const": name}}, "required": ["type"]}, "then": then})
        extra = arguments_schema(self._extra)
        beside = {**extra.get("properties", {}), **{key: section.schema() for key, section in self.parts.items()}}
        return {
            "type": "object",
            "properties": {"type": {"oneOf": choices}, "args": {"type": "object"}, **beside},
            "required": ["type", *extra.get("required", [])],
            "additionalProperties": False,
            "allOf": rules,
        }

    def _with_defaults(self, value: Any) -> Any:
        component, arguments = self._component(value), value.get("args", {})
        filled: dict[str, Any] = {key: value[key] for key in ("type", "args") if key in value}
        if component is not None and isinstance(arguments, dict):
            filled["args"] = _filled_in(arguments, component, self._defaults(value), self.injected)
            if self.nested in filled["args"]:
                filled["args"][self.nested] = self._list().with_defaults(filled["args"][self.nested])
        filled |= _filled_in(self._others(value), self._extra, default_arguments(self._extra))
        return filled | {key: section.with_defaults(value.get(key)) for key, section in self.parts.items()}

    def _without_defaults(self, value: Any) -> Any:
        arguments = _differing(value["args"], self._defaults(value))
        if self.nested in arguments:
            arguments[self.nested] = self._list().without_defaults(arguments[self.nested])
        parts = {key: section.without_defaults(value[key]) for key, section in self.parts.items() if value[key]}
        return {
            "type": value["type"],
            **({"args": arguments} if arguments else {}),
            **_differing(self._others(value), default_arguments(self._extra)),
            **parts,
        }

    def build(self, value: Any, key_path: KeyPath, injected: Mapping[str, Any]) -> Any:
        if value is None:
            return None
        return _call(self.names[value["type"]], value["args"], (*key_path, "args"), injected)

    @property
    def _extra(self) -> Component:
        return self.extra or _no_extra

    def _component(self, value: Mapping[str, Any]) -> Component | None:
        name = value.get("type")
        return self.names.get(name) if isinstance(name, str) else None

    def _defaults(self, value: Mapping[str, Any]) -> dict[str, Any]:
        return {
            **default_arguments(self.names[value["type"]], self.injected),
            **self.defaults.get(value["type"], {}),
        }

    def _others(self, value: Mapping[str, Any]) -> dict[str, Any]:
        """What is beside "type", "args" and the parts."""
        return {key: inner for key, inner in value.items() if key not in ("type", "args", *self.parts)}

    def _list(self) -> TypedList:
        return TypedList(self)


@dataclass(frozen=True)
class TypedList(Section):
    """A list of `TypedSection`s."""

    section: TypedSection

    @property
    def json_type(self) -> type:
        return list

    @property
    def expected(self) -> str:
        return 'a list of objects with "type" and "args"'

    def part(self, step: str | int) -> Section:  # noqa: ARG002
        return self.section

    def _problems(self, value: Any, key_path: KeyPath) -> list[Problem]:
        return [
            each for number, inner in enumerate(value) for each in self.section.problems(inner, (*key_path, number))
        ]

    def _schema(self) -> dict[str, Any]:
        return {"type": "array", "items": self.section.schema()}

    def _with_defaults(self, value: Any) -> Any:
        return [self.section.with_defaults(inner) for inner in value]

    def _without_defaults(self, value: Any) -> Any:
        return [self.section.without_defaults(inner) for inner in value]

    def build(self, value: Any, key_path: KeyPath, injected: Mapping[str, Any]) -> Any:
        entries = {number: (self.section, inner) for number, inner in enumerate(value or [])}
        return list(_build_all(entries, key_path, injected).values())


@dataclass(frozen=True)
class NamedSections(Section):
    """An object whose keys are free names, each with a value of one and the same section."""

    section: Section

    def part(self, step: str | int) -> Section:  # noqa: ARG002
        return self.section

    def _problems(self, value: Any, key_path: KeyPath) -> list[Problem]:
        return [each for name, inner in value.items() for each in self.section.problems(inner, (*key_path, name))]

    def _schema(self) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": self.section.schema()}

    def _with_defaults(self, value: Any) -> Any:
        return {name: self.section.with_defaults(inner) for name, inner in value.items()}

    def _without_defaults(self, value: Any) -> Any:
        return {name: self.section.without_defaults(inner) for name, inner in value.items()}

    def build(self, value: Any, key_path: KeyPath, injected: Mapping[str, Any]) -> Any:
        return _build_all({name: (self.section, inner) for name, inner in (value or {}).items()}, key_path, injected)


@dataclass(frozen=True)
class Sections(Section):
    """An object with a section for each key, and the plain keys that `extra`'s signature describes."""

    parts: Mapping[str, Section]
    extra: Component | None = None

    def part(self, step: str | int) -> Section:
        return self.parts[str(step)]

    def _problems(self, value: Any, key_path: KeyPath) -> list[Problem]:
        problems = []
        for key, section in self.parts.items():
            if key in value:
                problems += section.problems(value[key], (*key_path, key))
            elif not section.optional:
                problems.append(Problem((*key_path, key), f"is missing: {section.expected}"))
        return problems + argument_problems(
            self.extra or _no_extra, self._others(value), key_path, also_known=tuple(self.parts)
        )

    def _schema(self) -> dict[str, Any]:
        extra = arguments_schema(self.extra or _no_extra)
        parts = {key: section.schema() for key, section in self.parts.items()}
        required = [key for key, section in self.parts.items() if not section.optional]
        return {
            "type": "object",
            "properties": {**extra.get("properties", {}), **parts},
            "required": [*extra.get("required", []), *required],
            "additionalProperties": False,
        }

    def _with_defaults(self, value: Any) -> Any:
        extra = self.extra or _no_extra
        parts = {
            key: section.with_defaults(value.get(key))
            for key, section in self.parts.items()
            if key in value or section.optional
        }
        return {**_filled_in(self._others(value), extra, default_arguments(extra)), **parts}

    def _without_defaults(self, value: Any) -> Any:
        parts = {
            key: section.without_defaults(value[key]) for key, section in self.parts.items() if value[key] is not None
        }
        return {**_differing(self._others(value), default_arguments(self.extra or _no_extra)), **parts}

    def build(self, value: Any, key_path: KeyPath, injected: Mapping[str, Any]) -> Any:
        value = value or {}
        return _build_all({key: (section, value.get(key)) for key, section in self.parts.items()}, key_path, injected)

    def _others(self, value: Mapping[str, Any]) -> dict[str, Any]:
        return {key: inner for key, inner in value.items() if key not in self.parts}


def build_extra(section: Section, value: Any, key_path: KeyPath) -> Any:
    """What the `extra` of a TypedSection or a Sections makes of the keys that it describes. Raises InvalidConfig."""
    assert isinstance(section, (TypedSection, Sections))
    assert section.extra is not None
    own = {*section.parts, "type", "args"} if isinstance(section, TypedSection) else {*section.parts}
    return _call(section.extra, {key: inner for key, inner in (value or {}).items() if key not in own}, key_path, {})


def _build_all(
    entries: Mapping[Any, tuple[Section, Any]], key_path: KeyPath, injected: Mapping[str, Any]
) -> dict[Any, Any]:
    """Each entry's section and value -> what is built of it. Raises InvalidConfig with the problems of all."""
    built: dict[Any, Any] = {}
    problems: list[Problem] = []
    for key, (section, value) in entries.items():
        try:
            built[key] = section.build(value, (*key_path, key), injected)
        except InvalidConfig as error:
            problems += error.problems
    if problems:
        raise InvalidConfig(problems)
    return built


def _filled_in(
    arguments: Mapping[str, Any], component: Component, defaults: Mapping[str, Any], injected: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The arguments with the defaults of those left out, in the order of the signature; unknown ones last."""
    known = argument_names(component, injected)
    filled = {**copy.deepcopy(dict(defaults)), **arguments}
    return {**{name: filled[name] for name in known if name in filled}, **filled}


def _differing(arguments: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name not in defaults or defaults[name] != value}


def _no_extra() -> None:
    """No keys beside the known ones."""


def _call(component: Component, arguments: Mapping[str, Any], key_path: KeyPath, injected: Mapping[str, Any]) -> Any:
    """What the program passes counts where the arguments say null, or nothing."""
    passed = {name: value for name, value in injected.items() if name in argument_names(component)}
    given = {name: value for name, value in arguments.items() if value is not None or name not in passed}
    try:
        return component(**{**passed, **convert_arguments(component, given)})
    except (ValueError, TypeError, RuntimeError, AssertionError, LookupError) as error:
        raise InvalidConfig(constructor_problems(component, given, key_path, error)) from error
