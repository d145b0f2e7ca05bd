"""The ordinal loss against scipy, and its own meaning."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import energy_distance  # type: ignore[import-untyped]

from model.loss import OrdinalLoss


def test_is_half_the_squared_energy_distance() -> None:
    """scipy: energy_distance(u, v)^2 = 2 * integral (U - V)^2, and neighbouring classes are 1 apart."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(25, 6, generator=generator, dtype=torch.float64)
    target = torch.randint(0, 6, (25,), generator=generator)
    for row, label, value in zip(logits, target.tolist(), OrdinalLoss().per_sample(logits, target), strict=True):
        distance = energy_distance(np.arange(6), [label], row.softmax(dim=0).numpy())
        assert value.item() == pytest.approx(distance**2 / 2, rel=1e-9)


@pytest.mark.parametrize("truth", range(5))
def test_a_certain_prediction_costs_the_classes_that_it_is_off(truth: int) -> None:
    losses = OrdinalLoss().per_sample(1000.0 * torch.eye(5), torch.full((5,), truth))
    assert losses.tolist() == [abs(predicted - truth) for predicted in range(5)]
