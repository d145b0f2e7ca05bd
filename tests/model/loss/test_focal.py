"""Focal loss against torchvision, cross entropy, and the equation."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from model.loss import CrossEntropyLoss, FocalLoss
from tests.model.loss.test_losses import draw, with_and_without_weights


@with_and_without_weights
def test_focal_loss_with_gamma_0_is_cross_entropy(weights: list[float] | None) -> None:
    logits, target = draw(unknown_share=0.3)
    focal, cross_entropy = FocalLoss(0.0, weights)(logits, target), CrossEntropyLoss(weights)(logits, target)
    torch.testing.assert_close(focal, cross_entropy)
    torch.testing.assert_close(torch.autograd.grad(focal, logits), torch.autograd.grad(cross_entropy, logits))


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_focal_loss_of_two_classes_is_torchvisions(gamma: float) -> None:
    """softmax over (0, z) is sigmoid of z; alpha weighs class 1, 1 - alpha class 0."""
    score = draw()[0][:, 0].detach()
    target = draw()[1].clamp(max=1)
    expected = sigmoid_focal_loss(score, target.double(), alpha=0.25, gamma=gamma, reduction="sum")
    loss = FocalLoss(gamma, [0.75, 0.25])
    logits = torch.stack([torch.zeros_like(score), score], dim=1)
    torch.testing.assert_close(loss(logits, target, torch.tensor(1.0)), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 2.0])
def test_focal_loss_of_a_certain_sample_has_a_finite_gradient(gamma: float) -> None:
    logits = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    FocalLoss(gamma)(logits, torch.tensor([0])).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
