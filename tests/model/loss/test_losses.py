"""What every loss must do, and each loss against torch, torchvision, scikit-learn or its closed form."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from base.class_weights import ClassWeights
from model.loss import CrossEntropyLoss, F1Loss, FocalLoss, LabelSmoothingLoss, LDAMLoss, OrdinalLoss
from model.loss.head_loss import HeadLoss

WEIGHTS = [1.4, 7.0, 0.5]
COUNTS = torch.tensor([50, 3, 400])


def ldam(weights: ClassWeights | None) -> LDAMLoss:
    loss = LDAMLoss(max_margin=0.7, scale=1.5, class_weights=weights)
    loss.use_class_counts(COUNTS)
    return loss


LOSSES: dict[str, Callable[[ClassWeights | None], HeadLoss]] = {
    "CrossEntropyLoss": lambda weights: CrossEntropyLoss(weights),
    "FocalLoss": lambda weights: FocalLoss(gamma=2.0, class_weights=weights),
    "LabelSmoothingLoss": lambda weights: LabelSmoothingLoss(smoothing=0.2, class_weights=weights),
    "F1Loss": lambda weights: F1Loss(weights),
    "LDAMLoss": ldam,
    "OrdinalLoss": lambda weights: OrdinalLoss(weights),
}
each_loss = pytest.mark.parametrize("make", LOSSES.values(), ids=LOSSES.keys())
each_sum = pytest.mark.parametrize("make", [LOSSES[n] for n in LOSSES if n != "F1Loss"], ids=lambda _: "")
with_and_without_weights = pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])


def draw(count: int = 40, seed: int = 0, unknown_share: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = (3 * torch.randn(count, 3, generator=generator, dtype=torch.float64)).requires_grad_()
    target = torch.randint(0, 3, (count,), generator=generator)
    target[torch.rand(count, generator=generator) < unknown_share] = -1
    return logits, target


def gradient(value: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(value, logits, retain_graph=True)[0]


# What all losses share


@each_loss
@with_and_without_weights
def test_unknown_rows_change_nothing_whatever_they_hold(
    make: Callable[..., HeadLoss], weights: list[float] | None
) -> None:
    logits, target = draw(unknown_share=0.4)
    known = target != -1
    expected = make(weights)(logits[known], target[known])
    values = logits.detach().clone()
    values[~known] = torch.tensor([math.nan, math.inf, -math.inf], dtype=torch.float64)
    value = make(weights)(values.requires_grad_(), target)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient(value, values), gradient(expected, logits))


@each_loss
@with_and_without_weights
def test_nothing_known_gives_zero_and_no_gradient(make: Callable[..., HeadLoss], weights: list[float] | None) -> None:
    logits, _ = draw(8)
    value = make(weights)(logits, torch.full((8,), -1))
    assert value.item() == 0
    assert (gradient(value, logits) == 0).all()


@each_loss
def test_only_classes_of_weight_zero_give_zero(make: Callable[..., HeadLoss]) -> None:
    logits, _ = draw(8)
    value = make([0.0, 1.0, 1.0])(logits, torch.zeros(8, dtype=torch.int64))
    assert value.item() == 0
    assert (gradient(value, logits) == 0).all()


@each_sum
@with_and_without_weights
def test_micro_batches_with_a_shared_normaliser_are_one_batch(
    make: Callable[..., HeadLoss], weights: list[float] | None
) -> None:
    logits, target = draw(unknown_share=0.4)
    target[30:] = -1  # the last micro-batch knows nothing
    loss = make(weights)
    whole = loss(logits, target)
    pieces = [slice(0, 3), slice(3, 19), slice(19, 30), slice(30, 40)]
    normaliser = torch.stack([loss.sample_weights(target[piece]).sum() for piece in pieces]).sum()
    parts = torch.stack([loss(logits[piece], target[piece], normaliser) for piece in pieces])
    torch.testing.assert_close(parts.sum(), whole)
    torch.testing.assert_close(gradient(parts.sum(), logits), gradient(whole, logits))


@each_loss
@with_and_without_weights
def test_a_sample_of_weight_3_is_as_three_samples(make: Callable[..., HeadLoss], weights: list[float] | None) -> None:
    logits, target = draw(unknown_share=0.3)
    times = torch.randint(1, 4, (len(target),), generator=torch.Generator().manual_seed(2))
    loss = make(weights)
    repeated = loss(logits.repeat_interleave(times, dim=0), target.repeat_interleave(times))
    for factor in (1.0, 0.1):  # the loss is a mean: only the proportions of the weights count
        weighted = loss(logits, target, weights=factor * times.double())
        torch.testing.assert_close(weighted, repeated)
        torch.testing.assert_close(gradient(weighted, logits), gradient(repeated, logits))


@each_loss
def test_half_precision_logits_are_computed_in_float32(make: Callable[..., HeadLoss]) -> None:
    logits, target = draw(unknown_share=0.2)
    half = logits.detach().bfloat16()
    value = make(WEIGHTS)(half, target)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, make(WEIGHTS)(half.float(), target), rtol=0, atol=0)


@each_loss
@with_and_without_weights
def test_gradients_are_the_derivatives(make: Callable[..., HeadLoss], weights: list[float] | None) -> None:
    logits, target = draw(6, seed=5)
    target[2] = -1
    loss = make(weights)
    assert torch.autograd.gradcheck(lambda values: loss(values, target), logits)


@each_loss
def test_extreme_logits_stay_finite(make: Callable[..., HeadLoss]) -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)
    value = make(None)(logits, torch.tensor([0, 0, 2]))
    value.backward()
    assert logits.grad is not None
    assert torch.isfinite(value)
    assert torch.isfinite(logits.grad).all()


def test_class_weights_of_the_wrong_length_name_both_sides() -> None:
    CrossEntropyLoss(WEIGHTS).check_num_classes(3)
    CrossEntropyLoss().check_num_classes(2)
    with pytest.raises(ValueError, match=r"^class_weights = .* 3 entries, .* 2 classes \(male, female\)$"):
        CrossEntropyLoss(WEIGHTS).check_num_classes(2, ["male", "female"])


@pytest.mark.parametrize("weights", [[0.0, 0.0], []])
def test_class_weights_that_mean_nothing_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="class_weights"):
        CrossEntropyLoss(weights)


@each_loss
def test_computed_class_weights_act_as_if_they_were_given(make: Callable[..., HeadLoss]) -> None:
    logits, target = draw(unknown_share=0.3)
    loss = make("balanced")
    loss.check_num_classes(3)
    loss.use_class_counts(COUNTS)
    assert loss.class_weights is not None
    assert loss.class_weights[1] > loss.class_weights[0] > loss.class_weights[2]
    torch.testing.assert_close(loss(logits, target), make(loss.class_weights.tolist())(logits, target))
    assert loss.state_dict() == {}


@each_sum
def test_a_sample_counts_as_often_as_its_class_weighs(make: Callable[..., HeadLoss]) -> None:
    """Weight 2 on a class is the same as having each of its samples twice (smoothing weighs its shares as well)."""
    loss = make([2.0, 1.0, 1.0])
    if isinstance(loss, LabelSmoothingLoss):
        loss.smoothing = 0.0
    plain = make(None)
    if isinstance(plain, LabelSmoothingLoss):
        plain.smoothing = 0.0
    logits, target = draw()
    twice = torch.cat([torch.arange(len(target)), torch.nonzero(target == 0).squeeze(1)])
    torch.testing.assert_close(loss(logits, target), plain(logits[twice], target[twice]))


def test_a_new_loss_is_one_method() -> None:
    class SquaredErrorLoss(HeadLoss):
        def per_sample(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            return (1 - logits.softmax(dim=1).gather(1, target.unsqueeze(1)).squeeze(1)) ** 2

    logits, target = draw(unknown_share=0.5)
    probabilities = logits.detach().softmax(dim=1).tolist()
    rows = [(WEIGHTS[t], (1 - p[t]) ** 2) for p, t in zip(probabilities, target.tolist(), strict=True) if t >= 0]
    expected = sum(w * value for w, value in rows) / sum(w for w, _ in rows)
    assert SquaredErrorLoss(WEIGHTS)(logits, target).item() == pytest.approx(expected, rel=1e-6)


# Cross entropy and label smoothing against torch


@with_and_without_weights
@pytest.mark.parametrize("smoothing", [None, 0.0, 0.1, 1.0])
def test_cross_entropy_and_label_smoothing_are_torchs(weights: list[float] | None, smoothing: float | None) -> None:
    logits, target = draw(unknown_share=0.3)
    weight = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    expected = F.cross_entropy(logits, target, weight=weight, ignore_index=-1, label_smoothing=smoothing or 0.0)
    loss = CrossEntropyLoss(weights) if smoothing is None else LabelSmoothingLoss(smoothing, weights)
    value = loss(logits, target)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient(value, logits), gradient(expected, logits), rtol=1e-5, atol=1e-9)
