"""Soups: the mean of weights, measured batch norms, and a greedy choice whose nested estimate is honest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from base.label_space import LabelSpace
from data_loader.records import LabelTable, Record
from experiment.soup import Ingredient, Soups, main_score, mean_weights, measure_batch_norms, refuse_unlike
from inference.out_of_fold import PredictionTable
from inference.predictor import Predictor
from tests.inference.conftest import MakeCheckpoint, make_checkpoint
from utils.errors import ConfigError

__all__ = ["make_checkpoint"]

LABELS = LabelSpace({"mask": {"classes": ["on", "wrong", "off"]}})


def test_weights_are_averaged_and_counts_are_not() -> None:
    states = [{"weight": torch.tensor([1.0, 2.0]) * number, "count": torch.tensor(number)} for number in (1, 2, 6)]
    mean = mean_weights(states)
    torch.testing.assert_close(mean["weight"], torch.tensor([3.0, 6.0]))
    assert mean["count"].item() == 1


def test_batch_norms_are_measured_anew() -> None:
    """Against the moments of the layer's input, taken by hand; dropout is off, and the weights stay."""
    first, norm, last = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(2)
    model = nn.Sequential(first, norm, nn.Dropout(0.9), nn.Conv2d(4, 2, 1), last)
    norm.load_state_dict({**norm.state_dict(), "running_mean": torch.full((4,), 50.0)})
    batches = [torch.randn(5, 3, 8, 8) for _ in range(3)]
    before = first.weight.clone()
    measure_batch_norms(model, iter(batches))
    inputs = [first(batch).detach() for batch in batches]
    mean = torch.stack([each.mean(dim=(0, 2, 3)) for each in inputs]).mean(dim=0)
    torch.testing.assert_close(norm.running_mean, mean)
    variance = torch.stack([each.transpose(0, 1).flatten(1).var(dim=1) for each in inputs]).mean(dim=0)
    torch.testing.assert_close(norm.running_var, variance)
    assert torch.equal(first.weight, before)
    assert not model.training
    assert norm.momentum == 0.1
    measured = {name: each.clone() for name, each in last.state_dict().items()}
    measure_batch_norms(model, iter(batches))  # would differ where dropout drew again
    torch.testing.assert_close(last.state_dict(), measured)


def test_a_model_without_batch_norm_takes_no_image() -> None:
    def none() -> Iterator[Tensor]:
        raise AssertionError
        yield

    measure_batch_norms(nn.Linear(2, 2), none())


class KnownSoups(Soups):
    """Whose soups predict what a table by hand says: the mean of the runs' probabilities, with an offset by run."""

    def __init__(self, validation: LabelTable, by_run: list[Tensor]) -> None:
        self.validation, self.by_run = validation, by_run
        self.all = frozenset(range(len(by_run)))
        self.asked: set[frozenset[int]] = set()

    def table(self, chosen: frozenset[int]) -> PredictionTable:
        self.asked.add(chosen)
        mean = torch.stack([self.by_run[number] for number in sorted(chosen)]).mean(dim=0)
        assert self.validation is not None
        return PredictionTable.of(self.validation, None, {"mask": mean})


@pytest.fixture
def known() -> KnownSoups:
    stream = np.random.default_rng(3)
    classes = stream.choice(["on", "wrong", "off"], size=90)
    records = [
        Record(Path(f"/{number}.png"), f"{number}.png", f"person {number // 3}", {"mask": each}, "table")
        for number, each in enumerate(classes)
    ]
    table = LabelTable.from_records(records, LABELS)
    right = torch.nn.functional.one_hot(table.targets["mask"], 3).numpy()
    by_run = [
        torch.from_numpy(strength * right + stream.normal(size=(90, 3))).softmax(dim=1).float()
        for strength in (0.3, 0.8, 0.7, 0.6, 0.0)
    ]
    return KnownSoups(table, by_run)


def greedy_by_hand(soups: KnownSoups, rows: list[int]) -> frozenset[int]:
    def score(chosen: list[int]) -> float:
        return main_score(soups.table(frozenset(chosen))[rows].scores())

    order = sorted(range(5), key=lambda number: score([number]), reverse=True)
    chosen = order[:1]
    for number in order[1:]:
        if score([*chosen, number]) >= score(chosen):
            chosen.append(number)
    return frozenset(chosen)


def test_a_greedy_soup_is_no_worse_than_its_best_run_and_its_nested_estimate_does_not_see_its_images(
    known: KnownSoups,
) -> None:
    chosen = known.choose()
    assert chosen == greedy_by_hand(known, list(range(90)))
    alone = [main_score(known.table(frozenset([number])).scores()) for number in range(5)]
    assert main_score(known.table(chosen).scores()) >= max(alone)
    nested = known.nested
    assert nested.ids == known.table(chosen).ids
    # Labels of a person have no part in what is predicted of that person.
    person = 4
    rows = [row for row, name in enumerate(nested.persons) if name == f"person {person}"]
    assert known.validation is not None
    records = [
        replace(record, attributes={"mask": "off"}) if row in rows else record
        for row, record in enumerate(known.validation.records)
    ]
    other = KnownSoups(LabelTable.from_records(records, LABELS), known.by_run)
    assert torch.equal(other.nested.by_head["mask"][rows], nested.by_head["mask"][rows])
    assert main_score(nested.scores()) <= main_score(known.table(chosen).scores())


def test_unlike_runs_are_refused_with_what_differs(make_checkpoint: MakeCheckpoint) -> None:
    def ingredient(name: str, labels: LabelSpace = LABELS, **changes: object) -> Ingredient:
        file = make_checkpoint(labels, name=f"{name}/last.pth", **changes)
        return Ingredient(file, Predictor.from_checkpoint(file))

    first = ingredient("a")
    refuse_unlike([first, ingredient("b", seed=2)])
    other_labels = LabelSpace({"mask": {"classes": ["off", "wrong", "on"]}})
    cases = {
        "preprocessing.image_hw.0 is 24, and 32": ingredient("c", image_hw=(24, 20)),
        "labels.attributes.mask.classes.0": ingredient("d", other_labels),
        "preprocessing.mean.0": ingredient("e", mean=(0.1, 0.1, 0.1)),
    }
    first = ingredient("f", image_hw=(32, 20))
    for expected, run in cases.items():
        beginning = first if "image_hw" in expected else ingredient("g")
        with pytest.raises(ConfigError) as raised:
            refuse_unlike([beginning, run])
        assert expected in str(raised.value)
        assert str(raised.value).startswith(f"{run.path}: ")
