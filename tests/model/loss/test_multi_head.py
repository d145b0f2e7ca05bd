from __future__ import annotations

import pytest
import torch

from model.loss import CrossEntropyLoss, F1Loss, FocalLoss
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


def test_a_head_of_which_nothing_is_known_adds_nothing() -> None:
    logits, targets = draw()
    targets["age"][:] = -1
    total, parts = make()(logits, targets)
    total.backward()
    assert parts["age"] == 0
    assert logits["age"].grad is not None
    assert (logits["age"].grad == 0).all()
    assert torch.isfinite(total)


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
    for head, part in zip(loss.names, loss.losses, strict=True):
        known = slice(knows[head].start, knows[head].stop)
        value = loss.weights[head] * part(images[known] @ shared @ tops[head], targets[head][known])
        expected += torch.autograd.grad(value, shared)[0]
    torch.testing.assert_close(gradient, expected)


def test_an_update_in_pieces_is_one_batch() -> None:
    logits, targets = draw()
    loss = make()
    total, parts = loss(logits, targets)
    pieces = [slice(0, 5), slice(5, 16), slice(16, 24)]
    sums = [loss.sample_weight_sums({head: target[piece] for head, target in targets.items()}) for piece in pieces]
    normalisers = {head: torch.stack([piece[head] for piece in sums]).sum() for head in CLASSES}
    totals, pieces_of_parts = [], []
    for piece in pieces:
        piece_total, piece_parts = loss(
            {head: value[piece] for head, value in logits.items()},
            {head: target[piece] for head, target in targets.items()},
            normalisers,
        )
        totals.append(piece_total)
        pieces_of_parts.append(piece_parts)
    torch.testing.assert_close(torch.stack(totals).sum(), total)
    for head in CLASSES:
        torch.testing.assert_close(torch.stack([p[head] for p in pieces_of_parts]).sum(), parts[head])
    wanted = torch.autograd.grad(total, list(logits.values()))
    for given, expected in zip(torch.autograd.grad(sum(totals), list(logits.values())), wanted, strict=True):
        torch.testing.assert_close(given, expected)


def test_heads_may_have_any_name() -> None:
    logits, targets = draw()
    loss = MultiHeadLoss({"type": F1Loss(), "training": CrossEntropyLoss()}, {"type": 1.0, "training": 0.0})
    total, parts = loss(
        {"type": logits["mask"], "training": logits["gender"]}, {"type": targets["mask"], "training": targets["gender"]}
    )
    torch.testing.assert_close(total.detach(), parts["type"])


def test_names_and_weights_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"mask.*age"):
        MultiHeadLoss({"mask": F1Loss()}, {"age": 1.0})
    for weight in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="head mask"):
            MultiHeadLoss({"mask": F1Loss()}, {"mask": weight})
