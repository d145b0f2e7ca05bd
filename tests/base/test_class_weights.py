"""Computed class weights against scikit-learn and the papers' formulas."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from base.class_weights import Rule, follow_some_rule, weights_by_rule
from model.loss import FocalLoss
from utils.config.signatures import argument_problems

RULES = get_args(Rule)
COUNTS = [13, 1, 500, 74, 2900]


def weights(rule: Rule, counts: list[int]) -> np.ndarray:
    computed = weights_by_rule(rule, torch.tensor(counts))
    assert computed.dtype == torch.float32
    return computed.double().numpy()


def test_balanced_is_scikit_learns() -> None:
    labels = np.repeat(np.arange(len(COUNTS)), COUNTS)
    expected = compute_class_weight("balanced", classes=np.arange(len(COUNTS)), y=labels)
    np.testing.assert_allclose(weights("balanced", COUNTS), expected, rtol=1e-6)


def test_sqrt_is_the_square_root_of_balanced() -> None:
    ratio = weights("sqrt", COUNTS) / np.sqrt(weights("balanced", COUNTS))
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-6)


def test_effective_is_one_over_the_expected_volume() -> None:
    """Cui et al.: E_n = 1 + beta * E_(n-1), counted up one sample at a time."""
    volumes = []
    for count in COUNTS:
        volume = 0.0
        for _ in range(count):
            volume = 1 + 0.999 * volume
        volumes.append(volume)
    ratio = weights("effective", COUNTS) * np.array(volumes)
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-6)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("counts", [COUNTS, [7, 7], [1, 10**7]])
def test_a_training_sample_weighs_one_on_average(rule: Rule, counts: list[int]) -> None:
    assert np.average(weights(rule, counts), weights=counts) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_a_class_without_samples_weighs_as_the_mean_sample(rule: Rule) -> None:
    """It is never trained on, and must not rule the validation's loss."""
    alone = weights(rule, [20, 3])
    np.testing.assert_allclose(weights(rule, [0, 20, 3]), [1, *alone], rtol=1e-6)
    np.testing.assert_array_equal(weights(rule, [0, 0, 0]), np.ones(3))  # a head whose labels are all unknown


@pytest.mark.parametrize("value", ["balancd", [1.0, -2.0], 3])
def test_the_config_check_refuses_others(value: Any) -> None:
    (problem,) = argument_problems(FocalLoss, {"class_weights": value})
    assert problem.key_path[0] == "class_weights"
    for right in (None, [1, 2.5], *RULES):
        assert argument_problems(FocalLoss, {"class_weights": right}) == []


COUNTS = [5000, 1000, 1000]


@pytest.mark.parametrize(
    ("weights", "counts", "follows"),
    [
        ([1.4, 7, 7], COUNTS, True),  # balanced
        ([1, 2, 2.5], COUNTS, True),  # about sqrt
        ([1, 1, 1], COUNTS, True),
        ([1.4, 7, 7], [800, 800, 800], False),  # another data set's
        ([7, 1.4, 1.4], COUNTS, False),  # the wrong way round
        ([0, 7, 7], COUNTS, True),  # a class that is switched off
        ([1.4, 7, 100], [5000, 1000, 0], True),  # a class that is not there
    ],
)
def test_given_weights_follow_a_rule_or_are_another_data_sets(
    weights: list[float], counts: list[int], follows: bool
) -> None:
    assert follow_some_rule(torch.tensor(weights, dtype=torch.float32), torch.tensor(counts)) == follows
