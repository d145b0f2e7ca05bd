"""When the learning rate changes: after each update or epoch, with a warm-up where one is set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from utils.errors import InvalidConfig, Problem


@dataclass
class Schedule:
    """A scheduler of torch's and when it steps.

    interval: whether it steps after each epoch or each update
    metric: what ReduceLROnPlateau looks at
    planned: makes the scheduler of a run of so many epochs, with the optimizer's rates as they were at its beginning;
        None: the config gives its length, or it has none
    warmup_updates: until these are done, the rates are (warm_updates + 1) / warmup_updates of the scheduler's
    warm_updates: how many of them are done
    """

    scheduler: LRScheduler
    interval: Literal["epoch", "step"]
    metric: str | None = None
    warmup_updates: int = 0
    planned: Callable[[int], LRScheduler] | None = None
    warm_updates: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        # torch warns when a scheduler steps before its optimizer has. Here it never does, but the loss scaler may leave
        # a step out, and a resumed run's optimizer has stepped in the process before.
        self.scheduler.optimizer._opt_called = True  # type: ignore[attr-defined]
        self._warm_up()

    def after_update(self) -> None:
        self.warm_updates = min(self.warm_updates + 1, self.warmup_updates)
        if self.interval == "step":
            self._step()
        else:
            self._warm_up()

    def after_epoch(self, metrics: Mapping[str, float]) -> None:
        if isinstance(self.scheduler, ReduceLROnPlateau):
            assert self.metric is not None
            self._step(metrics[self.metric])
        elif self.interval == "epoch":
            self._step()

    def plan(self, epochs: int) -> None:
        """From here on the rates are those of a run of so many epochs, if the schedule's length is open."""
        if self.planned is None:
            return
        steps, optimizer = self.scheduler.last_epoch, self.scheduler.optimizer
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"]
        self.scheduler = self.planned(epochs)
        self.scheduler.optimizer._opt_called = True  # type: ignore[attr-defined]
        for _ in range(steps):
            self.scheduler.step()
        self._warm_up()

    def state_dict(self) -> dict[str, Any]:
        state = self.scheduler.state_dict()
        return {**state, "warm_updates": self.warm_updates} if self.warmup_updates else state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """To be called when the optimizer's state, which holds the rates, is loaded.

        Raises InvalidConfig if the schedule was planned for a run of another length, as OneCycleLR is."""
        for name in ("total_steps", "T_max"):
            steps = getattr(self.scheduler, name, None)
            if steps is not None and steps != state[name]:
                wrong = f"was planned for {state[name]} steps, not {steps}; resume with the same trainer.epochs"
                raise InvalidConfig([Problem((), wrong)])
        self.warm_updates = state.get("warm_updates", 0)
        self.scheduler.load_state_dict({name: value for name, value in state.items() if name != "warm_updates"})

    def _step(self, *metric: Any) -> None:
        if self.warmup_updates:
            self._scale_rates(1.0)  # most schedulers compute the next rate from the one they find
        self.scheduler.step(*metric)
        self._warm_up()

    def _warm_up(self) -> None:
        if self.warmup_updates:
            self._scale_rates(min(1.0, (self.warm_updates + 1) / self.warmup_updates))

    def _scale_rates(self, factor: float) -> None:
        for group, rate in zip(self.scheduler.optimizer.param_groups, self.scheduler.get_last_lr(), strict=True):
            group["lr"] = rate * factor
