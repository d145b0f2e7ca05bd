"""The sum of the losses, with fixed and with learned weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from base.batch import EMBEDDING
from model.loss import CrossEntropyLoss, F1Loss, FocalLoss, LDAMLoss, OrdinalLoss
from model.loss.metric_learning import LOSSES, MetricLearningLoss
from model.loss.multi_head import MultiHeadLoss

CLASSES = {"mask": 3, "gender": 2, "age": 6}


def make() -> MultiHeadLoss:
    return MultiHeadLoss(
        {
            "mask": FocalLoss(class_weights=[1.4, 7.0, 7.0]),
            "gender": CrossEntropyLoss(),
            "age": FocalLoss(class_weights=[2.9, 4.0, 4.5, 14.0, 14.0, 28.0]),
        },
        {"mask": 0.375, "gender": 0.25, "age": 0.375},
    )


def draw(count: int = 24) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    logits = {h: torch.randn(count, n, generator=generator, requires_grad=True) for h, n in CLASSES.items()}
    targets = {h: torch.randint(-1, n, (count,), generator=generator) for h, n in CLASSES.items()}
    return logits, targets


def test_is_the_weighted_sum_of_the_heads() -> None:
    logits, targets = draw()
    total, parts = make()(logits, targets)
    alone = {
        "mask": FocalLoss(class_weights=[1.4, 7.0, 7.0])(logits["mask"], targets["mask"]),
        "gender": CrossEntropyLoss()(logits["gender"], targets["gender"]),
        "age": FocalLoss(class_weights=[2.9, 4.0, 4.5, 14.0, 14.0, 28.0])(logits["age"], targets["age"]),
    }
    torch.testing.assert_close(parts, {head: value.detach() for head, value in alone.items()})
    torch.testing.assert_close(total, 0.375 * alone["mask"] + 0.25 * alone["gender"] + 0.375 * alone["age"])
    assert not any(part.requires_grad for part in parts.values())


def test_sources_that_each_know_one_head_train_as_if_alone() -> None:
    """The gradient on a shared layer with partial labels is that of each head on its own known samples."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(30, 4, generator=generator)
    shared = torch.randn(4, 5, generator=generator, requires_grad=True)
    tops = {head: torch.randn(5, number, generator=generator) for head, number in CLASSES.items()}
    targets = {head: torch.full((30,), -1) for head in CLASSES}
    knows = {"mask": range(0, 11), "gender": range(11, 18), "age": range(18, 30)}
    for head, rows in knows.items():
        targets[head][rows.start : rows.stop] = torch.randint(0, CLASSES[head], (len(rows),), generator=generator)
    total, _ = make()({head: images @ shared @ top for head, top in tops.items()}, targets)
    (gradient,) = torch.autograd.grad(total, shared)
    expected = torch.zeros_like(shared)
    loss = make()
    for head, part in loss.heads.items():
        known = slice(knows[head].start, knows[head].stop)
        value = loss.weights[head] * part(images[known] @ shared @ tops[head], targets[head][known])
        expected += torch.autograd.grad(value, shared)[0]
    torch.testing.assert_close(gradient, expected)


# Class counts


def test_class_counts_reach_every_head() -> None:
    loss = MultiHeadLoss(
        {"mask": CrossEntropyLoss("balanced"), "gender": CrossEntropyLoss([1, 3]), "age": LDAMLoss()},
        {"mask": 1.0, "gender": 1.0, "age": 1.0},
    )
    loss.use_class_counts(
        {"mask": torch.tensor([5, 1, 1]), "gender": torch.tensor([4, 0]), "age": torch.tensor([9, 8, 7, 6, 5, 0])}
    )
    rules = {name: rule for name, (rule, _) in loss.class_weights().items()}
    weights = {name: own for name, (_, own) in loss.class_weights().items()}
    assert rules == {"mask": "balanced", "gender": None, "age": None}
    torch.testing.assert_close(weights["mask"], torch.tensor([7 / 15, 7 / 3, 7 / 3]))
    torch.testing.assert_close(weights["gender"], torch.tensor([1.0, 3.0]))
    assert weights["age"] is None
    logits, targets = draw()
    assert torch.isfinite(loss(logits, targets)[0])


# Losses on the embedding


def triplets(head: str, weight: float = 0.5) -> MetricLearningLoss:
    return MetricLearningLoss(LOSSES["TripletMarginLoss"](margin=0.3), head, weight)


def with_embedding(count: int = 24) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    logits, targets = draw(count)
    embedding = torch.randn(count, 5, generator=torch.Generator().manual_seed(3), requires_grad=True)
    return {**logits, EMBEDDING: embedding}, targets


def test_losses_on_the_embedding_are_added_by_their_own_names() -> None:
    outputs, targets = with_embedding()
    heads = {"mask": CrossEntropyLoss(), "age": CrossEntropyLoss()}
    loss = MultiHeadLoss(heads, {"mask": 1.0, "age": 2.0}, {"near": triplets("age", 0.25), "type": triplets("mask")})
    assert loss.weights == {"mask": 1.0, "age": 2.0, "near": 0.25, "type": 0.5}
    assert list(loss.weights) == ["mask", "age", "near", "type"]
    total, parts = loss(outputs, targets)
    near, by_mask = (triplets(head)(outputs[EMBEDDING], targets[head]) for head in ("age", "mask"))
    torch.testing.assert_close(parts["near"], near.detach())
    torch.testing.assert_close(parts["type"], by_mask.detach())
    expected = parts["mask"] + 2 * parts["age"] + 0.25 * near + 0.5 * by_mask
    torch.testing.assert_close(total, expected)
    sums = loss.sample_weight_sums(targets)
    assert list(sums) == list(loss.weights)
    assert sums["near"] == (targets["age"] != -1).sum()


def test_parameters_and_state_hold_what_is_learned() -> None:
    arcface = MetricLearningLoss(LOSSES["ArcFaceLoss"](num_classes=6, embedding_size=5), "age")
    loss = MultiHeadLoss({"age": CrossEntropyLoss("sqrt")}, {"age": 1.0}, {"near": arcface}, learned_weights=True)
    loss.use_class_counts({"age": torch.ones(6, dtype=torch.int64)})
    shapes = {name: tuple(value.shape) for name, value in loss.state_dict().items()}
    assert shapes == {"metric_learning.0.loss.W": (5, 6), "log_variances": (1,)}
    assert len(list(loss.parameters())) == 2
    assert not list(make().parameters())
    assert make().state_dict() == {}


# Learned weights, against a plain implementation, one sample at a time


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


def test_effective_weights() -> None:
    fixed = MultiHeadLoss({"age": F1Loss()}, {"age": 0.4}, {"near": triplets("age", 0.2)})
    assert fixed.effective_weights() == fixed.weights == {"age": 0.4, "near": 0.2}
    learned = make_learned().effective_weights()
    assert learned == pytest.approx({"mask": 0.5 * math.exp(-0.3), "gender": 2 * math.exp(0.7), "age": math.exp(-1.1)})
    untrained = MultiHeadLoss({"age": F1Loss()}, {"age": 0.4}, {"near": triplets("age", 0.2)}, learned_weights=True)
    assert untrained.effective_weights() == {"age": 0.4, "near": 0.2}
