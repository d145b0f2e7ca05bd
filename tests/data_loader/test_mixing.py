"""MixUp and CutMix: torchvision's arithmetic, the papers' distributions, partners by class, and keyed chance."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats  # type: ignore[import-untyped]
from torch.nn.functional import cross_entropy
from torchvision.transforms import v2

from base.label_space import LabelSpace
from base.mixing import Mix, plan_mix
from data_loader import mixing
from data_loader.mixing import CutMix, MixUp, check_mixings, random_box
from utils.config.sections import TypedList, TypedSection, exported
from utils.errors import InvalidConfig
from utils.random_streams import numpy_stream

HW = (20, 14)
TARGETS = {"mask": torch.tensor([0, 1, 2, 0, 1, -1]), "age": torch.tensor([2, 0, -1, 1, 2, 0])}
FROM_SENIORS = {"attribute": "age", "class": ">=60"}


class _Draws:
    """Stands for a stream: gives the numbers that torchvision has drawn, and its partners (the batch rolled by one)."""

    def __init__(self, share: float, *points: int) -> None:
        self.share, self.points = share, iter(points)

    def beta(self, _a: float, _b: float) -> float:
        return self.share

    def integers(self, _high: int) -> int:
        return next(self.points)

    def permutation(self, length: int) -> np.ndarray:
        return np.roll(np.arange(length), 1)


def _plan(rule: MixUp | CutMix, draws: Any, batch: int) -> Mix:
    mix = rule.plan({"mask": torch.zeros(batch, dtype=torch.int64)}, HW, draws)
    assert mix is not None
    return mix


@pytest.mark.parametrize("kind", ["MixUp", "CutMix"])
@pytest.mark.parametrize("seed", range(10))
def test_mixing_is_torchvisions(kind: str, seed: int) -> None:
    torch.manual_seed(seed)
    images, labels, logits = torch.randn(6, 3, *HW), torch.tensor([0, 1, 2, 1, 0, 2]), torch.randn(6, 3)
    theirs = v2.MixUp(alpha=0.4, num_classes=3) if kind == "MixUp" else v2.CutMix(alpha=1.0, num_classes=3)
    state = torch.get_rng_state()
    expected, soft_labels = theirs(images, labels)
    torch.set_rng_state(state)
    share = float(theirs._dist.sample(()))
    points = [int(torch.randint(side, size=(1,))) for side in (HW[1], HW[0])] if kind == "CutMix" else []
    mix = _plan(MixUp() if kind == "MixUp" else CutMix(), _Draws(share, *points), 6)
    assert torch.equal(mix.images(images), expected)
    partners = mix.paired_targets({"mask": labels})["mask"]
    two_terms = mix.lam * cross_entropy(logits, labels) + (1 - mix.lam) * cross_entropy(logits, partners)
    assert torch.allclose(two_terms, cross_entropy(logits, soft_labels), atol=1e-6)


@pytest.mark.parametrize("rule", [MixUp(), CutMix()])
def test_mixed_images_stay_as_they_lie_in_memory(rule: MixUp | CutMix) -> None:
    images = torch.randn(6, 3, *HW).to(memory_format=torch.channels_last)
    mix = _plan(rule, _Draws(0.3, 5, 5), 6)
    before = images.clone()
    mixed = mix.images(images)
    assert mixed.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, before)


def test_shares_follow_the_papers_distributions() -> None:
    streams = [numpy_stream(0, "test", number) for number in range(2000)]
    for rule, alpha in ((MixUp(), 0.2), (MixUp(alpha=3), 3.0)):
        shares = [_plan(rule, stream, 8).lam for stream in streams]
        assert stats.kstest(shares, stats.beta(alpha, alpha).cdf).pvalue > 0.01
    shares = [_plan(MixUp(share_range=[0.3, 0.5]), stream, 8).lam for stream in streams]
    assert stats.kstest(shares, stats.uniform(0.3, 0.2).cdf).pvalue > 0.01
    boxes = [random_box(0.75, 100, 60, stream) for stream in streams]
    inside = [(top, left) for top, left, bottom, right in boxes if (bottom - top, right - left) == (50, 30)]
    assert abs(len(inside) / 2000 - 51 * 31 / 6000) < 0.04  # centres at least half a side from every border
    assert {(min(rows), max(rows)) for rows in zip(*inside, strict=True)} == {(0, 50), (0, 30)}


@pytest.mark.parametrize(("region", "axis"), [("left_right", 1), ("top_bottom", 0)])
def test_halves_are_swapped_along_a_line(region: Any, axis: int) -> None:
    images = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 3, *HW)
    rule = CutMix(share_range=[0.5, 0.5], region=region)
    sides: Counter[str] = Counter()
    for number in range(200):
        mix = _plan(rule, numpy_stream(1, "test", number), 6)
        assert mix.lam == 0.5
        mixed = mix.images(images)
        lines = mixed[:, 0, 0] if axis == 1 else mixed[:, 0, :, 0]
        half = HW[axis] // 2
        own, partner = torch.arange(6.0).view(6, 1).expand(6, half), mix.pairing.view(6, 1).expand(6, half)
        if torch.equal(lines, torch.cat([own, partner], 1).float()):
            sides["second"] += 1
        elif torch.equal(lines, torch.cat([partner, own], 1).float()):
            sides["first"] += 1
        assert torch.equal(mixed, mixed[:, :1].expand(6, 3, *HW))
    assert sides.total() == 200
    assert 70 < sides["first"] < 130


@pytest.mark.parametrize("region", ["box", "left_right", "top_bottom"])
def test_labels_are_shared_as_the_pixels_are(region: Any) -> None:
    images = torch.stack([torch.zeros(3, 13, 7), torch.ones(3, 13, 7)])
    targets = {"mask": torch.tensor([0, 1])}
    for number in range(100):
        mix = CutMix(region=region).plan(targets, (13, 7), numpy_stream(2, "test", number))
        if mix is not None and mix.pairing.tolist() == [1, 0]:
            assert 0 <= mix.lam < 1
            assert float(mix.images(images)[1].mean()) == pytest.approx(mix.lam, abs=1e-6)


def test_unknown_classes_stay_unknown() -> None:
    mix = _plan(MixUp(), _Draws(0.4), 6)
    assert {head: target.tolist() for head, target in mix.paired_targets(TARGETS).items()} == {
        "mask": [-1, 0, 1, 2, 0, 1],
        "age": [0, 2, 0, -1, 1, 2],
    }


def test_partners_of_one_class(labels: LabelSpace) -> None:
    rule = CutMix(labels, partners=FROM_SENIORS)  # type: ignore[arg-type]
    partners: Counter[int] = Counter()
    for number in range(300):
        mix = rule.plan(TARGETS, HW, numpy_stream(3, "test", number))
        if mix is not None:
            assert len(mix.pairing) == 6
            partners.update(mix.pairing.tolist())
    assert partners.keys() == {0, 4}
    assert abs(partners[0] / partners.total() - 0.5) < 0.05
    no_seniors = {**TARGETS, "age": torch.tensor([1, 0, -1, 1, 0, 0])}
    assert all(rule.plan(no_seniors, HW, numpy_stream(3, "test", number)) is None for number in range(20))


def test_every_image_is_a_partner_once() -> None:
    permutations = {
        tuple(_plan(MixUp(alpha=5), numpy_stream(4, "test", number), 4).pairing.tolist()) for number in range(500)
    }
    assert permutations == set(itertools.permutations(range(4)))


def test_a_batch_is_mixed_in_one_way_at_most() -> None:
    rules = [MixUp(batch_share=0.3), CutMix(batch_share=0.1, region="left_right", share_range=[0.5, 0.5])]
    found: Counter[str] = Counter()
    for batch in range(4000):
        mix = plan_mix(rules, TARGETS, HW, 5, 1, batch, 0)
        found["none" if mix is None else "mixup" if mix.box is None else "cutmix"] += 1
    assert abs(found["mixup"] / 4000 - 0.3) < 0.03
    assert abs(found["cutmix"] / 4000 - 0.1) < 0.02
    assert plan_mix([], TARGETS, HW, 5, 1, 0, 0) is None
    assert all(plan_mix([MixUp(alpha=5)], TARGETS, HW, 5, 1, batch, 0) is not None for batch in range(100))
    assert all(plan_mix([MixUp(batch_share=0)], TARGETS, HW, 5, 1, batch, 0) is None for batch in range(100))


def test_chance_is_a_function_of_its_key() -> None:
    def describe(*key: int) -> tuple[float, list[int]]:
        mix = plan_mix([MixUp(alpha=5)], TARGETS, HW, *key)
        assert mix is not None
        return mix.lam, mix.pairing.tolist()

    assert describe(1, 2, 3, 0) == describe(1, 2, 3, 0)
    keys = [(1, 2, 3, 0), (0, 2, 3, 0), (1, 0, 3, 0), (1, 2, 0, 0), (1, 2, 3, 1)]
    assert len({describe(*key)[0] for key in keys}) == 5


SECTION = TypedList(TypedSection(exported(mixing), ("label_space",)))


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ({"alpha": 1, "share_range": [0.5, 0.5]}, "mixing.0.args.alpha = 1 goes without share_range"),
        ({"share_range": [0.5, 0.4]}, "mixing.0.args.share_range = [0.5, 0.4] must be [lowest, highest]"),
        ({"partners": {"attribute": "agee", "class": "x"}}, 'names the attribute "agee", which is not one of'),
        ({"partners": {"attribute": "age", "class": "60"}}, 'names "60", which is not one of <30, 30-59, >=60'),
        ({"alpha": 0}, "mixing.0.args.alpha = 0 must be above 0"),
        ({"share_range": [0.5, 2]}, "mixing.0.args.share_range.1 = 2 must be at most 1"),
        ({"partners": {"attribute": "age"}}, "mixing.0.args.partners.class is missing"),
        ({"region": "left_rigt"}, 'did you mean "left_right"'),
    ],
)
def test_wrong_arguments_are_refused(labels: LabelSpace, args: dict[str, Any], expected: str) -> None:
    """By the signature, or by the constructor that knows the labels."""
    specs = [{"type": "CutMix", "args": args}]
    problems = SECTION.problems(specs, ("mixing",))
    if not problems:
        with pytest.raises(InvalidConfig) as refusal:
            SECTION.build(specs, ("mixing",), {"label_space": labels})
        problems = refusal.value.problems
    (problem,) = problems
    assert expected in str(problem)


def test_more_than_all_batches_cannot_be_mixed() -> None:
    check_mixings([MixUp(batch_share=0.1) for _ in range(10)])
    with pytest.raises(ValueError, match=r"batch_share of all, 0\.7 \+ 0\.4, must be at most 1"):
        check_mixings([MixUp(batch_share=0.7), CutMix(batch_share=0.4)])
