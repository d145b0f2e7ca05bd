"""The metric that a run watches, and its best value so far."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


class Monitor:
    """The best value of one metric.

    text: "min val/loss", "max val/f1", or "off", for which no epoch is better

    Raises ValueError for another text.
    """

    def __init__(self, text: str) -> None:
        self.mode, _, self.metric = text.partition(" ")
        if text != "off" and (self.mode not in ("min", "max") or not self.metric):
            raise ValueError(f'{text!r} must be "min <metric>", "max <metric>" or "off"')
        self.best: float | None = None
        self.best_epoch: int | None = None

    @property
    def is_on(self) -> bool:
        return self.mode != "off"

    @property
    def file_name(self) -> str:
        """Of the best checkpoint by this metric: best_f1.pth for "max val/f1"."""
        return f"best_{self.metric.removeprefix('val/').replace('/', '_')}.pth"

    def update(self, epoch: int, metrics: Mapping[str, float]) -> bool:
        """Whether this epoch is better than all before it. A value that is not finite never is."""
        value = metrics.get(self.metric, math.nan)
        if not math.isfinite(value):
            return False
        better = self.best is None or (value < self.best if self.mode == "min" else value > self.best)
        if better:
            self.best, self.best_epoch = value, epoch
        return better

    def state_dict(self) -> dict[str, Any]:
        return {"mode": self.mode, "metric": self.metric, "best": self.best, "best_epoch": self.best_epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the best value, unless the run now watches another metric."""
        if (state["mode"], state["metric"]) == (self.mode, self.metric):
            self.best, self.best_epoch = state["best"], state["best_epoch"]
