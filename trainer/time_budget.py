"""A run that ends by the clock: how many epochs fit."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from utils import distributed


class TimeBudget:
    """The hours that a run may train, over all resumes, and the number of epochs that is planned for them.

    It is planned after the first epoch, and again after the second, whose time holds no start. Later the plan is only
    shortened, where epochs have become slower, and then leaves one more epoch, in which the schedule ends.

    max_hours: of epochs: training, validation and saving
    most_epochs: trainer.epochs
    """

    def __init__(self, max_hours: float, most_epochs: int) -> None:
        self.budget_s, self.most_epochs = max_hours * 3600, most_epochs
        self.planned: int | None = None
        self._spent_s = 0.0  # up to _since
        self._since = time.monotonic()
        self._epoch_began_s = 0.0  # of what was spent
        self._first_s = 0.0
        self._later_s: list[float] = []

    def begin(self) -> None:
        """To be called when the training begins, or is resumed."""
        self._since = time.monotonic()

    @property
    def spent_s(self) -> float:
        return self._spent_s + time.monotonic() - self._since

    @property
    def epoch_s(self) -> float:
        """Of an epoch, as far as they were measured: the mean of those after the first."""
        return sum(self._later_s) / len(self._later_s) if self._later_s else self._first_s

    def end_epoch(self, completed: int) -> int:
        """The number of epochs that is planned now. Every process must call it; the slowest one counts."""
        times: list[Any] = distributed.gather(self.spent_s)
        spent_s = max(times)
        if completed == 1:
            self._first_s = spent_s - self._epoch_began_s
        else:
            self._later_s.append(spent_s - self._epoch_began_s)
        self._epoch_began_s = spent_s
        left_s = self.budget_s - spent_s
        fits = min(self.most_epochs, completed + max(0, math.floor(left_s / self.epoch_s)))
        if self.planned is None:
            self.planned = fits
        elif left_s <= 0:
            self.planned = min(self.planned, completed)
        elif completed == 2 < self.planned:
            self.planned = max(fits, completed + 1)
        else:
            self.planned = min(self.planned, max(fits, completed + 1))
        return self.planned

    def state_dict(self) -> dict[str, Any]:
        return {
            "spent_s": self.spent_s,
            "epoch_began_s": self._epoch_began_s,
            "first_s": self._first_s,
            "later_s": [*self._later_s],
            "planned": self.planned,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._spent_s, self._epoch_began_s = state["spent_s"], state["epoch_began_s"]
        self._first_s, self._later_s, self.planned = state["first_s"], [*state["later_s"]], state["planned"]
