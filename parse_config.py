"""The config: read (JSON, comments allowed) -> extend -> override -> check -> build objects by name.

config = ConfigParser.from_file(arguments.config, SECTIONS, arguments.overrides)
optimizer = config.build("optimizer", params=model.parameters())
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from utils.config.layers import Layers, Override
from utils.config.list_edits import is_list_edit
from utils.config.problems import position
from utils.config.sections import (
    ByName,
    Group,
    Many,
    One,
    Section,
    Settings,
    build_extra,
    listed,
)
from utils.errors import ConfigError, InvalidConfig, KeyPath, Problem
from utils.wording import shown

__all__ = [
    "ByName",
    "ConfigParser",
    "Group",
    "Many",
    "One",
    "Override",
    "Section",
    "Settings",
    "listed",
]


CrossChecks = Callable[["ConfigParser", list[Problem]], list[Problem]]
"""What is wrong between the sections of a config, beside what is known to be wrong within them."""


class ConfigParser:
    """A checked config.

    resolved: plain data with everything applied, ready to be saved; notes: what the log should tell of it."""

    def __init__(
        self,
        layers: Layers,
        sections: Group,
        overrides: Sequence[Override] = (),
        cross_checks: CrossChecks | None = None,
    ) -> None:
        """Applies the overrides and checks everything. Raises ConfigError, a line for each problem.

        cross_checks: asked for what else is wrong where a section is wrong in itself: all is reported together."""
        self.sections = sections
        self._layers = layers
        # A new type drops the arguments of the old one, so it must come before overrides of the new one's.
        for override in sorted(overrides, key=lambda each: each.place.split(".")[-1] != "type"):
            self._override(override)
        layers.leave_other_data()
        self.notes = [*layers.notes, *layers.environment_notes()]
        problems = [
            problem
            for problem in self.sections.problems(self.resolved, ())
            if not any(problem.key_path[: len(place)] == place for place in layers.told)
        ]
        if problems or layers.problems:
            if cross_checks is not None and not layers.problems:
                problems += cross_checks(self, problems)
            raise ConfigError("\n".join([*layers.problems, *self._lines(problems)]), problems)

    @classmethod
    def from_file(
        cls,
        path: Path | str,
        sections: Group,
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
        sections: Group,
        origin: str,
        overrides: Sequence[Override] = (),
        environment: bool = False,
    ) -> ConfigParser:
        """A config that is at hand, of a run that goes on; `origin` is what errors name, such as "checkpoint x.pth".

        environment: as for `from_file`, where a run may change."""
        layers = Layers.from_dict(values, origin)
        if environment:
            layers.add_environment(goes_on=True)
        return cls(layers, sections, overrides)

    @property
    def resolved(self) -> dict[str, Any]:
        return self._layers.values

    def __getitem__(self, key: str) -> Any:
        return self.resolved[key]

    def build(self, place: str, **supplied: Any) -> Any:
        """Builds what stands at a place: "optimizer", "loss.heads.age", "data" (a list), "loss.heads" (a dict by name).

        Each constructor is given those of `supplied` that it has a parameter for. An optional section that is absent
        gives None (a list: []). Raises ConfigError where a constructor refuses its arguments."""
        section, value, steps = self._find(place)
        return self._or_error(lambda: section.build(value, steps, supplied))

    def extra(self, place: str = "") -> Any:
        """What a section's `extra` makes of the keys beside "type" and "args"; "" is the top level's plain keys."""
        section, value, steps = self._find(place)
        return self._or_error(lambda: build_extra(section, value, steps))

    def problem(self, place: str, text: str) -> Problem:
        """What is wrong with the value at a place: `text`, such as `is not one of ...`, after the value."""
        key_path = self._place(place)
        value = self._value(key_path)
        return Problem(key_path, text if value is None else f"= {shown(value)} {text}")

    def error(self, problems: Sequence[Problem]) -> ConfigError:
        """The error that tells these problems, whose key paths are absolute."""
        return ConfigError("\n".join(self._lines(problems)), problems)

    def origin(self, place: str) -> str:
        """The file or the flag that has set the value at a place."""
        return self._layers.origin(self._place(place))

    def _lines(self, problems: Sequence[Problem]) -> list[str]:
        """With what has set each, in the order of the file."""
        ordered = sorted(problems, key=lambda problem: position(problem.key_path, self.resolved))
        return [f"{self._layers.origin(problem.key_path)}: {problem}" for problem in ordered]

    def _override(self, override: Override) -> None:
        """A value that reads as JSON, but stands where text is expected, is the text: `--set name=2024`."""
        place = self._layers.override(override)
        if place is None or not self._is_wrong(place) or is_list_edit(override.value):
            return
        self._layers.override(override, as_text=True)
        if self._is_wrong(place):
            self._layers.override(override)

    def _is_wrong(self, place: KeyPath) -> bool:
        return any(problem.key_path == place for problem in self.sections.problems(self.resolved, ()))

    def _find(self, place: str) -> tuple[Section, Any, KeyPath]:
        section: Section = self.sections
        steps = self._place(place)
        for step in steps:
            section = section.part(step)
        return section, self._value(steps), steps

    def _place(self, dotted_place: str) -> KeyPath:
        """The steps of a dotted place; a number is an index only where a list stands."""
        place: KeyPath = ()
        for step in dotted_place.split(".") if dotted_place else ():
            in_list = isinstance(self._value(place), list) and step.isdigit()
            place = (*place, int(step) if in_list else step)
        return place

    def _value(self, place: KeyPath) -> Any:
        """The value at a place, None where there is none."""
        value: Any = self.resolved
        for step in place:
            holds = step in value if isinstance(value, dict) else isinstance(value, list) and step in range(len(value))
            value = value[step] if holds else None
        return value

    def _or_error(self, make: Callable[[], Any]) -> Any:
        try:
            return make()
        except InvalidConfig as error:
            raise self.error(error.problems) from error
