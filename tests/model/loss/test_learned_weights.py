"""Learned weights of the heads against a plain implementation, one sample at a time."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from model.loss import CrossEntropyLoss, F1Loss, FocalLoss, OrdinalLoss
from model.loss.metric_learning import LOSSES, MetricLearningLoss
from model.loss.multi_head import MultiHeadLoss

CLASSES = {"mask": 3, "gender": 2, "age": 6}


def draw(count: int = 24) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    logits = {h: torch.randn(count, n, generator=generator, requires_grad=True) for h, n in CLASSES.items()}
    targets = {h: torch.randint(-1, n, (count,), generator=generator) for h, n in CLASSES.items()}
    return logits, targets


def triplets(head: str, weight: float) -> MetricLearningLoss:
    return MetricLearningLoss(LOSSES["TripletMarginLoss"](margin=0.3), head, weight)


def make_learned() -> MultiHeadLoss:
    heads = {"mask": CrossEntropyLoss([1.4, 7.0, 7.0]), "gender": FocalLoss(), "age": OrdinalLoss()}
    loss = MultiHeadLoss(heads, {"mask": 0.5, "gender": 2.0, "age": 1.0}, learned_weights=True)
    assert loss.log_variances is not None
    with torch.no_grad():
        loss.log_variances.copy_(torch.tensor([0.3, -0.7, 1.1]))
    return loss


def plain_total(
    loss: MultiHeadLoss,
    rows: list[tuple[float, dict[str, torch.Tensor], dict[str, int]]],
) -> torch.Tensor:
    """sum_h weight_h (exp(-s_h) L_h + s_h / 2) of samples that each count by a share, one sample at a time."""
    assert loss.log_variances is not None
    total = torch.zeros(())
    class_weights = {"mask": [1.4, 7.0, 7.0], "gender": [1.0] * 2, "age": [1.0] * 6}
    for number, head in enumerate(CLASSES):
        losses = normaliser = torch.zeros(())
        for share, logits, target in rows:
            if target[head] >= 0:
                probabilities = logits[head].softmax(dim=0)
                if head == "age":
                    truth = F.one_hot(torch.tensor(target[head]), 6)
                    one = ((probabilities.cumsum(0) - truth.cumsum(0)) ** 2).sum()
                else:
                    chance = probabilities[target[head]]
                    one = -torch.log(chance) * ((1 - chance) ** 2 if head == "gender" else 1)
                weight = share * class_weights[head][target[head]]
                losses, normaliser = losses + weight * one, normaliser + weight
        if normaliser > 0:
            log_variance = loss.log_variances[number]
            mean = losses / normaliser
            total = total + loss.weights[head] * (torch.exp(-log_variance) * mean + log_variance / 2)
    return total


def each_row(
    share: float, logits: dict[str, torch.Tensor], targets: dict[str, torch.Tensor]
) -> list[tuple[float, dict[str, torch.Tensor], dict[str, int]]]:
    return [
        (share, {head: value[row] for head, value in logits.items()}, {h: int(t[row]) for h, t in targets.items()})
        for row in range(len(targets["mask"]))
    ]


def check_gradients(
    loss: MultiHeadLoss, given: torch.Tensor, expected: torch.Tensor, logits: list[torch.Tensor]
) -> None:
    torch.testing.assert_close(given, expected)
    variables = [*logits, *loss.parameters()]
    truth = torch.autograd.grad(expected, variables, allow_unused=True, materialize_grads=True)
    for one, other in zip(torch.autograd.grad(given, variables), truth, strict=True):
        torch.testing.assert_close(one, other)


def test_learned_weights_of_one_batch() -> None:
    logits, targets = draw()
    loss = make_learned()
    total, parts = loss(logits, targets)
    check_gradients(loss, total, plain_total(loss, each_row(1.0, logits, targets)), list(logits.values()))
    fixed = MultiHeadLoss(loss.heads, dict.fromkeys(CLASSES, 1.0))
    torch.testing.assert_close(parts, fixed(logits, targets)[1])


@pytest.mark.parametrize("nothing_known", [[], ["age"], ["mask", "gender", "age"]], ids=len)
def test_learned_weights_count_once_in_an_update_of_mixed_batches(nothing_known: list[str]) -> None:
    """MixUp as the trainer does it: each batch has a share of its own, and partners' targets."""
    logits, targets = draw()
    partners = {head: target.flip(0) for head, target in draw()[1].items()}
    for head in nothing_known:
        targets[head][:] = partners[head][:] = -1
    loss = make_learned()
    pieces = [(slice(0, 5), 0.3), (slice(5, 16), 1.0), (slice(16, 24), 0.85)]

    def cut(values: dict[str, torch.Tensor], piece: slice) -> dict[str, torch.Tensor]:
        return {name: value[piece] for name, value in values.items()}

    normalisers = {head: torch.zeros(()) for head in CLASSES}
    for piece, share in pieces:
        own, others = (loss.sample_weight_sums(cut(each, piece)) for each in (targets, partners))
        for head in CLASSES:
            normalisers[head] = normalisers[head] + share * own[head] + (1 - share) * others[head]
    total = torch.zeros(())
    rows = []
    for piece, share in pieces:
        outputs = cut(logits, piece)
        first, _ = loss(outputs, cut(targets, piece), normalisers)
        second, _ = loss(outputs, cut(partners, piece), normalisers)
        total = total + share * first + (1 - share) * second
        rows += each_row(share, outputs, cut(targets, piece)) + each_row(1 - share, outputs, cut(partners, piece))
    if len(nothing_known) == 3:
        assert total.item() == 0
        assert all((g == 0).all() for g in torch.autograd.grad(total, [*logits.values(), *loss.parameters()]))
    else:
        check_gradients(loss, total, plain_total(loss, rows), list(logits.values()))


def test_learned_weights_settle_at_one_over_twice_the_loss() -> None:
    """The minimum of exp(-s) L + s / 2 over s, whatever the fixed weights."""
    logits, targets = draw()
    loss = make_learned()
    fixed = {head: value.detach() for head, value in logits.items()}
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        loss(fixed, targets)[0].backward()
        optimizer.step()
    _, parts = loss(fixed, targets)
    for head, weight in loss.effective_weights().items():
        assert weight == pytest.approx(loss.weights[head] / (2 * parts[head].item()), rel=1e-3)


def test_effective_weights() -> None:
    fixed = MultiHeadLoss({"age": F1Loss()}, {"age": 0.4}, {"near": triplets("age", 0.2)})
    assert fixed.effective_weights() == fixed.weights == {"age": 0.4, "near": 0.2}
    learned = make_learned().effective_weights()
    assert learned == pytest.approx({"mask": 0.5 * math.exp(-0.3), "gender": 2 * math.exp(0.7), "age": math.exp(-1.1)})
    untrained = MultiHeadLoss({"age": F1Loss()}, {"age": 0.4}, {"near": triplets("age", 0.2)}, learned_weights=True)
    assert untrained.effective_weights() == {"age": 0.4, "near": 0.2}
