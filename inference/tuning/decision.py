"""A tuned decision: what test.py --decision does with the probabilities of its runs.

    the runs' probabilities are averaged with weights, head by head -> calibrated -> joined to the joint class (or each
    attribute) -> answered by a rule for macro F1, or the arg max

Averaging comes first: the mean of calibrated runs would be less confident than it may be (Rahaman & Thiery 2021). Where
nothing is calibrated, the runs' joint classes are averaged, as without a decision. It is kept as a small JSON, which
names the runs that it was learned from.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from base.attribute import AttributeSpec
from base.label_space import LabelSpace
from inference.ensemble import EnsemblePrediction, Vote
from inference.predictor import Probabilities
from inference.run_predictions import scored_classes
from inference.scoring.evaluation import JOINT
from inference.tuning.calibration import Arrays, Calibration
from inference.tuning.macro_f1_rule import Rule
from utils.errors import ConfigError
from utils.files import write_output

FORMAT = 1


@dataclass(frozen=True)
class TunedRun:
    """A run's part in the decision.

    name: <name>/<run>
    weight: of its probabilities, all runs' sum to 1
    heads: by name, its training classes
    out_of_fold: the digest of the table it was learned from
    """

    name: str
    weight: float
    heads: dict[str, list[str]]
    out_of_fold: str


@dataclass(frozen=True)
class Decision:
    """labels: of the answers, with the heads that are calibrated (`Pool`)
    runs: those with a weight
    calibration: None leaves the probabilities as they are
    rules: by target (the joint class, or without one each attribute); without one the arg max answers
    left_out: the runs that got no weight
    tuning: how it was learned, and its nested estimate: plain data
    """

    labels: LabelSpace
    runs: list[TunedRun]
    calibration: Calibration | None = None
    rules: dict[str, Rule] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    tuning: dict[str, Any] = field(default_factory=dict)

    def write(self, file: Path) -> None:
        """Raises ConfigError, or StorageFullError, where it cannot be written."""
        content = {
            "format": FORMAT,
            "runs": [
                {
                    "run": run.name,
                    "weight": run.weight,
                    "heads": run.heads,
                    "out_of_fold": run.out_of_fold,
                }
                for run in self.runs
            ],
            "left_out": self.left_out,
            "labels": self.labels.to_config(),
            "calibration": None if self.calibration is None else asdict(self.calibration),
            "rules": {
                name: {"scale": rule.scale.tolist(), "threshold": rule.threshold.tolist()}
                for name, rule in self.rules.items()
            },
            "tuning": self.tuning,
        }
        write_output(file, f"{json.dumps(content, indent=4, ensure_ascii=False)}\n")

    @classmethod
    def read(cls, file: Path) -> Decision:
        """Raises ConfigError where the file is none, or is damaged."""
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise ConfigError(f"{file}: has the format {content['format']!r}, and this version reads {FORMAT}")
            labels = LabelSpace(**content["labels"])
            runs = [_run_from(each) for each in content["runs"]]
            sizes = {name: table.shape[1] for name, table in _empty_targets(labels).items()}
            rules = {name: Rule(*_rule_from(rule, sizes[name])) for name, rule in content["rules"].items()}
            calibration = None if content["calibration"] is None else _calibration_from(content["calibration"], labels)
            if not runs:
                raise ValueError("names no run")
            return cls(labels, runs, calibration, rules, list(map(str, content["left_out"])), dict(content["tuning"]))
        except OSError as error:
            raise ConfigError(f"{file}: cannot be read ({error.strerror})") from None
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{file}: is no decision of scripts.tune, or is damaged ({error!r:.80})") from None

    def members_of(self, names: Sequence[str], labels: Sequence[LabelSpace]) -> list[TunedRun]:
        """Of each model that answers, its run in this decision. Raises ValueError where they are not those runs.

        names: <name>/<run> of each; a run of folds has several models"""
        known = {run.name: run for run in self.runs}
        for name in names:
            if name in self.left_out:
                raise ValueError(f"gives {name} no weight; leave it out of --resume")
            if name not in known:
                raise ValueError(f"was learned from {', '.join(known)}, not from {name}")
        if missing := [name for name in known if name not in names]:
            raise ValueError(f"needs {missing[0]} too; name it with --resume")
        for name, own in zip(names, labels, strict=True):
            heads = {head: list(each.class_names) for head, each in own.heads.items()}
            if heads != known[name].heads or scored_classes(own) != scored_classes(self.labels):
                raise ValueError(f"was learned for other heads or classes than those of {name}")
        return [known[name] for name in names]

    def decide(self, targets: Arrays) -> dict[str, np.ndarray]:
        """By target, (N, K) averaged probabilities -> (N,) classes."""
        return {
            name: self.rules[name].decide(table) if name in self.rules else table.argmax(axis=1)
            for name, table in targets.items()
        }


class TunedEnsemble:
    """Models that answer by a decision, as `Ensemble` does without one.

    members: of each model, its run in the decision
    weights: of each model
    """

    def __init__(
        self, decision: Decision, members: Sequence[TunedRun], labels: Sequence[LabelSpace], weights: Sequence[float]
    ) -> None:
        self.decision, self.members, self._label_spaces, self._weights = decision, members, labels, weights
        self.labels = decision.labels

    def predict(self, models: Sequence[Probabilities], vote: Vote = "soft") -> EnsemblePrediction:  # noqa: ARG002
        """models: what each predicts of the same images"""
        pool = Pool(self._label_spaces)
        by_head = [{name: table.double().numpy() for name, table in model.by_head.items()} for model in models]
        targets, attributes = pool.combine(by_head, self._weights, self.decision.calibration)
        decided = {name: torch.from_numpy(classes) for name, classes in self.decision.decide(targets).items()}
        joint = decided.get(JOINT)
        classes = {
            name: torch.from_numpy(attributes[name].argmax(axis=1)) if joint is not None else decided[name]
            for name in self.labels.predicted_attributes
        }
        probabilities = {name: torch.from_numpy(attributes[name]).float() for name in classes}
        return EnsemblePrediction(joint, classes, probabilities)

    def describe(self) -> list[str]:
        """Lines for the log."""
        return [f"{run.name}: weight {run.weight:.3g}" for run in self.decision.runs]


class Pool:
    """How several models' probabilities become one.

    models: their label spaces, which have the same scored classes

    `labels` has the heads in which they are averaged: the models' own, where all have the same, or else one for each
    attribute."""

    def __init__(self, models: Sequence[LabelSpace]) -> None:
        self.models = models
        self.shares_heads = all(each.heads == models[0].heads for each in models)
        self.labels = models[0] if self.shares_heads else _with_a_head_for_each_attribute(models[0])

    def heads(self, by_head: Sequence[Arrays], weights: Sequence[float]) -> dict[str, np.ndarray]:
        """The weighted mean of each head's probabilities; by_head: of each model."""
        if self.shares_heads:
            return average(by_head, weights)
        return average([attributes_of(*each) for each in zip(self.models, by_head, strict=True)], weights)

    def combine(
        self, by_head: Sequence[Arrays], weights: Sequence[float], calibration: Calibration | None
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """By target, and by attribute, the probabilities of all models together."""
        if calibration is None:
            each = list(zip(self.models, by_head, strict=True))
            targets = average([targets_of(*own) for own in each], weights)
            return targets, average([attributes_of(*own) for own in each], weights)
        heads = calibration.apply(self.labels, self.heads(by_head, weights))
        return targets_of(self.labels, heads), attributes_of(self.labels, heads)


def _with_a_head_for_each_attribute(labels: LabelSpace) -> LabelSpace:
    specs: dict[str, AttributeSpec] = {
        name: {"classes": list(each.class_names)} if each.bins is None else {"bins": list(each.bins)}
        for name, each in labels.predicted_attributes.items()
    }
    joint = [attribute.name for attribute in labels.joint_attributes]
    return LabelSpace(specs, None, joint or None)


def targets_of(labels: LabelSpace, by_head: Arrays) -> dict[str, np.ndarray]:
    """What is decided: the probabilities (N, K) of the joint class, or without one of each attribute."""
    if not labels.has_joint_class:
        return attributes_of(labels, by_head)
    return {JOINT: labels.joint_probabilities(_tensors(by_head)).numpy()}


def truth_of_targets(labels: LabelSpace, truth: Arrays) -> dict[str, np.ndarray]:
    """By target the true class, (N,), -1 = unknown; truth: by attribute."""
    if not labels.has_joint_class:
        return dict(truth)
    return {JOINT: labels.joint_classes(_tensors(truth)).numpy()}


def attributes_of(labels: LabelSpace, by_head: Arrays) -> dict[str, np.ndarray]:
    """The probabilities (N, S) of each attribute's scored classes."""
    return {name: table.numpy() for name, table in labels.attribute_probabilities(_tensors(by_head)).items()}


def average(runs: Sequence[Arrays], weights: Sequence[float]) -> dict[str, np.ndarray]:
    """The weighted mean of several runs' probabilities."""
    total = sum(weights)
    return {
        name: sum(weight / total * run[name] for weight, run in zip(weights, runs, strict=True))  # type: ignore[misc]
        for name in runs[0]
    }


def _tensors(by_head: Arrays) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(table)) for name, table in by_head.items()}


def _empty_targets(labels: LabelSpace) -> dict[str, np.ndarray]:
    return targets_of(labels, {name: np.zeros((0, head.num_classes)) for name, head in labels.heads.items()})


def _run_from(each: Mapping[str, Any]) -> TunedRun:
    weight, heads = float(each["weight"]), {name: list(map(str, names)) for name, names in each["heads"].items()}
    if not 0 < weight <= 1:
        raise ValueError(f"weight {weight} must be above 0, and at most 1")
    return TunedRun(str(each["run"]), weight, heads, str(each["out_of_fold"]))


def _calibration_from(content: Mapping[str, Any], labels: LabelSpace) -> Calibration:
    temperatures = {name: float(value) for name, value in content["temperatures"].items()}
    shifts = {name: [float(value) for value in values] for name, values in content["shifts"].items()}
    sizes = {name: len(attribute.class_names) for name, attribute in labels.predicted_attributes.items()}
    if temperatures.keys() != labels.heads.keys() or {name: len(own) for name, own in shifts.items()} != sizes:
        raise ValueError("its temperatures and shifts are not those of its labels")
    if not np.isfinite([*temperatures.values(), *itertools.chain(*shifts.values())]).all():
        raise ValueError("a temperature or shift is no number")
    if min(temperatures.values()) <= 0:
        raise ValueError("a temperature is not above 0")
    return Calibration(temperatures, shifts)


def _rule_from(each: Mapping[str, Any], num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    scale, threshold = (np.array(each[key], dtype=np.float64) for key in ("scale", "threshold"))
    if scale.shape != (num_classes,) or threshold.shape != (num_classes,) or not np.isfinite(scale + threshold).all():
        raise ValueError(f"a rule must have {num_classes} numbers")
    return scale, threshold
