"""Several models answer as one: unlike models, folds of one run, specialists that each know some of the attributes.

Model m with weight w_m predicts a set of attributes A_m (those of its joint class), and gives each image a joint
distribution p_m over the scored classes of A_m; what a head predicts together keeps its dependence. The attributes fall
into groups g, which are decided apart from each other:

- a set A_m that cuts no other model's set is a group, decided by all models with that set,
- of sets that overlap without being equal, and of models without a joint class, each attribute is a group of its own,
  and p_m(g) is its marginal.

With M_g the models that predict g:

    soft vote   p(g) = sum_{m in M_g} w_m p_m(g) / sum_{m in M_g} w_m,   decided is argmax_c p(g = c);
    hard vote   v(c) = sum_{m in M_g} w_m [argmax p_m(g) = c],           decided is argmax_c v(c), ties by p(g).

The joint class is the groups' classes put together: the argmax of the product of their distributions. So models that
predict the same are averaged, and a mask model with a gender x age model makes the 18 classes. An attribute's
probabilities are those of the soft vote, whichever vote decides.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from base.attribute import Attribute
from base.label_space import MOST_JOINT_CLASSES, LabelSpace
from inference.predictor import Probabilities
from utils.errors import ConfigError

Vote = Literal["soft", "hard"]


@dataclass(frozen=True)
class EnsemblePrediction:
    """What is predicted of N images.

    joint: (N,), the joint class; None where the label space has none
    classes: by attribute, (N,)
    probabilities: by attribute, (N, S) over scored classes
    """

    joint: Tensor | None
    classes: dict[str, Tensor]
    probabilities: dict[str, Tensor]


class Ensemble:
    """How models are combined.

    labels, weights, names: of each model

    `labels` is the label space of the prediction, of one model its own; `groups` has the models, by number, that decide
    each group of attributes.

    Raises ConfigError where models differ in an attribute's scored classes.
    """

    def __init__(self, labels: Sequence[LabelSpace], weights: Sequence[float], names: Sequence[str]) -> None:
        self._models, self._weights, self._names = labels, weights, names
        self._joint_names = [_joint_names(each) for each in labels]
        self._label_spaces = self._check_agreement()
        self._order, self._is_order_of_models = self._choose_order()
        self.labels = self._choose_labels()
        self.groups = self._find_groups()

    def predict(self, models: Sequence[Probabilities], vote: Vote = "soft") -> EnsemblePrediction:
        """models: what each predicts of the same images"""
        probabilities = {
            name: soft_vote(*self._votes(models, (name,), self._deciding(name)))
            for name in self.labels.predicted_attributes
        }
        decided: dict[str, Tensor] = {}
        for attributes, numbers in self.groups.items():
            winner = VOTES[vote](*self._votes(models, attributes, numbers)).argmax(dim=1)
            decided |= zip(attributes, torch.unravel_index(winner, self._sizes(attributes)), strict=True)
        joint = self.labels.joint_classes(decided) if self.labels.has_joint_class else None
        if vote == "soft":
            decided = {name: table.argmax(dim=1) for name, table in probabilities.items()}
        return EnsemblePrediction(joint, {name: decided[name] for name in probabilities}, probabilities)

    def joint_probabilities(self, models: Sequence[Probabilities]) -> Tensor | None:
        """The soft vote of the joint class, (N, K): the product of the groups'; None where there is none."""
        if not self.labels.has_joint_class:
            return None
        joint, axes = None, list[str]()
        for attributes, numbers in self.groups.items():
            if attributes[0] not in self._order:
                continue
            part = soft_vote(*self._votes(models, attributes, numbers))
            axes += attributes
            joint = part if joint is None else (joint.unsqueeze(2) * part.unsqueeze(1)).flatten(start_dim=1)
        assert joint is not None
        joint = joint.reshape(len(joint), *self._sizes(axes))
        return joint.permute(0, *(axes.index(name) + 1 for name in self._order)).flatten(start_dim=1)

    def describe(self) -> list[str]:
        """Lines for the log: what the joint class is, and which models decide which attributes."""
        lines = []
        if self.labels.has_joint_class:
            lines = [f"answer = {self._formula()} ({self.labels.num_joint_classes} classes)"]
        for attributes, numbers in self.groups.items():
            total = sum(self._weights[model] for model in numbers)
            weights = [f"{self._names[model]} ({self._weights[model] / total:.3g})" for model in numbers]
            lines.append(f"{' x '.join(attributes)}: by {', '.join(weights)}")
        return lines

    def warning(self) -> str | None:
        """A warning where only the order of the models decides what the numbers of the joint class mean."""
        if not self._is_order_of_models or not self.labels.has_joint_class:
            return None
        return f"answer = {self._formula()}: in the order of --resume; check it, or list all in one model's labels"

    def _formula(self) -> str:
        sizes = self._sizes(self._order)
        factors = [math.prod(sizes[i:]) for i in range(1, len(sizes) + 1)]
        terms = zip(self._order, factors, strict=True)
        return " + ".join(name if factor == 1 else f"{name} * {factor}" for name, factor in terms)

    # --- which models predict what ---

    def _check_agreement(self) -> dict[str, LabelSpace]:
        """By predicted attribute, the label space of the first model that predicts it."""
        first: dict[str, int] = {}
        for number, labels in enumerate(self._models):
            for name, attribute in labels.predicted_attributes.items():
                other = self._models[first.setdefault(name, number)].predicted_attributes[name]
                if (attribute.class_names, attribute.bins) != (other.class_names, other.bins):
                    raise ConfigError(
                        f"{name} has other scored classes in {self._names[first[name]]} ({_classes_of(other)}) than in "
                        f"{self._names[number]} ({_classes_of(attribute)}); only training bins may differ"
                    )
        return {name: self._models[number] for name, number in first.items()}

    def _choose_order(self) -> tuple[tuple[str, ...], bool]:
        """The attributes of the joint class, the first counting most, and whether only the models' order decides it."""
        needed = set().union(*self._joint_names)
        for names in self._joint_names:
            if needed == set(names):
                return names, False
        for labels in self._models:
            if needed <= labels.attributes.keys():
                return tuple(name for name in labels.attributes if name in needed), False
        return _unique(itertools.chain(*self._joint_names)), True

    def _choose_labels(self) -> LabelSpace:
        """The first model's label space that predicts all, or else one with a head for each attribute."""
        predicted = _unique([*self._order, *self._label_spaces])
        for names, labels in zip(self._joint_names, self._models, strict=True):
            if names == self._order and labels.predicted_attributes.keys() == set(predicted):
                return labels
        specs = {name: self._label_spaces[name].to_config()["attributes"][name] for name in predicted}
        combinations = math.prod(len(self._label_spaces[name].attributes[name].class_names) for name in self._order)
        joint = list(self._order) if combinations <= MOST_JOINT_CLASSES else None
        return LabelSpace(specs, {name: [name] for name in predicted}, joint)

    def _find_groups(self) -> dict[tuple[str, ...], tuple[int, ...]]:
        """The groups of the joint class, in its order, then one for each other attribute."""
        groups = {}
        for name in self._order:
            own = next(names for names in self._joint_names if name in names)
            is_whole = all(
                set(own).isdisjoint(names) or (set(own) == set(names) and labels.has_joint_class)
                for names, labels in zip(self._joint_names, self._models, strict=True)
            )
            attributes = tuple(each for each in self._order if each in own) if is_whole else (name,)
            groups[attributes] = self._deciding(name)
        others = [name for name in self.labels.predicted_attributes if name not in self._order]
        return groups | {(name,): self._deciding(name) for name in others}

    def _deciding(self, name: str) -> tuple[int, ...]:
        """The models whose joint class has an attribute; if there are none, those that predict it beside theirs."""
        joint = tuple(number for number, names in enumerate(self._joint_names) if name in names)
        return joint or tuple(number for number, each in enumerate(self._models) if name in each.predicted_attributes)

    def _votes(
        self, models: Sequence[Probabilities], attributes: tuple[str, ...], numbers: tuple[int, ...]
    ) -> tuple[Tensor, Tensor]:
        """The models' distributions over a group's classes, (M, N, C), the first attribute counting most; and their
        weights, (M,)."""
        tables = []
        for number in numbers:
            own, joint = self._joint_names[number], models[number].joint
            if len(attributes) == 1 or joint is None:
                tables.append(models[number].by_attribute[attributes[0]])
            else:
                axes = [own.index(name) + 1 for name in attributes]
                tables.append(joint.reshape(-1, *self._sizes(own)).permute(0, *axes).flatten(start_dim=1))
        return torch.stack(tables), torch.tensor([self._weights[number] for number in numbers], dtype=torch.float64)

    def _sizes(self, names: Sequence[str]) -> tuple[int, ...]:
        return tuple(len(self.labels.attributes[name].class_names) for name in names)


def soft_vote(tables: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean (N, C) of probabilities (M, N, C), in double precision in between: several times the same is
    that same, to the last bit."""
    return (tables.double() * (weights / math.fsum(weights))[:, None, None]).sum(dim=0).float()


def hard_vote(tables: Tensor, weights: Tensor) -> Tensor:
    """(N, C): the soft vote of the classes that have the most votes, -1 for the others."""
    mean, choices = soft_vote(tables, weights), tables.argmax(dim=2).T
    votes = torch.zeros_like(mean, dtype=torch.float64).scatter_add(1, choices, weights.expand(choices.shape))
    # Sums of the same weights in another order differ in their last bits, and are ties nevertheless.
    return mean.masked_fill(votes < votes.amax(dim=1, keepdim=True) * (1 - 1e-9), -1)


VOTES = {"soft": soft_vote, "hard": hard_vote}


def _joint_names(labels: LabelSpace) -> tuple[str, ...]:
    """The attributes of the joint class, or all where there is none."""
    if not labels.has_joint_class:
        return tuple(name for name in labels.attributes if name in labels.predicted_attributes)
    return tuple(attribute.name for attribute in labels.joint_attributes)


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _classes_of(attribute: Attribute) -> str:
    if attribute.bins is not None:
        return f"bins = [{', '.join(f'{edge:g}' for edge in attribute.bins)}]"
    return f"classes = [{', '.join(attribute.class_names)}]"
