"""The learning rate schedules that a config may name: torch's, under its names and with its arguments."""

from typing import Literal

from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    ExponentialLR,
    LinearLR,
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


def default_interval(name: str) -> Literal["epoch", "step"]:
    """When the schedule advances if the config does not say: OneCycleLR at each update, the others at each epoch."""
    return "step" if name == "OneCycleLR" else "epoch"


def needs_metric(name: str) -> bool:
    """True for a schedule that looks at a metric after each epoch."""
    return name == "ReduceLROnPlateau"
