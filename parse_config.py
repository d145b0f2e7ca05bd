"""The config: read (JSON, comments allowed) -> extend -> override -> fill in defaults -> check -> build by name.

config = ConfigParser.from_file(arguments.config, SECTIONS, arguments.overrides)
optimizer = config.build("optimizer", params=model.parameters())
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from utils.config.layers import HIDDEN, Layers, Override
from utils.config.plugins import KEY, Component, load_plugins
from utils.config.sections import Section, Sections, TypedSection
from utils.config.template_keys import CONFIG_METHODS, GUIDE, template_problems
from utils.errors import ConfigError, InvalidConfig, KeyPath, Problem
from utils.wording import format_value

CrossChecks = Callable[["ConfigParser", list[Problem]], list[Problem]]
"""What is wrong between the sections of a config, beside what is known to be wrong within them."""


class ConfigParser:
    """A checked config.

    resolved: plain data with every default, in the schema's order, ready to be saved; notes: lines for the log.
    plugins: what its "plugins" define; they are active in all that it builds and checks.
    """

    def __init__(
        self,
        layers: Layers,
        sections: Sections,
        overrides: Sequence[Override] = (),
        cross_checks: CrossChecks | None = None,
        run: Path | None = None,
    ) -> None:
        """Applies the overrides, loads the plug-ins, fills in the defaults and checks everything.

        cross_checks: asked for what else is wrong where a section is wrong in itself: all is reported together.
        run: the folder of the run that has saved the config, if one has

        Raises ConfigError, a line for each problem."""
        self.sections = sections
        self._layers = layers
        self._shared: dict[str, Any] = {}
        for override in overrides:
            if override.key_path.split(".")[0] == KEY:
                self._override(override)
        self.plugins, wrong = load_plugins(layers.values.get(KEY), self._folder_of_plugin, run)
        if wrong:
            raise ConfigError("\n".join([*layers.problems, *self._lines(wrong)]), wrong)
        with self.plugins.active():
            self._resolve(overrides, cross_checks)

    def _resolve(self, overrides: Sequence[Override], cross_checks: CrossChecks | None) -> None:
        layers, sections = self._layers, self.sections
        # A new type drops the arguments of the old one, so it must come before overrides of the new one's.
        for override in sorted(overrides, key=lambda each: each.key_path.split(".")[-1] != "type"):
            if override.key_path.split(".")[0] != KEY:
                self._override(override)
        layers.drop_info_dir_of_other_data()
        self.notes = [*layers.notes, *layers.environment_notes(), *self.plugins.notes]
        self.resolved: dict[str, Any] = sections.with_defaults(layers.values)
        found = [each for each in sections.problems(self.resolved, ()) if self._value(each.key_path) != HIDDEN]
        known = template_problems(layers.values) if found else []
        problems = [*{problem.key_path: problem for problem in (*found, *known)}.values()]
        if problems or layers.problems:
            if cross_checks is not None and not layers.problems:
                problems += cross_checks(self, problems)
            raise ConfigError("\n".join([*layers.problems, *self._lines(problems)]), problems)
        if self.plugins.plugins:
            self.resolved[KEY] = [plugin.kept for plugin in self.plugins.plugins]

    def _folder_of_plugin(self, number: int) -> Path | None:
        """Of the file that names it; None for a flag."""
        file = Path(self._layers.origin((KEY, number)))
        return file.parent if file.is_file() else None

    @classmethod
    def from_file(
        cls,
        path: Path | str,
        sections: Sections,
        overrides: Sequence[Override] = (),
        cross_checks: CrossChecks | None = None,
        environment: bool = False,
    ) -> ConfigParser:
        """The config of a file and of those that it extends. Raises ConfigError.

        environment: the platform's variables (utils/environment.py) are laid over it, below the overrides."""
        layers = Layers.from_file(Path(path))
        if environment:
            layers.add_environment()
        return cls(layers, sections, overrides, cross_checks)

    @classmethod
    def from_dict(
        cls,
        values: dict[str, Any],
        sections: Sections,
        origin: str,
        overrides: Sequence[Override] = (),
        environment: bool = False,
        run: Path | None = None,
    ) -> ConfigParser:
        """The config that a run has saved; `origin` is what errors name, such as "checkpoint x.pth".

        environment: as for `from_file`, where a run may change
        run: the run's folder"""
        layers = Layers()
        layers.add(values, origin)
        if environment:
            layers.add_environment(resumes=True)
        return cls(layers, sections, overrides, run=run)

    @property
    def given(self) -> dict[str, Any]:
        """What files, the environment and flags have set, without defaults."""
        return self._layers.values

    @property
    def short(self) -> dict[str, Any]:
        """Of `resolved` what differs from the defaults: the rest can be left out."""
        short = copy.deepcopy(self.resolved)

        def shorten(node: Any) -> None:
            for key in list(node) if isinstance(node, dict) else ():
                value = node.pop(key)
                if self.sections.with_defaults(short) != self.resolved:
                    node[key] = value
                    shorten(value)
            for entry in node if isinstance(node, list) else ():
                shorten(entry)

        with self.plugins.active():
            shorten(short)
        return short

    def __getattr__(self, name: str) -> Any:
        if name in CONFIG_METHODS:
            raise AttributeError(f"config.{name} is pytorch-template's: here it is {CONFIG_METHODS[name]} ({GUIDE})")
        raise AttributeError(f"a ConfigParser has no attribute {name!r}")

    def __getitem__(self, key: str) -> Any:
        return self.resolved[key]

    def build(self, key_path: str, **injected: Any) -> Any:
        """Builds what is at a key path: "optimizer", "loss.heads.age", "data" (a list), "loss.heads" (a dict by name).

        Each constructor is given those of `injected` that it has a parameter for. An optional section that is absent
        gives None (a list: []). Raises ConfigError where a constructor refuses its arguments."""
        section, value, steps = self._find(key_path)
        return self._or_error(lambda: section.build(value, steps, injected))

    def component(self, key_path: str) -> Component:
        """The class or function that the "type" at a key path names."""
        section, value, _ = self._find(key_path)
        assert isinstance(section, TypedSection)
        with self.plugins.active():
            return section.names[value["type"]]

    def shared(self, key_path: str) -> Any:
        """As `build`, but the same object each time: for what has no state, such as "labels" and "split"."""
        if key_path not in self._shared:
            self._shared[key_path] = self.build(key_path)
        return self._shared[key_path]

    def extra(self, key_path: str = "") -> Any:
        """What a section's `extra` makes of the keys beside "type" and "args"; "" is the top level's plain keys."""
        section, value, steps = self._find(key_path)
        assert isinstance(section, Sections)
        return self._or_error(lambda: section.build_extra(value, steps))

    def problem(self, dotted_path: str, text: str) -> Problem:
        """What is wrong with the value at a key path: `text`, such as `is not one of ...`, after the value."""
        key_path = self._steps(dotted_path)
        value = self._value(key_path)
        return Problem(key_path, text if value is None else f"= {format_value(value)} {text}")

    def error(self, problems: Sequence[Problem]) -> ConfigError:
        """The error that tells these problems, whose key paths are absolute."""
        return ConfigError("\n".join(self._lines(problems)), problems)

    def origin(self, key_path: str) -> str:
        """The file or the flag that has set the value at a key path."""
        return self._layers.origin(self._steps(key_path))

    def _lines(self, problems: Sequence[Problem]) -> list[str]:
        """Each with its origin, in the order of the file."""
        ordered = sorted(problems, key=lambda problem: _position(problem.key_path, self._layers.values))
        return [f"{self._layers.origin(problem.key_path)}: {problem}" for problem in ordered]

    def _override(self, override: Override) -> None:
        """A number, a truth value or null where text is expected is the text: `--set name=2024`."""
        value = override.value
        is_word = value is None or isinstance(value, (bool, int, float))
        for each in (value, override.text, value) if is_word else (value,):
            key_path = self._layers.override(override, each)
            found = self.sections.problems(self._layers.values, ()) if is_word else []
            if key_path is None or all(problem.key_path != key_path for problem in found):
                return

    def _find(self, key_path: str) -> tuple[Section, Any, KeyPath]:
        section: Section = self.sections
        steps = self._steps(key_path)
        for step in steps:
            section = section.part(step)
        return section, self._value(steps), steps

    def _steps(self, dotted_path: str) -> KeyPath:
        """The steps of a dotted key path; a number is an index only where a list stands."""
        key_path: KeyPath = ()
        for step in dotted_path.split(".") if dotted_path else ():
            in_list = isinstance(self._value(key_path), list) and step.isdigit()
            key_path = (*key_path, int(step) if in_list else step)
        return key_path

    def _value(self, key_path: KeyPath) -> Any:
        """The value at a key path, None where there is none."""
        value: Any = self.resolved
        for step in key_path:
            holds = step in value if isinstance(value, dict) else isinstance(value, list) and step in range(len(value))
            value = value[step] if holds else None
        return value

    def _or_error(self, make: Callable[[], Any]) -> Any:
        try:
            with self.plugins.active():
                return make()
        except InvalidConfig as error:
            raise self.error(error.problems) from error


def _position(key_path: KeyPath, root: Any) -> tuple[float, ...]:
    """Sorts key paths in the order of the values in `root`; what is not there comes last in its object."""
    numbers: list[float] = []
    for step in key_path:
        steps = list(root) if isinstance(root, dict) else list(range(len(root))) if isinstance(root, list) else []
        if step not in steps:
            return (*numbers, float("inf"))
        numbers.append(steps.index(step))
        root = root[step]
    return tuple(numbers)
