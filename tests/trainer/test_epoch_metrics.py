"""The metrics of an epoch: batches are added up together, and the numbers are those of one after the other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from base.label_space import LabelSpace
from base.metrics import Metrics
from model.metric import accuracy, f1
from trainer.epoch_metrics import BATCHES_TOGETHER, EpochMetrics

LABELS = LabelSpace(
    {
        "mask": {"classes": ["on", "off"]},
        "age": {"bins": [30, 60], "training_bins": [20, 30, 60]},
        "hat": {"bins": [1]},
    },
    heads={"face": ["mask", "hat"], "age": ["age"]},
)
WEIGHTS = {"face": 0.4, "age": 0.6}


def empty_counts() -> Metrics:
    return Metrics(LABELS, {"accuracy": accuracy, "f1": f1}, torch.device("cpu"))


def empty_metrics() -> EpochMetrics:
    return EpochMetrics(empty_counts(), WEIGHTS, torch.device("cpu"))


Values = dict[str, Tensor]
Arguments = tuple[Values, Values, Values, Values, Values]


class Batches:
    """Of random sizes, and the sums that plain Python makes of them."""

    def __init__(self, count: int) -> None:
        generator = torch.Generator().manual_seed(count)
        self.arguments: list[Arguments] = []
        self.losses = {head: [0.0, 0.0] for head in WEIGHTS}
        for _ in range(count):
            size = int(torch.randint(1, 9, (), generator=generator))
            scalars = [{head: torch.rand((), generator=generator) for head in WEIGHTS} for _ in range(3)]
            outputs = {
                head: torch.randn(size, classes, generator=generator) for head, classes in LABELS.num_classes.items()
            }
            truth = {
                name: torch.randint(-1, len(attribute.class_names), (size,), generator=generator)
                for name, attribute in LABELS.attributes.items()
            }
            self.arguments.append((scalars[0], scalars[1], scalars[2], outputs, truth))
            for head, sums in self.losses.items():
                sums[0] += float(scalars[0][head] * scalars[1][head])
                sums[1] += float(scalars[2][head])

    def counts(self) -> Metrics:
        one_by_one = empty_counts()
        for *_, outputs, truth in self.arguments:
            one_by_one.update(outputs, truth)
        return one_by_one


@pytest.mark.parametrize("count", [1, BATCHES_TOGETHER - 1, BATCHES_TOGETHER, 2 * BATCHES_TOGETHER + 5])
def test_the_sums_are_those_of_plain_python(count: int) -> None:
    """Exactly: they are added one after the other, in double precision."""
    batches, epoch = Batches(count), empty_metrics()
    for arguments in batches.arguments:
        epoch.add(*arguments)
    metrics = epoch.reduced().values("train/")
    whole = 0.0
    for head, (total, weights) in batches.losses.items():
        assert metrics[f"train/loss_{head}"] == total / weights
        whole += WEIGHTS[head] * total / weights
    assert metrics["train/loss"] == whole
    for name, value in batches.counts().values("train/").items():
        assert metrics[name] == value


@pytest.mark.parametrize("stopped_after", [1, 7, BATCHES_TOGETHER, BATCHES_TOGETHER + 3])
def test_metrics_that_were_saved_on_the_way_are_resumed_exactly(stopped_after: int) -> None:
    batches, whole, stopped, resumed = Batches(50), empty_metrics(), empty_metrics(), empty_metrics()
    for arguments in batches.arguments:
        whole.add(*arguments)
    for arguments in batches.arguments[:stopped_after]:
        stopped.add(*arguments)
    resumed.load_state_dict(stopped.state_dict())
    for arguments in batches.arguments[stopped_after:]:
        resumed.add(*arguments)
    assert resumed.values("") == whole.values("")
    assert torch.equal(resumed.losses, whole.losses)


@pytest.mark.parametrize("wrong_at", [0, BATCHES_TOGETHER + 3])
def test_the_loss_that_was_wrong_first_is_named(wrong_at: int) -> None:
    """Its gradient spoils the weights, so that from the next batch on every loss is no number."""
    batches, epoch = Batches(2 * BATCHES_TOGETHER + 5), empty_metrics()
    for number, (losses, *more) in enumerate(batches.arguments):
        if number == wrong_at:
            losses["age"] = torch.tensor(float("nan"))
        elif number > wrong_at:
            losses.update(dict.fromkeys(WEIGHTS, torch.tensor(float("nan"))))
        epoch.add(losses, *more)
    assert epoch.first_not_finite() == ["age"]
    assert empty_metrics().first_not_finite() == []
