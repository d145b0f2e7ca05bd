from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from base.label_space import LabelSpace
from base.metrics import ConfusionCounts, Metrics
from model import metric


def draw(count: int, num_classes: int, unknown_share: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = np.random.default_rng(count * 31 + num_classes)
    target = generator.integers(0, num_classes, count)
    target[generator.random(count) < unknown_share] = -1
    return torch.from_numpy(target), torch.from_numpy(generator.integers(0, num_classes, count))


@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
@pytest.mark.parametrize("num_classes", [2, 18])
def test_equals_scikit_learn_for_every_batch_size(batch_size: int, num_classes: int) -> None:
    target, predicted = draw(500, num_classes)
    counts = ConfusionCounts(num_classes, "cpu")
    for start in range(0, 500, batch_size):
        counts.update(target[start : start + batch_size], predicted[start : start + batch_size])
    known = target != -1
    expected = confusion_matrix(target[known], predicted[known], labels=range(num_classes))
    assert counts.matrix.dtype == torch.int64
    assert counts.matrix.tolist() == expected.tolist()


def test_state_continues_where_it_was_and_is_not_shared() -> None:
    target, predicted = draw(90, 4)
    whole, stopped, resumed = ConfusionCounts(4), ConfusionCounts(4), ConfusionCounts(4)
    whole.update(target, predicted)
    stopped.update(target[:50], predicted[:50])
    state = stopped.state_dict()
    stopped.update(target[:50], predicted[:50])
    resumed.load_state_dict(state)
    resumed.update(target[50:], predicted[50:])
    assert torch.equal(resumed.matrix, whole.matrix)


def test_a_state_of_other_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="3 classes, where 2"):
        ConfusionCounts(2).load_state_dict(ConfusionCounts(3).state_dict())


MANY = LabelSpace({f"a{number}": {"classes": ["no", "yes", "perhaps"]} for number in range(20)})


def draw_batch(count: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Logits by head, and true classes by attribute: a0 is always 1, a1 unknown."""
    generator = torch.Generator().manual_seed(count)
    outputs = {name: torch.rand(count, 3, generator=generator) for name in MANY.heads}
    truth = {name: torch.randint(-1, 3, (count,), generator=generator) for name in MANY.attributes}
    truth["a0"][:], truth["a1"][:] = 1, -1
    return outputs, truth


def test_without_a_joint_class_the_metric_is_the_attributes_mean() -> None:
    """3^20 combinations. What knows one class or none has no metric."""
    functions = {"f1": metric.f1, "accuracy": metric.accuracy}
    metrics = Metrics(MANY, functions, torch.device("cpu"))
    outputs, truth = draw_batch(80)
    metrics.update(outputs, truth)
    expected = {}
    for name in list(MANY.attributes)[2:]:
        known = truth[name] != -1
        predicted = outputs[name].argmax(dim=1)[known]
        expected[f"val/{name}_f1"] = f1_score(truth[name][known], predicted, average="macro")
        expected[f"val/{name}_accuracy"] = accuracy_score(truth[name][known], predicted)
    for name in functions:
        expected[f"val/{name}"] = np.mean([value for key, value in expected.items() if key.endswith(f"_{name}")])
    assert metrics.values("val/") == pytest.approx(expected)
    again = Metrics(MANY, functions, torch.device("cpu"))
    again.load_state_dict(metrics.state_dict())
    assert again.values() == metrics.values()
    assert {f"val/{name}" for name in Metrics.names(MANY, functions)} > set(expected)


def test_the_f1_of_each_class_that_is_there() -> None:
    labels = LabelSpace({"a": {"classes": ["x", "y", "z"]}, "b": {"classes": ["x", "y"]}})
    generator = torch.Generator().manual_seed(3)
    outputs = {"a": torch.rand(50, 3, generator=generator), "b": torch.rand(50, 2, generator=generator)}
    outputs["a"][:, 2] = 0  # never predicted, and never true
    truth = {"a": torch.randint(-1, 2, (50,), generator=generator), "b": torch.randint(2, (50,), generator=generator)}
    metrics = Metrics(labels, {"f1": metric.f1}, torch.device("cpu"))
    metrics.update(outputs, truth)
    known, predicted = truth["a"] != -1, outputs["a"].argmax(dim=1)
    x, y = f1_score(truth["a"][known], predicted[known], average=None)
    both = 2 * truth["a"] + truth["b"]
    joint = 2 * predicted + outputs["b"].argmax(dim=1)
    expected = dict(zip(["x x", "x y", "y x", "y y"], f1_score(both[known], joint[known], average=None), strict=True))
    of_b = dict(zip(["b x", "b y"], f1_score(truth["b"], outputs["b"].argmax(dim=1), average=None), strict=True))
    expected = {"a x": x, "a y": y} | expected | of_b
    assert metrics.by_class("p/") == pytest.approx({f"p/{name}": value for name, value in expected.items()})
