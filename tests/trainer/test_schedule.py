"""Warm-up against its closed form, and every schedule through a stop at every update."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import AdamW, Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from trainer.schedule import Schedule
from utils.checkpoint.checkpoint_file import read_checkpoint, write_checkpoint
from utils.errors import InvalidConfig

EPOCHS, UPDATES_PER_EPOCH = 3, 3
TOTAL = EPOCHS * UPDATES_PER_EPOCH
LOSSES = [1.0, 1.5, 1.2]  # what ReduceLROnPlateau sees: it lowers the rate after the second epoch, and after the third
MAKE: dict[str, Callable[[Optimizer, int], LRScheduler]] = {
    "ConstantLR": lambda optimizer, _: lr_scheduler.ConstantLR(optimizer, 0.3, 2),
    "CosineAnnealingLR": lambda optimizer, steps: lr_scheduler.CosineAnnealingLR(optimizer, steps, 1e-4),
    "CosineAnnealingWarmRestarts": lambda optimizer, _: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 2, 2),
    "ExponentialLR": lambda optimizer, _: lr_scheduler.ExponentialLR(optimizer, 0.7),
    "LinearLR": lambda optimizer, _: lr_scheduler.LinearLR(optimizer, 0.2, 1.0, 2),
    "MultiStepLR": lambda optimizer, _: lr_scheduler.MultiStepLR(optimizer, [1, 2, 6], 0.3),
    "OneCycleLR": lambda optimizer, steps: lr_scheduler.OneCycleLR(optimizer, [0.1, 0.03], steps),
    "PolynomialLR": lambda optimizer, steps: lr_scheduler.PolynomialLR(optimizer, steps, 2.0),
    "ReduceLROnPlateau": lambda optimizer, _: lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.3, patience=0),
    "StepLR": lambda optimizer, _: lr_scheduler.StepLR(optimizer, 1, 0.4),
}
KINDS = [
    (name, interval, warmup)
    for name, interval, warmup in itertools.product(MAKE, ("epoch", "step"), (0, 5))
    if (name, interval) != ("ReduceLROnPlateau", "step") and (name, warmup) != ("OneCycleLR", 5)
]


class Run:
    """Two weights that learn with different rates, by AdamW, whose steps depend on the rate to the last bit."""

    def __init__(self, name: str, interval: Any, warmup: int, state: dict[str, Any] | None = None) -> None:
        self.weights = [torch.nn.Parameter(torch.linspace(-1, 1, 5)), torch.nn.Parameter(torch.ones(3))]
        groups: list[dict[str, Any]] = [{"params": self.weights[:1]}, {"params": self.weights[1:], "lr": 0.003}]
        self.optimizer = AdamW(groups, lr=0.01)
        scheduler = MAKE[name](self.optimizer, TOTAL if interval == "step" else EPOCHS)
        self.schedule = Schedule(scheduler, interval, "val/loss", warmup)
        self.updates = 0
        if state:
            with torch.no_grad():
                for weight, value in zip(self.weights, state["weights"], strict=True):
                    weight.copy_(value)
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            self.updates = state["updates"]

    def state(self) -> dict[str, Any]:
        return {
            "weights": [weight.detach().clone() for weight in self.weights],
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "updates": self.updates,
        }

    def train(self, until: int = TOTAL) -> list[list[float]]:
        """The rates of each group, by update. An epoch is ended before the next one's first update."""
        rates = []
        while self.updates < until:
            if self.updates and self.updates % UPDATES_PER_EPOCH == 0:
                self.schedule.after_epoch({"val/loss": LOSSES[self.updates // UPDATES_PER_EPOCH - 1]})
            rates.append([group["lr"] for group in self.optimizer.param_groups])
            for number, weight in enumerate(self.weights):
                weight.grad = torch.sin(weight.detach() * 3 + self.updates + number)
            self.optimizer.step()
            self.schedule.after_update()
            self.updates += 1
        return rates


@pytest.mark.parametrize(("name", "interval", "warmup"), KINDS)
def test_a_run_stopped_after_any_update_resumes_exactly(name: str, interval: str, warmup: int, tmp_path: Path) -> None:
    """Rates and weights bit for bit, and the bytes of the file at the end."""
    whole = Run(name, interval, warmup)
    rates = whole.train()
    write_checkpoint(tmp_path / "whole.pth", whole.state())
    assert len({tuple(each) for each in rates}) > 1
    for updates in range(1, TOTAL):
        stopped = Run(name, interval, warmup)
        assert stopped.train(updates) == rates[:updates]
        write_checkpoint(tmp_path / "stopped.pth", stopped.state())
        resumed = Run(name, interval, warmup, read_checkpoint(tmp_path / "stopped.pth"))
        assert resumed.train() == rates[updates:]
        for weight, other in zip(whole.weights, resumed.weights, strict=True):
            assert torch.equal(weight, other)
    write_checkpoint(tmp_path / "resumed.pth", resumed.state())
    assert (tmp_path / "resumed.pth").read_bytes() == (tmp_path / "whole.pth").read_bytes()


@pytest.mark.parametrize(("name", "interval", "warmup"), [kind for kind in KINDS if kind[2]])
def test_a_warm_up_scales_the_rates_of_the_schedule_alone(name: str, interval: str, warmup: int) -> None:
    alone, warmed = Run(name, interval, 0).train(), Run(name, interval, warmup).train()
    for update, (bare, scaled) in enumerate(zip(alone, warmed, strict=True)):
        factor = min(1.0, (update + 1) / warmup)
        assert scaled == [rate * factor for rate in bare], update
    assert warmed[0] == pytest.approx([rate / warmup for rate in alone[0]])
    assert warmed[warmup - 1 :] == alone[warmup - 1 :]


@pytest.mark.parametrize("name", ["OneCycleLR", "CosineAnnealingLR"])
def test_a_schedule_planned_for_another_length_is_refused(name: str) -> None:
    state = Run(name, "step", 0).state()["schedule"]
    longer = Schedule(MAKE[name](Run("StepLR", "epoch", 0).optimizer, 40), "step")
    with pytest.raises(InvalidConfig, match=f"planned for {TOTAL} steps.* 40.*trainer.epochs"):
        longer.load_state_dict(state)


def test_a_step_that_the_loss_scaler_leaves_out_warns_of_nothing() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = AdamW([weight])
    schedule = Schedule(lr_scheduler.ExponentialLR(optimizer, 0.9), "step")
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(weight.sum() * torch.tensor(float("inf"))).backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scaler.step(optimizer)
        schedule.after_update()
    assert not optimizer.state[weight]
