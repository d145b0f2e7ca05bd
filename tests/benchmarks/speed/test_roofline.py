"""Bytes and operations of layers, counted by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.speed.roofline import BYTES_OF_AN_UPDATE, LayerCost, Limits, layer_costs


def test_costs_of_a_convolution_and_a_linear_layer() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4 * 5, 10))
    convolution, linear = layer_costs(model, torch.zeros(2, 3, 4, 5), bytes_per_value=2)
    # in 2x3x4x5, out 2x8x4x5, weights 8x3x3x3: forward in + w + out, backward 2 out + in + w read, in + w written
    read, written, weights = 120, 320, 216
    assert convolution.moved_bytes == 2 * (3 * read + 3 * weights + 3 * written)
    # 320 sums of 3 * 3 * 3 products, a multiplication and an addition each; forward and two gradients
    assert convolution.operations == 3 * 2 * 320 * 27
    assert linear.moved_bytes == 2 * 3 * (2 * 160 + 160 * 10 + 2 * 10)
    assert linear.operations == 3 * 2 * 2 * 10 * 160


def test_groups_do_less() -> None:
    (cost,) = layer_costs(nn.Conv2d(8, 8, 3, groups=8, padding=1), torch.zeros(1, 8, 4, 4), 4)
    assert cost.operations == 3 * 2 * (8 * 16) * 9


def test_a_layer_takes_the_longer_of_its_two_times() -> None:
    limits = Limits(bytes_per_second=100.0, operations_per_second=1000.0)
    layers = [LayerCost(200, 1000), LayerCost(100, 5000)]  # 2 s or 1 s, 1 s or 5 s
    assert limits.seconds(layers, parameters=0) == pytest.approx(7.0)
    assert limits.seconds_of_bytes(layers, parameters=0) == pytest.approx(3.0)
    assert limits.seconds(layers, parameters=100) == pytest.approx(7.0 + BYTES_OF_AN_UPDATE)
