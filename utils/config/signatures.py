"""A constructor's signature is the schema of its arguments: checked against JSON values, and shown to editors.

Each callable becomes a strict pydantic type. What JSON cannot hold (tensors, modules, functions) is dropped from
unions and taken as anything elsewhere, so that other people's classes work as they are; ours give ranges with
pydantic's types, such as PositiveInt.
"""

from __future__ import annotations

import collections.abc
import enum
import functools
import inspect
import json
import operator
import re
import sys
import types
import typing
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import typing_extensions
from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, with_config
from pydantic_core import PydanticCustomError

from utils.config.pydantic_errors import explain, resolved_schema
from utils.errors import InvalidConfig, KeyPath, Problem
from utils.wording import first_line, format_value

Fraction = Annotated[float, Field(ge=0, le=1)]
"""0 to 1."""

_NOT_JSON: Any = object()
_PLAIN = (bool, int, float, str, Path, type(None))
_LISTS = (list, collections.abc.Iterable, collections.abc.Sequence, collections.abc.Collection)
_OBJECTS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


def argument_problems(
    callable_: Callable[..., Any],
    arguments: Mapping[str, Any],
    key_path: KeyPath = (),
    injected: tuple[str, ...] = (),
    also_known: tuple[str, ...] = (),
    deferred: tuple[str, ...] = (),
) -> list[Problem]:
    """What is wrong with JSON `arguments` for `callable_`.

    key_path: of the arguments in the config;
    injected: parameters that the program passes;
    also_known: other keys of the object that the arguments stand in;
    deferred: parameters that may be left out, since the program passes them then.
    """
    try:
        _adapter(callable_, injected, deferred).validate_json(json.dumps(arguments))
    except ValidationError as error:
        return explain(error, dict(arguments), key_path, _own_schema(callable_, injected, deferred), also_known)
    return []


def convert_arguments(callable_: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Checked `arguments` as the annotations want them: a list for a tuple becomes a tuple, text for a Path a Path."""
    every = tuple(_parameters(callable_))
    return dict(_adapter(callable_, (), every).validate_json(json.dumps(arguments)))


def constructor_problems(
    callable_: Callable[..., Any], arguments: Mapping[str, Any], key_path: KeyPath, error: Exception
) -> list[Problem]:
    """What a constructor's own error says of its arguments, which are at `key_path` of the config."""
    if located := locate(error, arguments, key_path):
        return located
    if isinstance(error.__cause__, ValidationError):  # albumentations checks its arguments with pydantic, too
        return explain(error.__cause__, dict(arguments), key_path, {}, ())
    message, defaults = first_line(error), default_arguments(callable_)
    given = {name: value for name, value in arguments.items() if name not in defaults or value != defaults[name]}
    meant = [name for name, value in given.items() if _mentions(message, name, value)]
    text = f"{callable_.__name__} refuses it: {message}"
    if len(meant) == 1:
        return [Problem((*key_path, meant[0]), f"= {format_value(arguments[meant[0]])}: {text}")]
    return [Problem(key_path, f"= {format_value(given)}: {text}")]


def locate(error: Exception, arguments: Collection[str], key_path: KeyPath) -> list[Problem]:
    """The problems of an InvalidConfig, or of a message that begins with an argument ("gamma = -1 must be at least 0");
    none of other errors. key_path: of the arguments in the config."""
    if isinstance(error, InvalidConfig):
        return [problem.under(key_path) for problem in error.problems]
    argument, _, text = str(error).partition(" ")
    return [Problem((*key_path, argument), text)] if argument in arguments else []


def _mentions(message: str, name: str, value: Any) -> bool:
    """Whether an error message holds an argument's name or value ("Invalid learning rate: -1.0")."""
    words = [name, str(value)] + ([str(float(value))] if type(value) is int else [])
    return any(re.search(rf"(?<![\w.-]){re.escape(word)}(?![\w.])", message) for word in words)


def argument_names(callable_: Callable[..., Any], injected: tuple[str, ...] = ()) -> list[str]:
    """The arguments that a config may give."""
    return [name for name in _parameters(callable_) if name not in injected]


def default_arguments(callable_: Callable[..., Any], injected: tuple[str, ...] = ()) -> dict[str, Any]:
    """By argument that a config may give, its default as JSON has it, in the order of the signature. Arguments without
    one, and those whose default JSON cannot hold, are not in it."""
    return {
        name: json.loads(json.dumps(parameter.default))
        for name, parameter in _parameters(callable_).items()
        if name not in injected and _is_json(parameter.default)
    }


def arguments_schema(
    callable_: Callable[..., Any], injected: tuple[str, ...] = (), deferred: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The JSON Schema of the arguments, without references; the docstring's first line is its description."""
    schema = dict(_own_schema(callable_, injected, deferred))
    first_line = (inspect.getdoc(callable_) or "").partition("\n")[0].strip()
    return {"description": first_line, **schema} if first_line else schema


def argument_meanings(callable_: Callable[..., Any]) -> dict[str, str]:
    """By argument, what the docstrings of a class and its parents say of it: "name: meaning" where a line begins or
    after a semicolon; "name, other: meaning" is of both."""
    owners = callable_.__mro__[:-1] if inspect.isclass(callable_) else [callable_]
    meanings: dict[str, str] = {}
    for owner in owners:
        name = "|".join(sorted(map(re.escape, _parameters(owner)), key=len, reverse=True)) or "(?!)"
        entry = re.compile(rf"(?:^|\n *|; +|;\n *)((?:{name})(?:(?:, | and )(?:{name}))*): ")
        own_text = vars(owner).get("__doc__") if inspect.isclass(owner) else owner.__doc__
        for paragraph in inspect.cleandoc(own_text or "").split("\n\n"):
            _, *pieces = entry.split(paragraph)
            for names, text in zip(pieces[::2], pieces[1::2], strict=True):
                for each in re.split(", | and ", names):
                    meanings.setdefault(each, " ".join(text.split()).rstrip(";."))
    return meanings


@functools.cache
def _own_schema(callable_: Callable[..., Any], injected: tuple[str, ...], deferred: tuple[str, ...]) -> dict[str, Any]:
    schema = resolved_schema(_adapter(callable_, injected, deferred).json_schema())
    meanings = argument_meanings(callable_)
    for name, inner in schema["properties"].items():
        if _is_json(default := _parameters(callable_)[name].default):
            inner.setdefault("default", default)
        if name in meanings:
            schema["properties"][name] = {"description": meanings[name], **inner}
    return schema


@functools.cache
def _adapter(callable_: Callable[..., Any], injected: tuple[str, ...], deferred: tuple[str, ...]) -> TypeAdapter[Any]:
    """A strict typed dict of the arguments: unlike a model it has no names of its own that a parameter could hide."""
    fields = {}
    for name, parameter in _parameters(callable_).items():
        if name not in injected:
            annotation = _annotation(callable_, parameter)
            required = parameter.default is inspect.Parameter.empty and name not in deferred
            fields[name] = annotation if required else typing_extensions.NotRequired[annotation]
    return TypeAdapter(_typed_dict(callable_.__name__, fields))


def _typed_dict(name: str, fields: dict[str, Any]) -> Any:
    # The functional form of typing_extensions: pydantic takes no other before Python 3.12.
    made = typing_extensions.TypedDict(name, fields)  # type: ignore[misc]
    return with_config(ConfigDict(extra="forbid", strict=True))(made)


@functools.cache
def _parameters(callable_: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """By name; the `**kwargs` of a class stand for what its parents' constructors take."""
    signatures = [inspect.signature(callable_)]
    if inspect.isclass(callable_):
        owners = [owner for owner in callable_.__mro__[:-1] if "__init__" in vars(owner)]
        signatures += [inspect.signature(vars(owner)["__init__"]) for owner in owners[1:]]
    found: dict[str, inspect.Parameter] = {}
    for number, signature in enumerate(signatures):
        parameters = list(signature.parameters.values())[bool(number) :]  # without the parents' self
        for parameter in parameters:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                found.setdefault(parameter.name, parameter)
        if not any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters):
            break
    return found


def _annotation(callable_: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    annotation, default = parameter.annotation, parameter.default
    if isinstance(annotation, str):
        holder = types.SimpleNamespace(__annotations__={parameter.name: annotation})
        try:
            hints = typing.get_type_hints(holder, _namespace(callable_), include_extras=True)
            annotation = hints[parameter.name]
        except Exception:  # a name that only type checkers import; any kind of error may come out of foreign text
            annotation = parameter.empty
    if annotation is parameter.empty:
        has_plain_default = isinstance(default, (bool, int, float, str))
        annotation = type(default) if has_plain_default else Any
        # Whoever leaves out annotations may well write 1 for 1.0, and "all" where a number would do.
        loose = {int: int | float, str: str | int | float}
        annotation = loose.get(annotation, annotation)
    cleaned = _clean(annotation)
    if cleaned is _NOT_JSON:
        return Any
    return cleaned | None if default is None and cleaned is not Any else cleaned


def _namespace(callable_: Callable[..., Any]) -> dict[str, Any]:
    """The names that a string annotation may use: those of the modules that define the callable and its parents."""
    owners = list(callable_.__mro__) if inspect.isclass(callable_) else [inspect.unwrap(callable_)]
    owners.sort(key=lambda owner: inspect.isclass(owner) and "__init__" not in vars(owner))
    # What modules often import for type checkers only.
    namespace: dict[str, Any] = {**vars(typing), **vars(collections.abc)}
    for owner in reversed(owners):
        namespace.update(vars(sys.modules.get(owner.__module__, types.ModuleType("none"))))
    return namespace


def _clean(annotation: Any) -> Any:
    """The annotation with what JSON cannot hold taken out; _NOT_JSON where nothing is left."""
    annotation = getattr(annotation, "__supertype__", annotation)  # NewType
    if isinstance(annotation, typing_extensions.TypeAliasType):
        annotation = annotation.__value__
    if annotation is Any or annotation is object:
        return Any
    if annotation is None or annotation in _PLAIN or annotation in (list, tuple, dict):
        return annotation
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return annotation
    if typing_extensions.is_typeddict(annotation):
        return _clean_typed_dict(annotation)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return Annotated[annotation, BeforeValidator(functools.partial(_same_kind, arguments))]
    if origin is Annotated:
        inner = _clean(arguments[0])
        return inner if inner in (Any, _NOT_JSON) else Annotated[inner, *arguments[1:]]
    if origin in (Union, types.UnionType):
        kept = [cleaned for cleaned in map(_clean, arguments) if cleaned is not _NOT_JSON]
        if not kept or kept == [type(None)]:  # only null could be written: better to take anything
            return _NOT_JSON
        return functools.reduce(operator.or_, kept)
    return _clean_container(origin, arguments)


def _clean_container(origin: Any, arguments: tuple[Any, ...]) -> Any:
    if origin not in (tuple, *_LISTS, *_OBJECTS):
        return _NOT_JSON
    cleaned = [argument if argument is Ellipsis else _clean(argument) for argument in arguments]
    if any(argument is _NOT_JSON for argument in cleaned):
        return _NOT_JSON
    if origin is tuple:
        return tuple[tuple(cleaned)]  # type: ignore[misc]
    # An Iterable would be checked only while it is read; a list is checked now.
    return list[cleaned[0]] if origin in _LISTS else dict[cleaned[0], cleaned[1]]  # type: ignore[valid-type]


def _clean_typed_dict(annotation: Any) -> Any:
    fields = {}
    for name, inner in typing_extensions.get_type_hints(annotation, include_extras=True).items():
        cleaned = _clean(inner)
        cleaned = Any if cleaned is _NOT_JSON else cleaned
        fields[name] = cleaned if name in annotation.__required_keys__ else typing_extensions.NotRequired[cleaned]
    return _typed_dict(annotation.__name__, fields)


def _same_kind(choices: tuple[Any, ...], value: Any) -> Any:
    """Python holds True for 1, and pydantic's literals with it."""
    if isinstance(value, (bool, int)) and not any(type(choice) is type(value) for choice in choices):
        expected = " or ".join(map(repr, choices))
        raise PydanticCustomError("literal_error", "Input should be {expected}", {"expected": expected})
    return value


def _is_json(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_json, value))
    return value is None or type(value) in (bool, int, str) or (type(value) is float and value - value == 0)
