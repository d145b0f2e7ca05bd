"""Some losses on the embedding against their papers' formulas and brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from model.loss.metric_learning import MetricLearningLoss
from model.loss.metric_learning_names import LOSSES, MINERS

CLASSES, SIZE = 4, 6


def make(name: str, miner: str | None = None, **arguments: object) -> MetricLearningLoss:
    torch.manual_seed(7)
    return MetricLearningLoss(LOSSES[name](**arguments), "age", miner=None if miner is None else MINERS[miner]())


def draw(count: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, SIZE, generator=generator), torch.randint(0, CLASSES, (count,), generator=generator)


def unit(embedding: torch.Tensor) -> torch.Tensor:
    return F.normalize(embedding, dim=1)


def test_triplets_by_brute_force() -> None:
    embedding, target = draw()
    distances, violations = torch.cdist(unit(embedding), unit(embedding)), []
    for anchor, positive, negative in itertools.permutations(range(12), 3):
        if target[anchor] == target[positive] != target[negative]:
            violation = distances[anchor, positive] - distances[anchor, negative] + 0.1
            violations += [violation.item()] if violation > 0 else []
    value = make("TripletMarginLoss", margin=0.1)(embedding, target)
    assert value.item() == pytest.approx(sum(violations) / len(violations), rel=1e-5)


def test_arcface_is_cross_entropy_with_an_added_angle() -> None:
    """Deng et al. 2019, eq. 3."""
    embedding, target = draw()
    loss = make("ArcFaceLoss", num_classes=CLASSES, embedding_size=SIZE, margin=20, scale=8)
    centres = F.normalize(next(loss.parameters()).detach(), dim=0)
    angles = torch.acos(unit(embedding) @ centres)
    angles[torch.arange(12), target] += math.radians(20)
    assert angles.max() < math.pi  # beyond it the library goes on in a straight line
    torch.testing.assert_close(loss(embedding, target).detach(), F.cross_entropy(8 * torch.cos(angles), target))


def test_normalized_softmax_by_hand() -> None:
    embedding, target = draw()
    loss = make("NormalizedSoftmaxLoss", num_classes=CLASSES, embedding_size=SIZE, temperature=0.5)
    centres = F.normalize(next(loss.parameters()).detach(), dim=0)
    expected = F.cross_entropy(unit(embedding) @ centres / 0.5, target)
    torch.testing.assert_close(loss(embedding, target).detach(), expected)


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:UserWarning")  # of the library
def test_a_histogram_by_counting() -> None:
    """Ustinova & Lempitsky 2016: the chance that a pair of unlike images is more alike than one of like images."""
    embedding, target = draw()
    similarity = unit(embedding) @ unit(embedding).T
    pairs = list(itertools.combinations(range(12), 2))
    like = [similarity[i, j].item() for i, j in pairs if target[i] == target[j]]
    unlike = [similarity[i, j].item() for i, j in pairs if target[i] != target[j]]
    chance = np.mean([a > b for a in unlike for b in like])
    assert make("HistogramLoss", n_bins=2000)(embedding, target).item() == pytest.approx(chance, abs=5e-3)


def test_a_miner_chooses_what_the_loss_sees() -> None:
    """Of the hardest pairs of each anchor, by brute force."""
    embedding, target = draw()
    distances = torch.cdist(unit(embedding), unit(embedding))
    violations = []
    for anchor in range(12):
        like = [other for other in range(12) if other != anchor and target[other] == target[anchor]]
        unlike = [other for other in range(12) if target[other] != target[anchor]]
        if like and unlike:
            farthest = max(distances[anchor, other].item() for other in like)
            nearest = min(distances[anchor, other].item() for other in unlike)
            violations.append(max(0.0, farthest - nearest + 0.05))
    violations = [violation for violation in violations if violation > 0]
    value = make("TripletMarginLoss", "BatchHardMiner")(embedding, target)
    assert value.item() == pytest.approx(sum(violations) / len(violations), rel=1e-5)
