"""Metrics of a whole set: confusion counts are summed on the device, and divided once at the end."""

from __future__ import annotations

import inspect
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from base.batch import UNKNOWN
from base.label_space import LabelSpace
from utils import distributed
from utils.config.plugins import described_failure
from utils.errors import ConfigError

Metric = Callable[[Tensor], float]
"""A function of a confusion matrix (C, C), counts by [true, predicted]; NaN where nothing is known."""


OutputMetric = Callable[[Tensor, Tensor], float]
"""A function of (output, target): of N samples with known labels the log-probabilities (N, C), and the classes (N,)."""


def num_positional(function: Callable[..., Any]) -> int:
    """How many arguments a function must be given by position: what tells the two kinds of metrics apart."""
    parameters = inspect.signature(function).parameters.values()
    return sum(1 for each in parameters if each.kind <= each.POSITIONAL_OR_KEYWORD and each.default is each.empty)


MOST_CLASSES = 100
"""Of what has more classes, the F1 of each is not followed from epoch to epoch."""


def f1_by_class(confusion: Tensor) -> Tensor:
    """(C,) float64, NaN for a class that is neither true nor predicted."""
    counts = confusion.double()
    return 2 * counts.diagonal() / (counts.sum(dim=0) + counts.sum(dim=1))


class ConfusionCounts:
    """A confusion matrix that grows batch by batch, without waiting for the device.

    counts: (C, C) int64 on `device`, [true, predicted]; those of several processes add up to the whole set's
    """

    def __init__(self, num_classes: int, device: torch.device | str = "cpu") -> None:
        self.num_classes = num_classes
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)

    def update(self, target: Tensor, predicted: Tensor) -> None:
        """Adds a batch.

        target: (B,) int64, -1 = unknown, which is not counted
        predicted: (B,) int64, 0 to C - 1
        """
        cells = self.num_classes**2
        cell = torch.where(target == UNKNOWN, cells, target * self.num_classes + predicted)  # unknown: one cell more
        # Not bincount, which asks the device for its greatest value and so waits for it.
        counted = torch.zeros(cells + 1, dtype=torch.int64, device=self.counts.device)
        counted.scatter_add_(0, cell, torch.ones_like(cell))
        self.counts += counted[:cells].view_as(self.counts)

    @property
    def matrix(self) -> Tensor:
        """The counts so far: (C, C) int64, [true, predicted], a copy on the CPU."""
        return self.counts.cpu().clone()

    def state_dict(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        return {"counts": self.matrix}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the counts of `state_dict()`. Raises ValueError if they are of another number of classes."""
        counts = state["counts"]
        if counts.shape != self.counts.shape:
            raise ValueError(f"confusion counts of {len(counts)} classes, where {self.num_classes} are expected")
        self.counts.copy_(counts)


class CollectedOutputs:
    """The outputs and targets of a whole set, for metrics that are no functions of confusion counts."""

    def __init__(self, num_classes: int, device: torch.device) -> None:
        self.outputs = [torch.zeros(0, num_classes, device=device)]
        self.targets = [torch.zeros(0, dtype=torch.int64, device=device)]

    def update(self, target: Tensor, probabilities: Tensor) -> None:
        """Adds a batch. target: (B,) int64, -1 = unknown; probabilities: (B, C)"""
        self.outputs.append(probabilities.clamp(min=torch.finfo(probabilities.dtype).tiny).log())
        self.targets.append(target)

    def values(self, functions: Mapping[str, OutputMetric]) -> dict[str, float]:
        """Each function of the samples whose label is known. Raises ConfigError for one that fails."""
        outputs, targets = torch.cat(self.outputs), torch.cat(self.targets)
        known = targets != UNKNOWN
        try:
            return {name: call_metric(name, each, outputs[known], targets[known]) for name, each in functions.items()}
        except ValueError as error:
            raise ConfigError(f"metrics: {error}") from error

    def reduce(self) -> None:
        """Those of all processes, in each."""
        device = self.outputs[0].device
        gathered: list[Any] = distributed.gather(self.state_dict())
        for state in gathered:
            self.outputs.append(state["outputs"].to(device))
            self.targets.append(state["targets"].to(device))
        del self.outputs[: -len(gathered)], self.targets[: -len(gathered)]

    def state_dict(self) -> dict[str, Any]:
        return {"outputs": torch.cat(self.outputs).cpu(), "targets": torch.cat(self.targets).cpu()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        device = self.outputs[0].device
        self.outputs, self.targets = [state["outputs"].to(device)], [state["targets"].to(device)]


def call_metric(name: str, function: Callable[..., Any], *arguments: Tensor) -> float:
    """Raises ValueError where the function fails, or gives no number."""
    try:
        with torch.inference_mode():
            return float(function(*arguments))
    except Exception as error:
        number = arguments[0].shape[1]
        raise ValueError(f"{name} fails on {number} classes{described_failure(error)}") from error


class Metrics:
    """The confusion counts of the joint class and of each attribute, and the metrics made of them.

    They are named "<metric>" for the joint class, or the attributes' mean where there is none, and
    "<attribute>_<metric>" for each attribute.

    functions: by name
    """

    def __init__(
        self, labels: LabelSpace, functions: Mapping[str, Metric | OutputMetric], device: torch.device
    ) -> None:
        self.labels, self.names_in_order = labels, list(functions)
        of_outputs = {name for name, function in functions.items() if num_positional(function) == 2}
        self.of_outputs: dict[str, Any] = {name: functions[name] for name in of_outputs}
        self.functions: dict[str, Any] = {name: each for name, each in functions.items() if name not in of_outputs}
        self.counts: dict[str | None, ConfusionCounts] = {}
        """By attribute; None is the joint class."""
        if labels.has_joint_class:
            self.counts[None] = ConfusionCounts(labels.num_joint_classes, device)
        for name, attribute in labels.predicted_attributes.items():
            self.counts[name] = ConfusionCounts(len(attribute.class_names), device)
        self.collected: dict[str | None, CollectedOutputs] = {}
        if of_outputs:
            self.collected = {each: CollectedOutputs(own.num_classes, device) for each, own in self.counts.items()}

    @staticmethod
    def names(labels: LabelSpace, functions: Mapping[str, Metric | OutputMetric]) -> dict[str, str]:
        """By each name that `values` gives, that of its function; known before anything is counted."""
        return {f"{_prefix(each)}{name}": name for each in (None, *labels.predicted_attributes) for name in functions}

    def update(self, outputs: Mapping[str, Tensor], scoring_targets: Mapping[str, Tensor]) -> None:
        """Counts a batch.

        outputs: the model's, of which the heads are logits (B, C)
        scoring_targets: true classes by attribute, (B,) int64, -1 = unknown
        """
        probabilities = {head: outputs[head].detach().float().softmax(dim=1) for head in self.labels.heads}
        if None in self.counts:
            self._update(
                None, self.labels.joint_classes(scoring_targets), self.labels.joint_probabilities(probabilities)
            )
        for name, attribute_probabilities in self.labels.attribute_probabilities(probabilities).items():
            self._update(name, scoring_targets[name], attribute_probabilities)

    def _update(self, each: str | None, target: Tensor, probabilities: Tensor) -> None:
        self.counts[each].update(target, probabilities.argmax(dim=1))
        if self.collected:
            self.collected[each].update(target, probabilities)

    def reduce(self) -> None:
        """Sums the counts over all processes; call it once, after the last batch."""
        for counts in self.counts.values():
            distributed.all_reduce_sum(counts.counts)
        for collected in self.collected.values():
            collected.reduce()

    def values(self, prefix: str = "") -> dict[str, float]:
        """Every metric by name, after `prefix` (such as "val/"). There is none of what has no known label, or has only
        one class in truth: to predict it every time is no success. A function that gives no number gives nan."""
        found = {}
        for each, counts in self.counts.items():
            matrix = counts.matrix
            several = int((matrix.sum(dim=1) > 0).sum()) > 1
            values = {name: function(matrix) for name, function in self.functions.items()} if several else {}
            if several and self.collected:
                values |= self.collected[each].values(self.of_outputs)
            found[each] = {name: values[name] for name in self.names_in_order if name in values}
        if None not in found:
            known = {name: [own[name] for own in found.values() if name in own] for name in self.names_in_order}
            means = {name: statistics.fmean([*filter(_is_number, own)] or own) for name, own in known.items() if own}
            found = {None: means, **found}
        return {f"{prefix}{_prefix(each)}{name}": value for each, own in found.items() for name, value in own.items()}

    def by_class(self, prefix: str) -> dict[str, float]:
        """The F1 of each class that is true or predicted: prefix + "<class>" of the joint class, and
        "<attribute> <class>"."""
        found: dict[str, float] = {}
        for each, counts in self.counts.items():
            if counts.num_classes > MOST_CLASSES:
                continue
            names = self.labels.joint_class_names if each is None else self.labels.attributes[each].class_names
            of = "" if each is None else f"{each} "
            scores = zip(names, f1_by_class(counts.matrix).tolist(), strict=True)
            found |= {f"{prefix}{of}{name}": score for name, score in scores if _is_number(score)}
        return found

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {}
        for each, counts in self.counts.items():
            collected = self.collected[each].state_dict() if each in self.collected else {}
            state[_state_key(each)] = {**counts.state_dict(), **collected}
        return state

    @staticmethod
    def added_up(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The states of several processes as one."""
        whole: dict[str, Any] = {}
        for each, first in states[0].items():
            columns = {name: [state[each][name] for state in states] for name in first}
            whole[each] = {
                name: torch.stack(found).sum(dim=0) if name == "counts" else torch.cat(found)
                for name, found in columns.items()
            }
        return whole

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for each, counts in self.counts.items():
            counts.load_state_dict(state[_state_key(each)])
            if each in self.collected:
                self.collected[each].load_state_dict(state[_state_key(each)])


def _is_number(value: float) -> bool:
    return value == value


def _prefix(attribute: str | None) -> str:
    return "" if attribute is None else f"{attribute}_"


def _state_key(attribute: str | None) -> str:
    return "answer" if attribute is None else f"attribute {attribute}"
