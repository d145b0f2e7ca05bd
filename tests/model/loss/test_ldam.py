"""LDAM against the paper's equations, written out sample by sample."""

from __future__ import annotations

import math

import pytest
import torch

from model.loss import LDAMLoss

COUNTS = [4000, 16, 1, 250]


def loss_of(
    counts: list[int], max_margin: float = 0.5, scale: float = 1.0, weights: list[float] | None = None
) -> LDAMLoss:
    loss = LDAMLoss(max_margin, scale, weights)
    loss.use_class_counts(torch.tensor(counts))
    return loss


def draw(count: int = 30) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(count, 4, generator=generator, dtype=torch.float64)
    return logits, torch.randint(-1, 4, (count,), generator=generator)


@pytest.mark.parametrize("weights", [None, [0.2, 3.0, 9.0, 1.0]])
@pytest.mark.parametrize(("max_margin", "scale"), [(0.5, 30.0), (2.0, 1.0)])
def test_is_the_papers(max_margin: float, scale: float, weights: list[float] | None) -> None:
    logits, target = draw()
    constant = max_margin / max(count**-0.25 for count in COUNTS)
    total = normaliser = 0.0
    for row, label in zip(logits.tolist(), target.tolist(), strict=True):
        if label >= 0:
            own = math.exp(scale * (row[label] - constant / COUNTS[label] ** 0.25))
            others = sum(math.exp(scale * value) for number, value in enumerate(row) if number != label)
            weight = 1.0 if weights is None else weights[label]
            total -= weight * math.log(own / (own + others))
            normaliser += weight
    loss = loss_of(COUNTS, max_margin, scale, weights)
    assert loss(logits, target).item() == pytest.approx(total / normaliser, rel=1e-6)


def test_the_rarest_class_has_the_widest_margin() -> None:
    margins = loss_of([0, 16, 81], 0.6).margins  # none counts as one
    assert margins is not None
    torch.testing.assert_close(margins, torch.tensor([0.6, 0.3, 0.2]))
