"""Where a config's values come from: files that extend one another, then the environment, then the command line.

Every value remembers what set it, so that an error names the file or the flag to change.
"""

from __future__ import annotations

import functools
import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.config.credentials import credential_places
from utils.config.former_defaults import upgraded
from utils.config.json_text import MAX_NESTING, no_such_file, parse_json, read_json
from utils.config.published_form import is_published_form, translate
from utils.environment import config_places, environment_default, notes_of_unused
from utils.errors import ConfigError, InvalidConfig, KeyPath, Problem, dotted
from utils.files import LONGEST_NAME
from utils.wording import format_value, kind, not_one_of

HIDDEN = "(hidden)"
"""Stands for a credential."""
NOT_SETTINGS = ("extends", "$schema")
NAMED_FREELY: tuple[KeyPath, ...] = (
    ("labels", "attributes"),
    ("labels", "heads"),
    ("loss", "heads"),
    ("loss", "metric_learning"),
    ("views",),
    ("sweep", "space"),
)
"""Objects whose keys the user chooses: null removes an entry that an extended file has."""
REPLACED_WHOLE: tuple[KeyPath, ...] = (("sweep", "space"),)
"""Objects whose entries are not merged with those of an extended file: a range may take the place of a list."""

GOES_WITH_TYPE: dict[KeyPath, tuple[str, ...]] = {("lr_scheduler",): ("interval", "metric", "warmup_epochs")}
"""What, beside its `args`, belongs to a type: a cosine's warm-up is not another schedule's."""


@dataclass(frozen=True)
class Override:
    """One value from the command line.

    key_path: in the config
    text: the value
    given: what errors name as its origin, such as "--lr 0.1"; "": --set with the key path and the text
    """

    key_path: str
    text: str
    given: str = ""

    @property
    def origin(self) -> str:
        """What has set the value."""
        return self.given or f"--set {self.key_path}={textwrap.shorten(self.text, 60, placeholder='...')}"

    @property
    def value(self) -> Any:
        """The text as JSON, or as it is where it is none."""
        try:
            return parse_json(self.text, self.origin)
        except ConfigError:
            return self.text


@dataclass
class Node:
    """A JSON value, its entries as nodes, and the number of the layer that has set it."""

    value: Any
    layer: int

    @classmethod
    def wrap(cls, value: Any, layer: int) -> Node:
        if isinstance(value, dict):
            value = {key: cls.wrap(inner, layer) for key, inner in value.items()}
        elif isinstance(value, list):
            value = [cls.wrap(inner, layer) for inner in value]
        return cls(value, layer)

    @property
    def plain(self) -> Any:
        if isinstance(self.value, dict):
            return {key: inner.plain for key, inner in self.value.items()}
        return [inner.plain for inner in self.value] if isinstance(self.value, list) else self.value

    @property
    def name(self) -> Any:
        """What an edit of a list calls this entry by: its `type`, or a plain value itself."""
        plain = self.plain
        return plain["type"] if isinstance(plain, dict) and "type" in plain else plain


class Layers:
    """The values of several layers, merged, each with its origin: a file, an environment variable or a flag.

    problems: lines for the user; notes: lines for the log.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.notes: list[str] = []
        self._root = Node({}, 0)
        self._origins = [""]  # by layer
        self._extended: dict[str, set[str]] = {}  # by file that is merged, all that it extends
        self._uses_environment = False

    @classmethod
    def from_file(cls, path: Path) -> Layers:
        """A file, over the files that it extends, in their order. Raises ConfigError.

        A file that several of them extend is merged once, at the bottom: their changes of it add up."""
        layers = cls()
        layers._add_file(path, ())
        return layers

    @classmethod
    def below_file(cls, path: Path) -> Layers:
        """The files that a file extends; itself where it extends none. Raises ConfigError."""
        layers = cls()
        extends = read_json(path).get("extends") or []
        for named in extends if isinstance(extends, list) else [extends]:
            layers._add_file(path.parent / named, (path,))
        return layers if extends else cls.from_file(path)

    @property
    def values(self) -> dict[str, Any]:
        """The merged values as plain data."""
        values: dict[str, Any] = self._root.plain
        return values

    def origin(self, key_path: KeyPath) -> str:
        """What has set the value at a key path, or the nearest one around it."""
        node = self._root
        for step in key_path:
            if not _has(node, step):
                break
            node = node.value[step]
        return self._origins[node.layer]

    def add(self, values: dict[str, Any], origin: str) -> None:
        """Merges `values` into what is there: objects are merged, an object edits a list, all else is replaced.

        null removes an entry of NAMED_FREELY. A new `type` drops the `args` of the old one, and GOES_WITH_TYPE."""
        self._origins.append(origin)
        values = {key: value for key, value in values.items() if key not in NOT_SETTINGS}
        node = Node.wrap(values, self._layer)
        for key_path in credential_places(values):
            self._refuse_credential(key_path, origin)
            functools.reduce(lambda inner, step: inner.value[step], key_path, node).value = HIDDEN
        self._root.layer = self._layer
        self._merge(self._root, node, ())

    def override(self, override: Override, value: Any) -> KeyPath | None:
        """Sets a value and returns its key path, or None where there is no such key path: `problems` says why."""
        steps = override.key_path.split(".")
        if credential_places({steps[-1]: value}):
            self._refuse_credential(tuple(steps), f"--set {override.key_path}=...")
            return None
        return self._set(steps, value, override.origin)

    def add_environment(self, resumes: bool = False) -> None:
        """Sets what the platform's variables give (see `config_places`)."""
        self._uses_environment = True
        for key_path, name in config_places(self.values, resumes).items():
            self._set(key_path.split("."), environment_default(name), f"environment variable {name}")

    def environment_notes(self) -> list[str]:
        """A line for each variable whose value is in force, and for one that cannot be used."""
        used = [
            f"environment variable {name} sets {key_path} = {environment_default(name)}"
            for key_path, name in config_places(self.values).items()
            if self.origin(tuple(int(step) if step.isdigit() else step for step in key_path.split(".")))
            == f"environment variable {name}"
        ]
        return used + (notes_of_unused(self.values) if self._uses_environment else [])

    def drop_info_dir_of_other_data(self) -> None:
        """Leaves out an info_dir that was set before `data`, none of which is a competition's folder."""
        data, info_dir = (self._root.value.get(key) for key in ("data", "info_dir"))
        if not data or not info_dir or not info_dir.value or not data.value or info_dir.layer >= data.layer:
            return
        if isinstance(data.value, list) and "CompetitionFolder" not in [each.name for each in data.value]:
            self.notes.append(
                f"{self._origins[data.layer]}: info_dir = {format_value(info_dir.value)} of "
                f"{self._origins[info_dir.layer]} is of other data and is left out; set info_dir beside data, or give "
                "test.py --info-dir"
            )
            self._root.value["info_dir"] = Node(None, data.layer)

    @property
    def _layer(self) -> int:
        return len(self._origins) - 1

    def _add_file(self, path: Path, chain: tuple[Path, ...]) -> str:
        """Merges a file, unless it is merged already, and returns its name."""
        path = Path(os.path.normpath(path))
        for merged in self._extended:
            if Path(merged).resolve() == path.resolve():
                return merged
        values = read_json(path)
        if is_published_form(values):
            try:
                values, note = translate(values)
            except InvalidConfig as error:
                raise ConfigError("\n".join(f"{path}: {problem}" for problem in error.problems)) from None
            self.notes.append(f"{path}: {note}")
        if "config_format" in values:  # a run has saved it
            values = upgraded(values)
        extends = values.get("extends", [])
        parents = extends if isinstance(extends, list) else [extends]
        if not all(isinstance(parent, str) for parent in parents):
            raise ConfigError(f"{path}: extends = {format_value(extends)} must be a path or a list of paths")
        extended: set[str] = set()
        for named in parents:
            if "\0" in named or any(len(part.encode()) > LONGEST_NAME for part in named.split("/")):
                raise ConfigError(f"{path}: extends = {format_value(named)} is no path")
            parent = path.parent / named
            if parent.resolve() in [earlier.resolve() for earlier in (*chain, path)]:
                way = " -> ".join(map(str, (*chain, path, os.path.normpath(parent))))
                raise ConfigError(f"{path}: extends = {format_value(named)} loops: {way}")
            if len(chain) > MAX_NESTING:
                wrong = f"is more than {MAX_NESTING} levels of files deep; extend one that is nearer"
                raise ConfigError(f"{path}: extends = {format_value(named)} {wrong}")
            if not parent.is_file():
                raise ConfigError(f"{path}: extends = {format_value(named)}: {no_such_file(parent)}")
            name = self._add_file(parent, (*chain, path))
            extended |= {name, *self._extended[name]}
        self._extended[str(path)] = extended
        self.add(values, str(path))
        return str(path)

    def _refuse_credential(self, key_path: KeyPath, origin: str) -> None:
        self.problems.append(
            f"{origin}: {dotted(key_path)} holds a credential; remove it, and renew it if anyone has seen the file "
            "(wandb reads WANDB_API_KEY from the environment)"
        )

    def _set(self, steps: Sequence[str], value: Any, origin: str) -> KeyPath | None:
        """Sets the value at a key path, which it returns; None where that cannot be, with a problem."""
        self._origins.append(origin)
        node, key_path = self._root, KeyPath()
        for number, step in enumerate(steps):
            last = number == len(steps) - 1
            position: str | int = int(step) if isinstance(node.value, list) and step.isdigit() else step
            if not isinstance(node.value, dict) and not _has(node, position):
                what = f"a list of {len(node.value)}" if isinstance(node.value, list) else kind(node.value)
                self.problems.append(f'{origin}: {dotted(key_path) or "the top level"} is {what}; it has no "{step}"')
                return None
            inner = node.value[position] if _has(node, position) else Node(None, self._layer)
            if last or inner.value is None:  # an object that the files leave out is made
                over = Node.wrap(value if last else {}, self._layer)
                self._merge(node, Node({position: over}, self._layer), key_path)
            key_path = (*key_path, position)
            if not last:
                node = node.value[position]
        return key_path

    def _merge(self, base: Node, over: Node, key_path: KeyPath) -> None:
        old_type, new_type = (node.value["type"].value if "type" in node.value else None for node in (base, over))
        if isinstance(old_type, str) and isinstance(new_type, str) and old_type != new_type:
            dropped = base.value.pop("args", Node({}, 0))
            if dropped.value and ("class_weights" in dropped.value or self._is_unaware_of(dropped)):
                self._note(f"{dotted(key_path)}.type = {format_value(new_type)} drops the args", dropped)
            for name in GOES_WITH_TYPE.get(key_path, ()):
                base.value.pop(name, None)
        for key, value in over.value.items():
            self._merge_entry(base, key, value, key_path)

    def _merge_entry(self, base: Node, key: str | int, over: Node, key_path: KeyPath) -> None:
        """key_path: of `base`."""
        inner = (*key_path, key)
        earlier: Node = base.value[key] if _has(base, key) else Node(None, 0)
        if over.value is None and key_path in NAMED_FREELY:
            base.value.pop(key, None)
        elif key_path in REPLACED_WHOLE:
            base.value[key] = over
        elif isinstance(over.value, dict) and isinstance(earlier.value, dict):
            earlier.layer = self._layer
            self._merge(earlier, over, inner)
        elif isinstance(over.value, dict) and isinstance(earlier.value, list):
            try:
                earlier.value = edited(earlier.value, over, inner)
                earlier.layer = self._layer
            except InvalidConfig as error:
                self.problems += [f"{self._origins[-1]}: {problem}" for problem in error.problems]
        else:
            if over.value is None and earlier.value is not None and self._is_unaware_of(earlier):
                self._note(f"{dotted(inner)} = null removes the value", earlier)
            base.value[key] = over

    def _is_unaware_of(self, earlier: Node) -> bool:
        """Whether the file that is being merged does not extend the one that has set a value: only the order of a third
        file's `extends` decides between them."""
        origin, other = self._origins[-1], self._origins[earlier.layer]
        return origin in self._extended and other in self._extended and other not in self._extended[origin]

    def _note(self, what: str, earlier: Node) -> None:
        value = format_value(earlier.plain)
        self.notes.append(f"{self._origins[-1]}: {what} that {self._origins[earlier.layer]} has set: {value}")


def edited(entries: list[Node], edit: Node, key_path: KeyPath) -> list[Node]:
    """A list after an edit such as `{"remove": ["CoarseDropout"], "add": [{...}], "before": "Normalize"}`: entries are
    removed, then others are added before or after one, or at the end.

    key_path: of the list. Raises InvalidConfig."""
    values = edit.value
    add, remove = (values[key].value if key in values else [] for key in ("add", "remove"))
    anchors = [key for key in ("before", "after") if key in values]
    needed = values.keys() & ({"add"} if anchors else {"add", "remove"})
    is_known = values.keys() <= {"add", "remove", "before", "after"} and len(anchors) <= 1
    if not (needed and is_known and isinstance(add, list) and isinstance(remove, list)):
        right = 'a list, or an edit of the extended one: {"remove": [...], "add": [...], "before" or "after": ...}'
        raise InvalidConfig([Problem(key_path, f"= {format_value(edit.plain)} must be {right}")])
    removed = [node.plain for node in remove]
    kept = [entry for entry in entries if entry.name not in removed]
    references: list[tuple[KeyPath, Any, list[Node]]] = [
        (("remove", number), name, entries) for number, name in enumerate(removed)
    ]
    references += [((key,), values[key].plain, kept) for key in anchors]
    problems = [
        Problem(
            (*key_path, *steps), f"= {format_value(name)} {not_one_of(str(name), [str(each.name) for each in among])}"
        )
        for steps, name, among in references
        if name not in [each.name for each in among]
    ]
    if problems:
        raise InvalidConfig(problems)
    position = len(kept)
    for key in anchors:
        position = [entry.name for entry in kept].index(values[key].plain) + (key == "after")
    return [*kept[:position], *add, *kept[position:]]


def _has(node: Node, step: str | int) -> bool:
    if isinstance(node.value, dict):
        return step in node.value
    return isinstance(node.value, list) and step in range(len(node.value))
