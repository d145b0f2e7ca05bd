from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import LRScheduler

from model import optim, schedules

ARGUMENTS: dict[str, dict[str, Any]] = {
    "StepLR": {"step_size": 5, "gamma": 0.1},
    "MultiStepLR": {"milestones": [2, 4], "gamma": 0.5},
    "CosineAnnealingLR": {"T_max": 10},
    "CosineAnnealingWarmRestarts": {"T_0": 4},
    "OneCycleLR": {"max_lr": 0.1, "total_steps": 20},
    "ReduceLROnPlateau": {"patience": 1},
    "ExponentialLR": {"gamma": 0.9},
    "LinearLR": {},
    "ConstantLR": {},
    "PolynomialLR": {"total_iters": 5},
}


@pytest.mark.parametrize("name", optim.__all__)
def test_every_optimizer_is_torchs_and_lowers_a_loss(name: str) -> None:
    kind = getattr(optim, name)
    assert kind is getattr(torch.optim, name)
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = kind([weight], lr=0.01)
    before = weight.square().sum().item()
    for _ in range(5):
        optimizer.zero_grad()
        weight.square().sum().backward()
        optimizer.step()
    assert weight.square().sum().item() < before


def test_every_schedule_is_listed_here() -> None:
    assert set(schedules.__all__) == set(ARGUMENTS)


@pytest.mark.parametrize("name", schedules.__all__)
def test_every_schedule_is_torchs_and_steps(name: str) -> None:
    kind = getattr(schedules, name)
    assert kind is getattr(torch.optim.lr_scheduler, name)
    assert issubclass(kind, LRScheduler)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = kind(optimizer, **ARGUMENTS[name])
    rates = set()
    for _ in range(12):
        rates.add(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if schedules.needs_metric(name):
            scheduler.step(1.0)
        else:
            scheduler.step()  # a schedule that wanted a metric would fail here
    assert len(rates) > 1


def test_only_one_cycle_advances_at_each_update() -> None:
    assert [name for name in schedules.__all__ if schedules.default_interval(name) == "step"] == ["OneCycleLR"]
