from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from model import lr_scheduler as schedules
from utils.config.sections import TypedSection, exported

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
SECTION = TypedSection(exported(schedules), ("optimizer", "last_epoch"), deferred=schedules.RUNS_ARGUMENTS)


def two_rates(kind: type[Optimizer] = SGD, **arguments: Any) -> Optimizer:
    """Heads that learn with 0.1, and a stage that learns with a quarter of it."""
    heads, stage = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    groups = [{"params": [heads], "lr_scale": 1.0}, {"params": [stage], "lr_scale": 0.25, "lr": 0.025}]
    return kind(groups, lr=0.1, **arguments)  # type: ignore[call-arg]


def rates(optimizer: Optimizer) -> list[float]:
    return [group["lr"] for group in optimizer.param_groups]


@pytest.mark.parametrize("name", schedules.__all__)
def test_every_schedule_is_torchs_and_keeps_the_share_of_each_group(name: str) -> None:
    kind = getattr(schedules, name)
    assert kind is getattr(torch.optim.lr_scheduler, name)
    optimizer = two_rates()
    scheduler = kind(optimizer, **ARGUMENTS[name])
    schedules.keep_layer_rates(scheduler)
    found = set()
    for _ in range(12):
        full, quarter = rates(optimizer)
        assert quarter == pytest.approx(full / 4, rel=1e-9)
        assert scheduler.get_last_lr() == rates(optimizer)
        found.add(full)
        optimizer.step()
        scheduler.step(*([1.0] if schedules.needs_metric(name) else []))
    assert len(found) > 1


@pytest.mark.parametrize("kind", [SGD, AdamW])
@pytest.mark.parametrize("three_phase", [False, True])
def test_one_cycle_over_groups_is_torchs_with_a_list_of_peaks(kind: type[Optimizer], three_phase: bool) -> None:
    arguments: dict[str, Any] = {"momentum": 0.9} if kind is SGD else {}
    further: dict[str, Any] = {"total_steps": 9, "three_phase": three_phase}
    ours, theirs = two_rates(kind, **arguments), two_rates(kind, **arguments)
    # A quarter is exact in floating point, and so is the comparison.
    scheduler, reference = OneCycleLR(ours, 0.3, **further), OneCycleLR(theirs, [0.3, 0.3 / 4], **further)
    schedules.keep_layer_rates(scheduler)
    for _ in range(9):
        assert scheduler.state_dict() == reference.state_dict()
        assert ours.state_dict()["param_groups"] == theirs.state_dict()["param_groups"]
        for each in (ours, scheduler, theirs, reference):
            each.step()


@pytest.mark.parametrize("steps", [1, 2, 30])
@pytest.mark.parametrize("name", schedules.__all__)
def test_a_dry_run_finds_nothing_in_schedules_that_work(name: str, steps: int) -> None:
    lengths = {"OneCycleLR": {"total_steps": steps}, "CosineAnnealingLR": {"T_max": steps}}
    optimizer = two_rates(momentum=0.9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        schedules.dry_run(getattr(schedules, name)(optimizer, **{**ARGUMENTS[name], **lengths.get(name, {})}), steps)


@pytest.mark.parametrize(
    ("name", "arguments", "step"),
    [
        ("StepLR", {"step_size": 0}, 1),
        ("StepLR", {"step_size": 3, "gamma": -1}, 3),
        ("CosineAnnealingLR", {"T_max": 0}, 1),
        ("PolynomialLR", {"total_iters": 9, "power": -1.0}, 9),
        ("OneCycleLR", {"max_lr": 1, "total_steps": 50, "pct_start": 1.0}, 50),
        ("OneCycleLR", {"max_lr": -1, "total_steps": 50}, 1),
    ],
)
def test_a_dry_run_finds_what_fails_later(name: str, arguments: dict[str, Any], step: int) -> None:
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
    with pytest.raises(ValueError, match=f"^{name} .*step {step} of 50"):
        schedules.dry_run(getattr(schedules, name)(optimizer, **arguments), 50)


def test_a_dry_run_ends_where_a_schedule_says_that_it_ends() -> None:
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
    schedules.dry_run(OneCycleLR(optimizer, 0.1, total_steps=5), 50)


def test_what_a_schedule_needs_is_asked_for_unless_the_run_tells_it() -> None:
    lacking = {name: [each.key_path for each in SECTION.problems({"type": name}, ())] for name in ARGUMENTS}
    assert {name: len(lines) for name, lines in lacking.items() if lines} == {
        "StepLR": 1, "MultiStepLR": 1, "OneCycleLR": 1, "ExponentialLR": 1, "CosineAnnealingWarmRestarts": 1,
    }  # fmt: skip
    optimizer = two_rates()
    supplied = {"optimizer": optimizer, "T_max": 7, "total_steps": 7}

    def built(name: str, **arguments: Any) -> Any:
        return SECTION.build(SECTION.with_defaults({"type": name, "args": arguments}), (), supplied)

    assert built("CosineAnnealingLR").T_max == 7
    assert built("CosineAnnealingLR", T_max=3).T_max == 3
    assert built("CosineAnnealingWarmRestarts", T_0=3).T_0 == 3
