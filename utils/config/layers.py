"""Where a config's values come from: files that extend one another, then overrides from the command line.

Every value remembers what set it, so that an error names the file or the flag to change.
"""

from __future__ import annotations

import copy
import json
import os
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.config.credentials import credential_places
from utils.config.former_defaults import upgraded
from utils.config.json_text import NOT_JSON, JsonError, parse_json, read_json
from utils.config.list_edits import edited, is_list_edit
from utils.config.published_form import is_published_form, translate
from utils.environment import config_places, environment_default, notes_of_unused
from utils.errors import ConfigError, InvalidConfig, KeyPath, dotted
from utils.wording import did_you_mean, format_value, kind

HIDDEN = "(hidden)"
NOT_SETTINGS = ("extends", "$schema")
NAMED_FREELY: tuple[KeyPath, ...] = (
    ("labels", "attributes"),
    ("labels", "heads"),
    ("loss", "heads"),
    ("loss", "metric_learning"),
    ("views",),
)
"""Objects whose keys the user names: null takes one out that an extended file has put in."""


@dataclass(frozen=True)
class Override:
    """One value from the command line: the key path in the config, the text, and the flag as errors name it."""

    key_path: str
    text: str
    flag: str = "--set"

    @property
    def origin(self) -> str:
        text = textwrap.shorten(self.text, 60, placeholder="...")
        return f"--set {self.key_path}={text}" if self.flag == "--set" else f"{self.flag} {text}"

    @property
    def value(self) -> Any:
        """The text as JSON, or as it stands where it is none. Raises JsonError for half a list, object or text."""
        try:
            return parse_json(self.text, self.origin)
        except JsonError:
            if self.text[:1] in ("[", "{", '"'):
                raise
            return self.text


class Layers:
    """Plain data, layer over layer: `values`, and by key path what has set them.

    problems: lines for the user; reported: the places that they speak of, where nothing more is to be said."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.problems: list[str] = []
        self.reported: list[KeyPath] = []
        self.notes: list[str] = []
        self._origins: dict[KeyPath, str] = {}
        self._extended: dict[str, set[str]] = {}  # by file laid, those that it extends, and they extend
        self._environment_asked = False

    @classmethod
    def from_file(cls, path: Path) -> Layers:
        """A file, over the files that it extends, in their order. A file that several of them extend is laid once, at
        the bottom, so that what each says over it adds up. Raises ConfigError."""
        layers = cls()
        layers._add_file(path, ())
        return layers

    @classmethod
    def from_dict(cls, values: dict[str, Any], origin: str) -> Layers:
        layers = cls()
        layers.add(values, origin)
        return layers

    def origin(self, key_path: KeyPath) -> str:
        """What has set the value at a key path, or the nearest one around it."""
        for length in range(len(key_path), -1, -1):
            if key_path[:length] in self._origins:
                return self._origins[key_path[:length]]
        return ""

    def _add_file(self, path: Path, chain: tuple[Path, ...]) -> None:
        path = Path(os.path.normpath(path))
        values = read_json(path)
        if is_published_form(values):
            try:
                values, notes = translate(values)
            except InvalidConfig as error:
                raise ConfigError("\n".join(f"{path}: {problem}" for problem in error.problems)) from None
            self.notes += [f"{path}: {note}" for note in notes]
        if "config_format" in values:  # a run has saved it
            values = upgraded(values)
        parents = [self._add_parent(path, parent, (*chain, path)) for parent in _parents(path, values)]
        self._extended[str(path)] = {each for parent in parents for each in (parent, *self._extended[parent])}
        self.add(values, str(path))

    def _add_parent(self, path: Path, named: str, chain: tuple[Path, ...]) -> str:
        """Lays an extended file, if it is not there, and returns its name."""
        parent = Path(os.path.normpath(path.parent / named))
        way = " -> ".join(map(str, (*chain, parent)))
        if any(parent.resolve() == earlier.resolve() for earlier in chain):
            raise ConfigError(f"{path}: extends = {format_value(named)} loops: {way}")
        if not parent.is_file():
            neighbours = parent.parent.glob("*.json") if parent.parent.is_dir() else []
            meant = did_you_mean(parent.name, [other.name for other in neighbours if other != path])
            raise ConfigError(
                f"{path}: extends = {format_value(named)}: there is no file {parent}{meant} (read: {way})"
            )
        laid = next((name for name in self._extended if Path(name).resolve() == parent.resolve()), None)
        if laid is None:
            self._add_file(parent, chain)
        return laid or str(parent)

    def add(self, values: dict[str, Any], origin: str) -> None:
        """Lays `values` over what is there: objects are merged, an object edits a list, everything else is replaced.

        null takes out an entry of what is named freely. Where an object changes its `type`, the old one's `args` are
        dropped: they were written for another."""
        values = {key: copy.deepcopy(value) for key, value in values.items() if key not in NOT_SETTINGS}
        for key_path in credential_places(values):
            self._refuse_credential(key_path, origin)
            _at(values, key_path[:-1])[key_path[-1]] = HIDDEN
        self._origins[()] = origin
        self._merge(self.values, values, (), origin)

    def override(self, override: Override, as_text: bool = False) -> KeyPath | None:
        """Sets one value and returns its key_path, or None where it has none; `problems` then says why.

        as_text: the value is the text as it stands, whatever JSON would make of it."""
        steps = override.key_path.split(".")
        invalid = ""
        try:
            value = override.text if as_text else override.value
        except JsonError as error:
            value, invalid = override.text, error.reasons[0].removeprefix(NOT_JSON)
        if credential_places({steps[-1]: value}):
            self._refuse_credential(tuple(steps), f"--set {override.key_path}=...")
            return None
        if invalid:
            self.problems.append(f"{override.origin}: is not valid JSON: {invalid}")
            return None
        return self._set(steps, value, override.origin)

    def add_environment(self, goes_on: bool = False) -> None:
        """Lays over what is there what the platform's variables say (see `config_places`)."""
        self._environment_asked = True
        for key_path, name in config_places(self.values, goes_on).items():
            self._set(key_path.split("."), environment_default(name), _variable(name))

    def environment_notes(self) -> list[str]:
        """A line for each key path that a variable has set and nothing has since, and for what cannot be used."""
        used = [
            f"{_variable(name)} sets {key_path} = {environment_default(name)}"
            for key_path, name in config_places(self.values).items()
            if self.origin(tuple(int(step) if step.isdigit() else step for step in key_path.split(".")))
            == _variable(name)
        ]
        return used + (notes_of_unused(self.values) if self._environment_asked else [])

    def _set(self, steps: list[str], value: Any, origin: str) -> KeyPath | None:
        """Sets the value at a key path, which it returns; None where that cannot be, with a problem."""
        node: Any = self.values
        key_path: KeyPath = ()
        for number, step in enumerate(steps):
            last = number == len(steps) - 1
            if isinstance(node, dict) and step:
                if last or node.get(step) is None:  # an object that the files leave out is made
                    self._merge(node, {step: value if last else {}}, key_path, origin)
                key_path, node = (*key_path, step), node.get(step)  # null has taken it out
            elif isinstance(node, list) and step.isdigit() and int(step) < len(node):
                key_path = (*key_path, int(step))
                if last and isinstance(value, dict) and isinstance(node[int(step)], dict):
                    self._merge(node[int(step)], value, key_path, origin)
                elif last:
                    node[int(step)] = value
                    self._record(value, key_path, origin)
                node = node[int(step)]
            else:
                what = f"a list of {len(node)}" if isinstance(node, list) else kind(node)
                holder = dotted(key_path) or "the top level"
                self.problems.append(f"{origin}: {holder} is {what}; it has no {json.dumps(step)}")
                return None
        return key_path

    def leave_other_data(self) -> None:
        """Takes out an info_dir that was set for other data: by a file below the one that names the sources, none of
        which is the competition's folder."""
        sources, info_dir = self.values.get("data"), self.values.get("info_dir")
        if not info_dir or not isinstance(sources, list) or not sources:
            return
        types = [each.get("type") for each in sources if isinstance(each, dict)]
        owners = {self.origin(("data", number, "type")) for number in range(len(sources))}
        laid = list(self._origins)
        is_later = laid.index(("info_dir",)) > laid.index(("data",))
        if "CompetitionFolder" in types or self.origin(("info_dir",)) in owners or is_later:
            return
        self.notes.append(
            f"{self.origin(('data',))}: data are not those that info_dir = {format_value(info_dir)} of "
            f"{self.origin(('info_dir',))} was set for; it is left out: set info_dir beside data, or give test.py "
            "--info-dir"
        )
        self._set(["info_dir"], None, self.origin(("data",)))

    def _refuse_credential(self, key_path: KeyPath, origin: str) -> None:
        self.reported.append(key_path)
        self.problems.append(
            f"{origin}: {dotted(key_path)} holds a credential; remove it, and renew it if anyone has seen the file "
            "(wandb reads WANDB_API_KEY from the environment)"
        )

    def _merge(self, base: dict[str, Any], over: dict[str, Any], key_path: KeyPath, origin: str) -> None:
        types = base.get("type"), over.get("type")
        if all(isinstance(name, str) for name in types) and types[0] != types[1]:
            self._note_dropped(base, types[1], key_path, origin)
            base.pop("args", None)
            self._forget((*key_path, "args"))
        for key, value in over.items():
            inner = (*key_path, key)
            if value is None and key_path in NAMED_FREELY:
                base.pop(key, None)
                self._forget(inner)
            elif isinstance(value, dict) and isinstance(base.get(key), dict):
                self._origins[inner] = origin
                self._merge(base[key], value, inner, origin)
            elif isinstance(value, dict) and isinstance(base.get(key), list):
                self._edit(base[key], value, inner, origin)
            else:
                earlier = self.origin(inner)
                if value is None and base.get(key) is not None and self._is_unaware(origin, earlier):
                    self.notes.append(f"{origin}: {dotted(inner)} = null takes out what {earlier} has set")
                base[key] = value
                self._forget(inner)
                self._record(value, inner, origin)

    def _note_dropped(self, section: dict[str, Any], new_type: Any, key_path: KeyPath, origin: str) -> None:
        """Class weights that go with a loss, and arguments that the new type's file did not know of, are noted."""
        arguments, earlier = section.get("args"), self.origin((*key_path, "args"))
        if not isinstance(arguments, dict) or not arguments:
            return
        if "class_weights" in arguments or self._is_unaware(origin, earlier):
            self.notes.append(
                f"{origin}: {dotted(key_path)}.type = {format_value(new_type)} drops the args of {section['type']} "
                f"that {earlier} has set: {format_value(arguments)}"
            )

    def _is_unaware(self, origin: str, earlier: str) -> bool:
        """Whether a file takes back what another has set which it does not extend: it is the order of a third file's
        `extends` that decides between them."""
        return origin in self._extended and earlier in self._extended and earlier not in self._extended[origin]

    def _edit(self, entries: list[Any], edit: dict[str, Any], key_path: KeyPath, origin: str) -> None:
        """Changes a list in place; each entry keeps what has set it."""
        try:
            after = edited(entries, edit, key_path)
        except InvalidConfig as error:
            self.problems += [f"{origin}: {problem}" for problem in error.problems]
            return
        moved = {before: number for number, (before, _) in enumerate(after) if before is not None}

        def move(old: KeyPath) -> KeyPath | None:
            """Where a key path inside the list is now; None if its entry is gone."""
            depth = len(key_path)
            number = moved.get(int(old[depth]))
            return None if number is None else (*key_path, number, *old[depth + 1 :])

        inside = {old: by for old, by in self._origins.items() if old[: len(key_path)] == key_path and old != key_path}
        self._forget(key_path)
        self._origins[key_path] = origin
        self._origins |= {new: by for old, by in inside.items() if (new := move(old)) is not None}
        self.reported = [
            new for old in self.reported if (new := move(old) if old[: len(key_path)] == key_path else old) is not None
        ]
        entries[:] = [entry for _, entry in after]
        for number, (before, entry) in enumerate(after):
            if before is None:
                self._record(entry, (*key_path, number), origin)

    def _forget(self, key_path: KeyPath) -> None:
        self._origins = {other: origin for other, origin in self._origins.items() if other[: len(key_path)] != key_path}

    def _record(self, value: Any, key_path: KeyPath, origin: str) -> None:
        self._origins[key_path] = origin
        holds_names = key_path in NAMED_FREELY or key_path[:-1] in NAMED_FREELY
        if is_list_edit(value) and not holds_names and all(isinstance(step, str) for step in key_path):
            self.reported.append(key_path)
            wrong = f"{dotted(key_path)} = {format_value(value)} edits a list, and no extended file has one"
            self.problems.append(f"{origin}: {wrong}; write a list")
        steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for step, inner in steps:
            self._record(inner, (*key_path, step), origin)


def _variable(name: str) -> str:
    return f"environment variable {name}"


def _parents(path: Path, values: dict[str, Any]) -> list[str]:
    extends = values.get("extends", [])
    parents = extends if isinstance(extends, list) else [extends]
    if not all(isinstance(parent, str) for parent in parents):
        raise ConfigError(f"{path}: extends = {format_value(extends)} must be a path or a list of paths")
    return parents


def _at(values: Any, key_path: KeyPath) -> Any:
    for step in key_path:
        values = values[step]
    return values
