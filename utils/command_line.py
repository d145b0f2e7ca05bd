"""Command lines whose errors are one clear line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from utils.errors import ConfigError
from utils.wording import did_you_mean


class CommandLine(argparse.ArgumentParser):
    """An argument parser that takes no abbreviations, and raises ConfigError instead of printing its usage."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def parse(self, argv: Sequence[str] | None = None) -> argparse.Namespace:
        """The arguments (of this process, where `argv` is None). Raises ConfigError."""
        arguments, unknown = self.parse_known_args(argv)
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings]
            words = [word for word in unknown if word.startswith("-") or len(unknown) == 1]
            self.error("; ".join(_unknown(word, flags) for word in words))
        return arguments

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.prog}: {message}")


def _unknown(word: str, flags: list[str]) -> str:
    name = word.partition("=")[0]
    if not word.startswith("-"):
        return f"{word!r} belongs to no flag (--help lists them)"
    return f"{name} is not a known flag{did_you_mean(name, flags)} (--help lists them)"
