"""The range test: what it suggests of curves whose answer is known, and that it trains as a run does."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from experiment.lr_range_test import RangeTest, rates_between, run_range_test, suggest
from tests.trainer.conftest import MakeTrainer, MemoryLoader, SmallModel, make_trainer  # noqa: F401 - a fixture

RATES = rates_between(1e-6, 10.0, 200)


def curve(fall: float, noise: float, falls_at: float = 1e-3, diverges_at: float = 0.3, begin: float = 2.0) -> RangeTest:
    """A sigmoid of the logarithm of the rate around `falls_at`, and an explosion at `diverges_at`."""
    logarithm = np.log10(RATES)
    losses = begin - fall / (1 + np.exp(-4 * (logarithm - math.log10(falls_at))))
    losses += np.exp(np.minimum(12 * (logarithm - math.log10(diverges_at)), 40))
    losses += noise * np.random.default_rng(5).standard_normal(len(losses))
    end = int(np.argmax(losses > 8)) + 1 if losses.max() > 8 else len(losses)
    return RangeTest(RATES[:end], [float(loss) for loss in losses[:end]], end == len(losses))


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("falls_at", [1e-4, 1e-3, 1e-2])
def test_the_steepest_descent_and_the_divergence_are_found(noise: float, falls_at: float) -> None:
    found = suggest(curve(1.0, noise, falls_at))
    assert found.unclear is None
    assert found.steepest is not None
    assert math.log10(found.steepest) == pytest.approx(math.log10(falls_at), abs=0.4)  # as far as the noise lets it
    assert found.lowest is not None
    assert falls_at < found.lowest < 0.3
    assert found.diverges == pytest.approx(0.3, rel=0.3)


def test_what_is_not_clear_is_said() -> None:
    assert "no clear minimum" in str(suggest(curve(0.0, 0.05)).unclear)
    assert "no clear minimum" in str(suggest(curve(0.05, 0.5)).unclear)
    assert "raise --highest" in str(suggest(curve(1.0, 0.01, falls_at=5.0, diverges_at=1e9)).unclear)
    assert "lower --lowest" in str(suggest(RangeTest(RATES[:9], [1.0] * 8 + [math.nan], False)).unclear)
    assert suggest(curve(1.0, 0.01, diverges_at=1e9)).diverges is None


def test_noise_alone_is_seldom_taken_for_a_fall() -> None:
    random, found = np.random.default_rng(3), 0
    for _ in range(100):
        losses = 2.0 + 0.5 * random.standard_normal(len(RATES))
        found += suggest(RangeTest(RATES, losses.tolist(), True)).unclear is None
    assert found <= 5


def test_each_update_has_its_rate_and_the_loss_before_it(make_trainer: MakeTrainer) -> None:  # noqa: F811
    """By plain torch: SGD on the same batches, of as many epochs as it takes; groups keep their share of the rate."""
    loader, rates = MemoryLoader(), rates_between(1e-4, 0.05, 12)
    torch.manual_seed(2)
    learner = make_trainer(
        loader=loader, model=SmallModel(dropout=0.0), optimizer=torch.optim.SGD, channels_last=False
    ).trainer.learner
    body = {id(parameter) for parameter in learner.model.body.parameters()}  # type: ignore[union-attr]
    (group,) = learner.optimizer.param_groups
    both = [[p for p in group["params"] if (id(p) in body) == inside] for inside in (True, False)]
    learner.optimizer.param_groups[:] = [
        {**group, "params": parameters, "lr_scale": scale} for parameters, scale in zip(both, (0.1, 1.0), strict=True)
    ]
    model = SmallModel(dropout=0.0)
    model.load_state_dict(learner.model.state_dict())
    found = list(run_range_test(learner, loader, [], rates))
    assert [rate for rate, _ in found] == rates
    batches = [batch for epoch in (1, 2, 3) for batch in loader.train_batches(epoch)]
    for (rate, loss), batch in zip(found, batches, strict=False):
        outputs = model((batch.images.float() / 255 - 0.5) / 0.25)
        expected, _ = learner.criterion(outputs, batch.targets)
        assert loss == pytest.approx(float(expected.detach()), rel=1e-4)
        model.zero_grad()
        expected.backward()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                assert parameter.grad is not None
                parameter.sub_(parameter.grad, alpha=rate * (0.1 if name.startswith("body") else 1.0))


def test_it_ends_where_the_loss_diverges(make_trainer: MakeTrainer) -> None:  # noqa: F811
    learner = make_trainer(optimizer=torch.optim.SGD).trainer.learner
    found = list(run_range_test(learner, MemoryLoader(), [], rates_between(1e-3, 1e30, 120)))
    assert 20 <= len(found) < 100
    assert not found[-1][1] < 4 * min(loss for _, loss in found)
