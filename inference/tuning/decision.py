"""A tuned decision: what test.py --decision does with the probabilities of its runs.

    the runs' probabilities are averaged with weights, head by head -> calibrated -> joined to the joint class (or each
    attribute) -> answered by a rule for macro F1, or the arg max

Attributes are decided one by one where there is no joint class, and where its truth was known of too few persons to
learn from (partial labels); the joint class is then the one that they make.

Specialists may predict different attributes: each attribute is averaged over the runs that predict it. Where nothing is
calibrated, they answer as `Ensemble` does without a decision.

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
from inference.ensemble import Ensemble, EnsemblePrediction, Vote
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
    by_attribute: each attribute is decided by itself, though there is a joint class
    tuning: how it was learned, and its nested estimate: plain data
    """

    labels: LabelSpace
    runs: list[TunedRun]
    calibration: Calibration | None = None
    rules: dict[str, Rule] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    by_attribute: bool = False
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
            "by_attribute": self.by_attribute,
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
            by_attribute = content.get("by_attribute", False) is True
            sizes = {name: table.shape[1] for name, table in _empty_targets(labels, by_attribute).items()}
            rules = {name: Rule(*_rule_from(rule, sizes[name])) for name, rule in content["rules"].items()}
            calibration = None if content["calibration"] is None else _calibration_from(content["calibration"], labels)
            if not runs:
                raise ValueError("names no run")
            left_out, tuning = list(map(str, content["left_out"])), dict(content["tuning"])
            return cls(labels, runs, calibration, rules, left_out, by_attribute, tuning)
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
            if heads != known[name].heads or not self._predicts_these(own):
                raise ValueError(f"was learned for other heads or classes than those of {name}")
        return [known[name] for name in names]

    def _predicts_these(self, labels: LabelSpace) -> bool:
        """Whether a run's answers mean the same as the decision's, all of them or those of a specialist."""
        own, ours = scored_classes(labels), scored_classes(self.labels)
        attributes = labels.predicted_attributes
        return own == ours or (
            attributes.keys() < ours.keys() and all(own[attribute] == ours[attribute] for attribute in attributes)
        )

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
        # In the decision's order: without it, that of --resume might decide what specialists' joint class means.
        self._order = sorted(range(len(members)), key=lambda number: decision.runs.index(members[number]))
        self.decision, self.members, self.labels = decision, members, decision.labels
        self._weights = [weights[number] for number in self._order]
        models, names = zip(*((labels[number], members[number].name) for number in self._order), strict=True)
        self._pool = Pool(models, names, decision.by_attribute)

    def predict(self, models: Sequence[Probabilities], vote: Vote = "soft") -> EnsemblePrediction:  # noqa: ARG002
        """models: what each predicts of the same images"""
        ordered = [models[number].by_head for number in self._order]
        by_head = [{name: table.double().numpy() for name, table in own.items()} for own in ordered]
        targets, attributes = self._pool.combine(by_head, self._weights, self.decision.calibration)
        decided = {name: torch.from_numpy(classes) for name, classes in self.decision.decide(targets).items()}
        classes = {
            name: decided[name] if name in decided else torch.from_numpy(attributes[name].argmax(axis=1))
            for name in self.labels.predicted_attributes
        }
        joint = decided.get(JOINT)
        if joint is None and self.labels.has_joint_class:
            joint = self.labels.joint_classes(classes)
        probabilities = {name: torch.from_numpy(attributes[name]).float() for name in classes}
        return EnsemblePrediction(joint, classes, probabilities)

    def describe(self) -> list[str]:
        """Lines for the log."""
        return [f"{run.name}: weight {run.weight:.3g}" for run in self.decision.runs]


class Pool:
    """How several models' probabilities become one.

    models: their label spaces; an attribute has the same scored classes in all that predict it
    names: of the models, for errors
    by_attribute: each attribute is decided by itself, though there is a joint class

    `labels` has the heads in which they are averaged: the models' own, where all have the same, or else one for each
    attribute. `are_specialists` where the models do not all predict the same attributes.

    Raises ConfigError where models differ in an attribute's scored classes."""

    def __init__(self, models: Sequence[LabelSpace], names: Sequence[str] = (), by_attribute: bool = False) -> None:
        self.models = models
        self.by_attribute = by_attribute
        self.shares_heads = all(each.heads == models[0].heads for each in models)
        self.are_specialists = any(scored_classes(each) != scored_classes(models[0]) for each in models)
        self._names = list(names) or [str(number) for number in range(len(models))]
        whole = self._ensemble([1.0] * len(models)).labels if self.are_specialists else models[0]
        self.labels = whole if self.shares_heads else _with_a_head_for_each_attribute(whole)

    def heads(self, by_head: Sequence[Arrays], weights: Sequence[float]) -> dict[str, np.ndarray]:
        """The weighted mean of each head's probabilities; by_head: of each model."""
        if self.shares_heads:
            return average(by_head, weights)
        return average([attributes_of(*each) for each in zip(self.models, by_head, strict=True)], weights)

    def _ensemble(self, weights: Sequence[float]) -> Ensemble:
        return Ensemble(self.models, weights, self._names)

    def combine(
        self, by_head: Sequence[Arrays], weights: Sequence[float], calibration: Calibration | None
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """By target, and by attribute, the probabilities of all models together."""
        if calibration is None and self.are_specialists:
            models = [Probabilities.from_heads(*own) for own in zip(self.models, map(_tensors, by_head), strict=True)]
            joint = None if self.by_attribute else self._ensemble(weights).joint_probabilities(models)
            attributes = self.heads(by_head, weights)
            return attributes if joint is None else {JOINT: joint.double().numpy()}, attributes
        if calibration is None:
            each = list(zip(self.models, by_head, strict=True))
            targets = average([self.targets_of(*own) for own in each], weights)
            return targets, average([attributes_of(*own) for own in each], weights)
        heads = calibration.apply(self.labels, self.heads(by_head, weights))
        return self.targets_of(self.labels, heads), attributes_of(self.labels, heads)

    def targets_of(self, labels: LabelSpace, by_head: Arrays) -> dict[str, np.ndarray]:
        """What is decided of a model, or of all of them."""
        return targets_of(labels, by_head, self.by_attribute)


def _with_a_head_for_each_attribute(labels: LabelSpace) -> LabelSpace:
    specs: dict[str, AttributeSpec] = {
        name: {"classes": list(each.class_names)} if each.bins is None else {"bins": list(each.bins)}
        for name, each in labels.predicted_attributes.items()
    }
    joint = [attribute.name for attribute in labels.joint_attributes]
    return LabelSpace(specs, None, joint or None)


def targets_of(labels: LabelSpace, by_head: Arrays, by_attribute: bool = False) -> dict[str, np.ndarray]:
    """What is decided: the probabilities (N, K) of the joint class, or of each attribute where there is none or
    `by_attribute`."""
    if by_attribute or not labels.has_joint_class:
        return attributes_of(labels, by_head)
    return {JOINT: labels.joint_probabilities(_tensors(by_head)).numpy()}


def truth_of_targets(labels: LabelSpace, truth: Arrays, by_attribute: bool = False) -> dict[str, np.ndarray]:
    """By target the true class, (N,), -1 = unknown; truth: by attribute."""
    if by_attribute or not labels.has_joint_class:
        return dict(truth)
    return {JOINT: labels.joint_classes(_tensors(truth)).numpy()}


def attributes_of(labels: LabelSpace, by_head: Arrays) -> dict[str, np.ndarray]:
    """The probabilities (N, S) of each attribute's scored classes."""
    return {name: table.numpy() for name, table in labels.attribute_probabilities(_tensors(by_head)).items()}


def average(runs: Sequence[Arrays], weights: Sequence[float]) -> dict[str, np.ndarray]:
    """The weighted mean of several runs' probabilities, each over the runs that have it."""
    found = {}
    for name in dict.fromkeys(name for run in runs for name in run):
        having = [(weight, run[name]) for weight, run in zip(weights, runs, strict=True) if name in run]
        total = sum(weight for weight, _ in having)
        found[name] = sum(weight / total * table for weight, table in having)
    return found  # type: ignore[return-value]


def _tensors(by_head: Arrays) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(table)) for name, table in by_head.items()}


def _empty_targets(labels: LabelSpace, by_attribute: bool) -> dict[str, np.ndarray]:
    by_head = {name: np.zeros((0, head.num_classes)) for name, head in labels.heads.items()}
    return targets_of(labels, by_head, by_attribute)


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
