"""Metrics of (output, target)."""

from __future__ import annotations

import pytest
import torch

from base.label_space import LabelSpace
from base.metrics import CollectedOutputs, Metrics
from utils import distributed


def test_a_metric_of_outputs_sees_the_whole_set_once() -> None:
    """Whatever the batches: against the same function of all outputs together."""
    labels = LabelSpace({"mask": {"classes": ["a", "b", "c"]}, "age": {"classes": ["x", "y"]}})
    calls = []

    def spread(output: torch.Tensor, target: torch.Tensor) -> float:
        calls.append(len(target))
        return float(output.exp().std() + target.double().std())

    outputs = {name: torch.randn(11, count) for name, count in labels.num_classes.items()}
    targets = {name: torch.randint(-1, count, (11,)) for name, count in labels.num_classes.items()}
    found = []
    for size in (11, 4):
        metrics = Metrics(labels, {"spread": spread}, torch.device("cpu"))
        for start in range(0, 11, size):
            part = slice(start, start + size)
            metrics.update({n: o[part] for n, o in outputs.items()}, {n: t[part] for n, t in targets.items()})
            again = Metrics(labels, {"spread": spread}, torch.device("cpu"))
            again.load_state_dict(metrics.state_dict())
            metrics = again
        metrics.reduce()
        found.append(metrics.values())
    assert found[0] == found[1]
    known = targets["mask"] >= 0
    probabilities = outputs["mask"].softmax(1)[known]
    assert found[0]["mask_spread"] == pytest.approx(float(probabilities.std() + targets["mask"][known].double().std()))
    assert int(known.sum()) in calls


def test_several_processes_count_each_image_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where one of them has no image."""
    probabilities, targets = torch.randn(7, 3).softmax(1), torch.tensor([0, 2, -1, 1, 1, 0, 2])
    processes = [CollectedOutputs(3, torch.device("cpu")) for _ in range(3)]
    processes[0].update(targets[:3], probabilities[:3])
    processes[2].update(targets[3:], probabilities[3:])
    states = [process.state_dict() for process in processes]
    monkeypatch.setattr(distributed, "gather", lambda _: states)
    for process in processes:
        process.reduce()
        found = process.values({"count": lambda _, each: len(each), "sum": lambda output, _: float(output.exp().sum())})
        assert found == {"count": 6, "sum": pytest.approx(6.0)}


def test_what_is_no_number_stays_visible() -> None:
    labels = LabelSpace({"mask": {"classes": ["a", "b"]}, "age": {"classes": ["x", "y"]}})
    metrics = Metrics(labels, {"nothing": lambda _output, _target: float("nan")}, torch.device("cpu"))
    two = {"mask": torch.tensor([0, 1]), "age": torch.tensor([0, 1])}
    metrics.update({name: torch.randn(2, 2) for name in two}, two)
    values = metrics.values("val/")
    assert values.keys() == {"val/nothing", "val/mask_nothing", "val/age_nothing"}
    assert all(value != value for value in values.values())
