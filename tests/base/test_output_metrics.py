"""Metrics of (output, target)."""

from __future__ import annotations

import pytest
import torch

from base.label_space import LabelSpace
from base.metrics import Metrics


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
