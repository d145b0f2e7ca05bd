"""The learning rate schedules that a config may name: torch's.

With layer_decay each group of parameters keeps its share of the scheduled rate; but eta_min of the cosines and min_lr
of ReduceLROnPlateau are the same rate for all groups. For a rate that only warms up use ConstantLR with factor 1.
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
    "ConstantLR", "CosineAnnealingLR", "CosineAnnealingWarmRestarts", "ExponentialLR", "LinearLR", "MultiStepLR",
    "OneCycleLR", "PolynomialLR", "ReduceLROnPlateau", "StepLR",
]  # fmt: skip

RUNS_ARGUMENTS = ("T_max",)
"""Arguments that a config may leave out: they follow from the length of the run."""


def default_interval(name: str) -> Literal["epoch", "step"]:
    """When the schedule advances by default: OneCycleLR at each update, the others at each epoch."""
    return "step" if name == "OneCycleLR" else "epoch"


def needs_metric(name: str) -> bool:
    """Whether the schedule looks at a metric after each epoch."""
    return name == "ReduceLROnPlateau"


def warms_up(name: str) -> bool:
    """Whether the schedule has a warm-up of its own."""
    return name == "OneCycleLR"


def dry_run(scheduler: LRScheduler, steps: int) -> None:
    """Steps a new scheduler through a run of so many steps, unless it needs a metric.

    Raises ValueError if it fails, which some do only at the first step (StepLR with a step_size of 0) or the last
    (OneCycleLR with a pct_start of 1), or lowers the rate below 0."""
    name = type(scheduler).__name__
    if needs_metric(name):
        return
    scheduler.optimizer._opt_called = True  # type: ignore[attr-defined]  # or torch warns that it has not stepped
    for number in range(1, min(steps, getattr(scheduler, "total_steps", steps)) + 1):
        try:
            scheduler.step()
        except (ArithmeticError, ValueError, TypeError) as error:
            raise ValueError(f"{name} fails at step {number} of {steps} ({error})") from error
        lowest = min(group["lr"] for group in scheduler.optimizer.param_groups)
        if lowest < -1e-12:  # what rounding leaves of 0
            raise ValueError(f"{name} lowers the rate to {lowest:.3g} at step {number} of {steps}")


def keep_layer_rates(scheduler: LRScheduler) -> None:
    """Scales the peak of a new OneCycleLR, which is one for all groups, by each group's "lr_scale".

    The other schedules start from each group's own rate."""
    if not isinstance(scheduler, OneCycleLR):
        return
    groups = scheduler.optimizer.param_groups
    for group in groups:
        for key in ("lr", "initial_lr", "max_lr", "min_lr"):
            group[key] *= group.get("lr_scale", 1.0)
    scheduler.base_lrs = [group["initial_lr"] for group in groups]
    scheduler._last_lr = [group["lr"] for group in groups]
