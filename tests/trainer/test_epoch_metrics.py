"""The metrics of an epoch: batches are added up together, and the numbers are those of one after the other."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from base.label_space import LabelSpace
from base.metrics import Metrics
from model.metric import accuracy, f1
from trainer.epoch_metrics import BATCHES_TOGETHER, EpochMetrics
from utils import distributed

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


def empty_metrics(leaves_out: bool = False) -> EpochMetrics:
    return EpochMetrics(empty_counts(), WEIGHTS, torch.device("cpu"), leaves_out)


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


def test_what_is_not_finite_is_left_out_and_counted_by_loss() -> None:
    """Of the rest the sums, the lowest and the highest loss of a batch, by plain Python; also saved on the way."""
    batches, epoch = Batches(BATCHES_TOGETHER + 5), empty_metrics(leaves_out=True)
    validation, by_hand = empty_metrics(), []
    for number, (losses, normalisers, weights, *more) in enumerate(batches.arguments):
        if number in (3, BATCHES_TOGETHER + 1):
            losses["age"] = torch.tensor(float("nan") if number == 3 else float("inf"))
        else:
            by_hand.append((float(losses["age"] * normalisers["age"]), float(weights["age"])))
        if number == 7:
            saved, epoch = epoch.state_dict(), empty_metrics(leaves_out=True)
            epoch.load_state_dict(saved)
        epoch.add(losses, normalisers, weights, *more)
        validation.add(losses, normalisers, weights, *more)
    assert epoch.values("")["loss_age"] == sum(one for one, _ in by_hand) / sum(weight for _, weight in by_hand)
    assert math.isnan(validation.values("")["loss_age"])
    means = [one / weight for one, weight in by_hand if weight > 0]
    found = epoch.by_loss()
    assert (found["age"].not_finite, found["age"].batches) == (2, len(means))
    assert [found["age"].lowest, found["age"].highest] == pytest.approx([min(means), max(means)])
    assert [each.not_finite for name, each in found.items() if name != "age"] == [0] * (len(found) - 1)


def test_the_largest_gradient_of_known_labels_is_kept() -> None:
    epoch = empty_metrics()
    name, *others = WEIGHTS
    for gradient, weight in ((0.0, 1.0), (9.0, 0.0), (-2.0, 3.0)):
        epoch.add_gradients({name: torch.tensor([[0.0, gradient]])}, {name: torch.tensor(weight)})
    found = epoch.by_loss()
    assert found[name].gradient == 2.0
    assert all(found[other].gradient is None for other in others)


@pytest.mark.parametrize("now", [1, 2, 3, 4])
def test_any_number_of_processes_goes_on_with_the_sums_of_three(now: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Together they have what one process would have added up."""
    batches = Batches(9).arguments
    whole, parts = empty_metrics(), [empty_metrics() for _ in range(3)]
    for number, arguments in enumerate(batches):
        for metrics in (whole, parts[number % 3]):
            metrics.add(*arguments)
            metrics.add_gradients({name: arguments[3][name] for name in WEIGHTS}, arguments[2])
    for metrics in (whole, *parts):
        metrics.add_update(torch.tensor(True))
    states = [metrics.state_dict() for metrics in parts]
    resumed = [empty_metrics() for _ in range(now)]
    monkeypatch.setattr(distributed, "world_size", lambda: now)
    for rank, metrics in enumerate(resumed):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        metrics.load_states(states)
    assert [metrics.skipped_updates for metrics in resumed] == [1] * now
    torch.testing.assert_close(
        torch.stack([metrics.losses for metrics in resumed]).sum(0), whole.state_dict()["losses"]
    )
    for name, expected in whole.metrics.counts.items():
        counts = torch.stack([metrics.metrics.counts[name].counts for metrics in resumed]).sum(0)
        assert torch.equal(counts, expected.counts)
    watched = [metrics.state_dict()["watched"].tolist() for metrics in resumed]
    monkeypatch.setattr(distributed, "gather", lambda _: watched)
    found = resumed[0].by_loss()
    monkeypatch.setattr(distributed, "gather", lambda value: [value])
    assert found == whole.by_loss()
