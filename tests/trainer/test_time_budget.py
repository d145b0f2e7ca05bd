"""A run that ends by the clock: how many epochs it plans, and that its schedule ends with it."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR

from tests.trainer.conftest import Built, MakeTrainer, assert_equal_states, train_until
from trainer import time_budget
from trainer.schedule import Schedule
from trainer.trainer import Trainer

UPDATES = 5
"""Of an epoch."""


class Clock:
    """Advances by what an epoch is to take, half of it in the validation."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float], usual: float) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time_budget, "time", SimpleNamespace(monotonic=lambda: self.now))
        train_step, validate = Trainer.train_step, Trainer.validate

        def timed_step(trainer: Trainer, micro_batches: Any, epoch: int) -> bool:
            self.now += seconds.get(epoch, usual) / 2 / UPDATES
            return train_step(trainer, micro_batches, epoch)

        def timed_validation(trainer: Trainer, epoch: int) -> dict[str, float]:
            self.now += seconds.get(epoch, usual) / 2
            return validate(trainer, epoch)

        monkeypatch.setattr(Trainer, "train_step", timed_step)
        monkeypatch.setattr(Trainer, "validate", timed_validation)


def one_cycle(optimizer: Optimizer, epochs: int) -> LRScheduler:
    return OneCycleLR(optimizer, 0.05, total_steps=UPDATES * epochs)


def build(make: MakeTrainer, folder: str, epochs: int, seconds: float | None, **more: Any) -> Built:
    def schedule(optimizer: Optimizer) -> Schedule:
        return Schedule(one_cycle(optimizer, epochs), "step", planned=lambda number: one_cycle(optimizer, number))

    hours = None if seconds is None else seconds / 3600
    return make(folder, epochs=epochs, max_hours=hours, schedule=schedule, **more)


def rates_of(built: Built) -> list[float]:
    return [json.loads(line)["lr"] for line in built.metrics_file.read_text().splitlines()]


@pytest.mark.parametrize(
    ("seconds", "budget_s", "epochs"),
    [
        ({1: 100.0}, 600.0, 9),  # 160 s for two epochs, and seven of 60 s in the 440 s that are left
        ({1: 100.0}, 160.0, 1),  # after the first one no second of 100 s fits
        ({1: 60.0, 5: 180.0}, 600.0, 7),  # ten were planned; the mean is 90 s after 420 s, so that two more fit
        ({1: 60.0, 5: 1000.0}, 600.0, 5),  # the time is over before the schedule is
        ({1: 10.0}, 36000.0, 12),  # never more than trainer.epochs
    ],
)
def test_the_epochs_that_are_planned(
    make_trainer: MakeTrainer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    seconds: dict[int, float],
    budget_s: float,
    epochs: int,
) -> None:
    Clock(monkeypatch, seconds, 60.0)
    with caplog.at_level("INFO"):
        built = build(make_trainer, "run", 12, budget_s).train()
    assert built.trainer.completed_epochs == epochs
    unfinished = [text for text in caplog.messages if "before its learning rate schedule ends" in text]
    if epochs in (1, 5):
        assert len(unfinished) == 1
        return
    assert unfinished == []
    ends = one_cycle(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))]), epochs)
    for _ in range(UPDATES * epochs):
        ends.optimizer.step()
        ends.step()
    assert rates_of(built)[-1] == pytest.approx(ends.get_last_lr()[0])
    assert any(f"planned for {epochs} epochs" in text for text in caplog.messages)


def test_from_the_second_epoch_on_it_is_the_schedule_of_the_planned_run(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    Clock(monkeypatch, {}, 60.0)
    planned = rates_of(build(make_trainer, "planned", 40, 250.0).train())
    assert planned[1:] == pytest.approx(rates_of(build(make_trainer, "four", 4, None).train())[1:])


def test_a_run_by_the_clock_that_is_stopped_ends_the_same(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it waited an hour to be resumed; the plan is in the checkpoint."""
    clock = Clock(monkeypatch, {1: 100.0}, 60.0)
    whole = build(make_trainer, "whole", 30, 300.0).train()
    assert whole.trainer.completed_epochs == 4
    for updates in (2, 5, 7, 10, 16):
        content = train_until(build(make_trainer, "stopped", 30, 300.0), updates)
        clock.now += 3600
        resumed = build(make_trainer, "stopped", 30, 300.0, resume=content).train()
        assert_equal_states(whole.state(), resumed.state())
        assert rates_of(resumed) == rates_of(whole)
        budgets = [built.checkpoint()["time_budget"] for built in (resumed, whole)]
        for key, value in budgets[1].items():
            assert budgets[0][key] == pytest.approx(value), key
    again = build(make_trainer, "stopped", 30, 300.0, resume=whole.checkpoint())
    assert again.trainer.finished


@pytest.mark.parametrize("interval", ["epoch", "step"])
@pytest.mark.parametrize("warmup", [0, 3])
@pytest.mark.parametrize("name", ["cosine", "one cycle"])
def test_a_schedule_that_is_planned_anew_has_the_rates_of_that_length(name: str, warmup: int, interval: Any) -> None:
    """From where it is; of groups with rates of their own; and when it is loaded."""

    def make(optimizer: Optimizer, epochs: int) -> LRScheduler:
        steps = epochs * UPDATES if interval == "step" else epochs
        if name == "cosine":
            return CosineAnnealingLR(optimizer, steps, 1e-4)
        return OneCycleLR(optimizer, [0.1, 0.03], steps)

    def new(epochs: int) -> Schedule:
        groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in (0.01, 0.003)]
        optimizer = AdamW(groups)
        return Schedule(make(optimizer, epochs), interval, None, warmup, lambda number: make(optimizer, number))

    def train(schedule: Schedule, epochs: int) -> list[list[float]]:
        rates = []
        for _ in range(epochs):
            for _ in range(UPDATES):
                schedule.scheduler.optimizer.step()
                rates.append([float(group["lr"]) for group in schedule.scheduler.optimizer.param_groups])
                schedule.after_update()
            schedule.after_epoch({})
        return rates

    straight, planned, loaded = new(4), new(9), new(9)
    expected = train(straight, 4)
    train(planned, 1)
    planned.plan(4)
    loaded.plan(4)
    loaded.scheduler.optimizer.load_state_dict(planned.scheduler.optimizer.state_dict())
    loaded.load_state_dict(planned.state_dict())
    for schedule in (planned, loaded):
        assert torch.allclose(torch.tensor(train(schedule, 3)), torch.tensor(expected[UPDATES:]), rtol=1e-9, atol=0)
