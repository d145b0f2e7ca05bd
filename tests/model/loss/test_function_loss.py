"""A plain function of (output, target) as a loss: its mean over the known samples, however they are divided."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from model.loss.function_loss import as_head_loss
from utils.config.signatures import argument_problems


def smoothed(output: Tensor, target: Tensor, smoothing: float = 0.1) -> Tensor:
    return cross_entropy(output, target, label_smoothing=smoothing)


def each(output: Tensor, target: Tensor, *, smoothing: float = 0.1) -> Tensor:
    return cross_entropy(output, target, label_smoothing=smoothing, reduction="none")


@pytest.mark.parametrize("function", [smoothed, each])
def test_mean_over_the_known_samples_of_an_update(function: object) -> None:
    component = as_head_loss(function)
    assert component is not None
    loss = component(smoothing=0.3)
    logits, target = torch.randn(9, 4, requires_grad=True), torch.tensor([0, 1, -1, 3, 2, -1, -1, 1, 1])
    known = target >= 0
    expected = smoothed(logits[known], target[known], 0.3)
    (gradient,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(loss(logits, target), expected)

    total = sum(
        loss(logits[part], target[part], known.sum().float()) for part in (slice(0, 2), slice(2, 3), slice(3, 9))
    )
    assert isinstance(total, Tensor)
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(torch.autograd.grad(total, logits)[0], gradient)

    times = torch.tensor([1, 2, 2, 1, 3, 1, 2, 3, 2])
    repeated = loss(logits.repeat_interleave(times, dim=0), target.repeat_interleave(times))
    torch.testing.assert_close(loss(logits, target, weights=times / 2), repeated)


def test_nothing_known_is_no_loss_and_no_gradient() -> None:
    component = as_head_loss(smoothed)
    assert component is not None
    logits = torch.randn(3, 2, requires_grad=True)
    loss = component()(logits, torch.full((3,), -1))
    assert loss == 0
    assert torch.autograd.grad(loss, logits)[0].eq(0).all()


def test_its_arguments_are_checked_by_its_signature() -> None:
    component = as_head_loss(smoothed)
    assert component is not None
    assert not argument_problems(component, {"smoothing": 0.2})
    wrong = argument_problems(component, {"smothing": 1, "smoothing": "x"})
    assert {problem.key_path for problem in wrong} == {("smothing",), ("smoothing",)}
    assert as_head_loss(lambda output: output) is None
