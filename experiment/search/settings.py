"""The "sweep" section of a config."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

from trainer.monitor import Monitor
from utils.errors import InvalidConfig, Problem
from utils.wording import format_value

OF_THE_SWEEP = ("name", "trainer.save_dir", "sweep", "config_format")
"""Keys that are the same for all trials: their runs are found by them."""


class _Ends(TypedDict):
    low: int | float
    high: int | float


@with_config(ConfigDict(extra="forbid", strict=True))
class Range(_Ends, total=False):
    """A range of numbers, both ends included.

    low, high: whole numbers are drawn where both are written as such (1, not 1.0)
    log: drawn evenly on a logarithmic scale
    step: of a grid from low
    """

    log: bool
    step: int | float


@dataclass(frozen=True)
class SweepSettings:
    """What `python -m scripts.sweep` tries.

    metric: what is optimised, such as "max val/f1"; of several epochs the best counts
    space: by key path of the config, a list of values or a range: {"low": 1e-5, "high": 0.1, "log": true}
    sampler: how values are chosen: "tpe" learns from earlier trials
    pruner: when a trial that lags behind the others is ended: "median" and "hyperband" compare it after each epoch, and
        all three fold by fold or seed by seed where there are several; null: never
    seeds: each trial is trained once for each, and the mean counts; null: once, with the config's own
    seed: of the sampler

    Raises InvalidConfig.
    """

    metric: str
    space: dict[str, list[Any] | Range]
    sampler: Literal["tpe", "random"] = "tpe"
    pruner: Literal["median", "hyperband", "wilcoxon"] | None = "median"
    seeds: list[int] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        problems = list(self._problems())
        if problems:
            raise InvalidConfig(problems)

    def _problems(self) -> Iterator[Problem]:
        try:
            is_on = Monitor(self.metric).is_on
        except ValueError:
            is_on = False
        if not is_on:
            yield Problem(("metric",), f'= {format_value(self.metric)} must be "min <metric>" or "max <metric>"')
        if not self.space:
            yield Problem(("space",), 'is empty; name what to try: {"optimizer.args.lr": {"low": 1e-5, "high": 0.1}}')
        if self.seeds is not None and (not self.seeds or len(set(self.seeds)) < len(self.seeds)):
            yield Problem(("seeds",), f"= {format_value(self.seeds)} must be different numbers, at least one, or null")
        for key_path, values in self.space.items():
            where = ("space", key_path)
            if not all(key_path.split(".")):
                yield Problem(where, "is no key path such as optimizer.args.lr")
            elif any(key_path == key or key_path.startswith(f"{key}.") for key in OF_THE_SWEEP):
                yield Problem(where, "is the same for all trials of a sweep; leave it out")
            elif key_path == "seed" and self.seeds is not None:
                yield Problem(where, "goes without sweep.seeds")
            elif isinstance(values, list):
                if not values:
                    yield Problem(where, "is empty; list the values to choose from")
            elif not values["low"] < values["high"]:
                yield Problem(where, f"low = {values['low']} must be below high = {values['high']}")
            elif values.get("log") and values["low"] <= 0:
                yield Problem(where, f"low = {values['low']} must be above 0 for a logarithmic scale")
            elif values.get("log") and "step" in values:
                yield Problem(where, "has a logarithmic scale, which goes without step")
            elif values.get("step", 1) <= 0:
                yield Problem(where, f"step = {values['step']} must be above 0")
