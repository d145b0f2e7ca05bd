"""What "better" means: a metric that is watched, its best value so far, and the patience for a better one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from utils.errors import ConfigError


class Monitor:
    """Watches one metric, as "min val/loss" or "max val/f1" say. "off" watches nothing: then no epoch is better."""

    def __init__(self, text: str) -> None:
        mode, _, metric = text.partition(" ")
        if text != "off" and (mode not in ("min", "max") or not metric):
            raise ConfigError(f'{text!r} must be "min <metric>", "max <metric>" or "off"')
        self.mode = mode
        self.metric = metric
        self.best: float | None = None
        self.best_epoch: int | None = None

    @property
    def is_on(self) -> bool:
        return self.mode != "off"

    @property
    def file_stem(self) -> str:
        """ "max val/f1" is kept as best_f1."""
        return f"best_{self.metric.removeprefix('val/').replace('/', '_')}"

    def update(self, epoch: int, metrics: Mapping[str, float]) -> bool:
        """Whether this epoch is better than all before it. A value that is not finite never is."""
        value = metrics.get(self.metric, math.nan) if self.is_on else math.nan
        if not math.isfinite(value):
            return False
        better = self.best is None or (value < self.best if self.mode == "min" else value > self.best)
        if better:
            self.best, self.best_epoch = value, epoch
        return better

    def state_dict(self) -> dict[str, Any]:
        return {"mode": self.mode, "metric": self.metric, "best": self.best, "best_epoch": self.best_epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over the best value, unless the run now watches something else."""
        if (state["mode"], state["metric"]) == (self.mode, self.metric):
            self.best, self.best_epoch = state["best"], state["best_epoch"]


class EarlyStopping:
    """Stops after exactly `patience` epochs in a row that were not better; 0 never stops."""

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.epochs_without_better = 0

    def update(self, better: bool) -> bool:
        """Whether to stop now."""
        self.epochs_without_better = 0 if better else self.epochs_without_better + 1
        return 0 < self.patience <= self.epochs_without_better
