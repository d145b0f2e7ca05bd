"""The F1 loss against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from torch.nn import functional as F

from model.loss import F1Loss
from tests.model.loss.test_losses import WEIGHTS, draw


def test_f1_loss_of_certain_predictions_is_scikit_learns() -> None:
    generator = np.random.default_rng(0)
    for _ in range(5):
        truth = np.concatenate([[0, 1, 2], generator.integers(0, 3, 30)])
        predicted = np.where(generator.random(33) < 0.6, truth, generator.integers(0, 3, 33))
        logits = 1000.0 * F.one_hot(torch.from_numpy(predicted), 3).float()
        expected = 1 - f1_score(truth, predicted, average="macro")
        assert F1Loss()(logits, torch.from_numpy(truth)).item() == pytest.approx(expected, abs=1e-6)
        by_class = f1_score(truth, predicted, average=None)
        weighted = 1 - (np.array(WEIGHTS) * by_class).sum() / sum(WEIGHTS)
        assert F1Loss(WEIGHTS)(logits, torch.from_numpy(truth)).item() == pytest.approx(weighted, abs=1e-6)


def test_f1_loss_of_a_perfect_batch_without_some_class_is_zero() -> None:
    target = torch.tensor([0, 0, 2])
    assert F1Loss()(1000.0 * F.one_hot(target, 3).float(), target).item() == 0


def test_f1_loss_counts_by_known_samples_under_a_shared_normaliser() -> None:
    logits, target = draw(unknown_share=0.4)
    loss = F1Loss()
    first, second = slice(0, 12), slice(12, 40)
    known = [int((target[piece] != -1).sum()) for piece in (first, second)]
    normaliser = torch.tensor(float(sum(known)))
    shared = loss(logits[first], target[first], normaliser) + loss(logits[second], target[second], normaliser)
    alone = [loss(logits[piece], target[piece]) for piece in (first, second)]
    torch.testing.assert_close(shared, (known[0] * alone[0] + known[1] * alone[1]) / sum(known))
