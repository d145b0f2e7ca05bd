"""Command lines whose errors are one clear line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from utils.errors import ConfigError
from utils.started_processes import this_process
from utils.wording import did_you_mean


class CommandLine(argparse.ArgumentParser):
    """An argument parser that takes no abbreviations, and raises ConfigError instead of printing its usage.

    settings: gives the key paths that --set takes: a flag that is named as one of them is answered with it
    several_processes: whether torchrun may start it; each of its processes would do all the work of another command
    """

    def __init__(
        self, settings: Callable[[], Iterable[str]] = list, *, several_processes: bool = False, **options: Any
    ) -> None:
        super().__init__(allow_abbrev=False, **options)
        self._settings, self._several_processes = settings, several_processes

    def parse(self, argv: Sequence[str] | None = None) -> argparse.Namespace:
        """The arguments (of this process, where `argv` is None). Raises ConfigError."""
        if not self._several_processes and (number := this_process().world_size) > 1:
            self.error(f"is for one process, and there are {number} (WORLD_SIZE); run it without torchrun")
        arguments, unknown = self.parse_known_args(argv)
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings]
            words = [word for word in unknown if word.startswith("-") or len(unknown) == 1]
            self.error("; ".join(self._unknown(word, flags, unknown) for word in words))
        return arguments

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.prog}: {message}")

    def _unknown(self, word: str, flags: list[str], unknown: list[str]) -> str:
        """What to write instead of a word. unknown: all such words, in order"""
        name, equals, value = word.partition("=")
        if not word.startswith("-"):
            return f"{word!r} belongs to no flag (--help lists them)"
        key = name.lstrip("-").replace("-", "_")
        if keys := [path for path in self._settings() if path.split(".")[-1] == key]:
            following = unknown[unknown.index(word) + 1 :][:1]
            value = value if equals or not following or following[0].startswith("-") else following[0]
            instead = " or ".join(f"--set {path}={value or '...'}" for path in keys)
            return f"{name} is not a known flag; write {instead}"
        return f"{name} is not a known flag{did_you_mean(name, flags)} (--help lists them)"
