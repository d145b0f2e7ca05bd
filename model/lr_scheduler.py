"""The learning rate schedules that a config may name: torch's, under their names and with their arguments.

Where groups of parameters learn with different rates (layer_decay), each keeps its share of the scheduled one; but
eta_min of the cosines and min_lr of ReduceLROnPlateau are rates, the same for all groups. A rate that only warms up is
ConstantLR with a factor of 1.
"""

from typing import Literal

from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    ExponentialLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    StepLR,
)

__all__ = [
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "ExponentialLR",
    "LinearLR",
    "MultiStepLR",
    "OneCycleLR",
    "PolynomialLR",
    "ReduceLROnPlateau",
    "StepLR",
]

RUNS_ARGUMENTS = ("T_max",)
"""Arguments that may be left out, since the run's length fills them in."""


def default_interval(name: str) -> Literal["epoch", "step"]:
    """When the schedule advances if the config does not say: OneCycleLR at each update, the others at each epoch."""
    return "step" if name == "OneCycleLR" else "epoch"


def needs_metric(name: str) -> bool:
    """True for a schedule that looks at a metric after each epoch."""
    return name == "ReduceLROnPlateau"


def warms_up(name: str) -> bool:
    """True for a schedule that has a warm-up of its own."""
    return name == "OneCycleLR"


def dry_run(scheduler: LRScheduler, steps: int) -> None:
    """Steps a scheduler, made for this, through a run of so many steps; one that looks at a metric is not stepped.

    Some fail at their first step only (StepLR with a step_size of 0), or at the run's last (OneCycleLR with a pct_start
    of 1). Raises ValueError for these, and for a rate that falls below 0."""
    name = type(scheduler).__name__
    if needs_metric(name):
        return
    scheduler.optimizer._opt_called = True  # type: ignore[attr-defined]  # or torch would warn that it has not stepped
    for number in range(1, min(steps, getattr(scheduler, "total_steps", steps)) + 1):
        at = "its first step" if number == 1 else f"step {number} of {steps}"
        try:
            scheduler.step()
        except (ArithmeticError, ValueError, TypeError) as error:
            raise ValueError(f"{name} fails at {at} ({error})") from error
        lowest = min(group["lr"] for group in scheduler.optimizer.param_groups)
        if lowest < -1e-12:  # what rounding leaves of 0
            raise ValueError(f"{name} lowers the rate to {lowest:.3g} at {at}")


def keep_layer_rates(scheduler: LRScheduler) -> None:
    """Gives each group of a OneCycleLR that has not stepped its share, "lr_scale", of the peak, which is one for all.

    The other schedules go out from each group's own rate."""
    if not isinstance(scheduler, OneCycleLR):
        return
    for group in scheduler.optimizer.param_groups:
        for key in ("lr", "initial_lr", "max_lr", "min_lr"):
            group[key] *= group.get("lr_scale", 1.0)
    scheduler.base_lrs = [group["initial_lr"] for group in scheduler.optimizer.param_groups]
    scheduler._last_lr = [group["lr"] for group in scheduler.optimizer.param_groups]
