"""When the learning rate changes: once an epoch, at every update, or when a metric no longer improves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from utils.errors import ConfigError


@dataclass
class Schedule:
    """A scheduler of torch's and when it steps. `metric` is what ReduceLROnPlateau looks at."""

    scheduler: LRScheduler
    interval: Literal["epoch", "step"]
    metric: str | None = None

    def after_update(self) -> None:
        if self.interval == "step":
            self.scheduler.step()

    def after_epoch(self, metrics: Mapping[str, float]) -> None:
        if isinstance(self.scheduler, ReduceLROnPlateau):
            assert self.metric is not None
            self.scheduler.step(metrics[self.metric])
        elif self.interval == "epoch":
            self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        return self.scheduler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises ConfigError if the schedule was planned for a run of another length, as OneCycleLR is."""
        planned = getattr(self.scheduler, "total_steps", None)
        if planned is not None and planned != state["total_steps"]:
            raise ConfigError(
                f"lr_scheduler: {type(self.scheduler).__name__} was planned for {state['total_steps']} steps, and the "
                f"run would now take {planned}; go on with the same trainer.epochs, or begin a new run"
            )
        self.scheduler.load_state_dict(state)
        # torch warns when a scheduler steps before its optimizer has; after a resume it has, in the process before.
        self.scheduler.optimizer._opt_called = True  # type: ignore[attr-defined]
