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

OF_THE_MODELS = "in the order of the models"
"""Where the order of the joint class's attributes is from, if no model's label space has it."""


@dataclass(frozen=True)
class Group:
    """Attributes that are decided together, and the models, by number, that decide them."""

    attributes: tuple[str, ...]
    models: tuple[int, ...]


@dataclass(frozen=True)
class EnsemblePrediction:
    """What is predicted of N images.

    joint: (N,), the joint class; None where the label space has none.
    classes: by attribute, (N,).
    probabilities: by attribute, (N, S) over scored classes."""

    joint: Tensor | None
    classes: dict[str, Tensor]
    probabilities: dict[str, Tensor]


class Ensemble:
    """How models answer together. `labels` is the label space of what they answer; of one model it is the model's own.

    labels, weights, names: of each model.

    Raises ConfigError where they do not agree on an attribute's classes."""

    def __init__(self, labels: Sequence[LabelSpace], weights: Sequence[float], names: Sequence[str]) -> None:
        self._models = labels
        self._weights, self._names = weights, names
        self._sets = [_joint_names(each) for each in labels]
        self._refuse_disagreement()
        self._order, self._order_is = self._choose_order()
        self.labels = self._answer_labels()
        self.groups = self._find_groups()

    def predict(self, models: Sequence[Probabilities], vote: Vote = "soft") -> EnsemblePrediction:
        """models: what each predicts of the same images."""
        probabilities = {
            name: self._mean(models, Group((name,), self._predicting(name)))
            for name in self.labels.predicted_attributes
        }
        decided: dict[str, Tensor] = {}
        for group in self.groups:
            mean = self._mean(models, group)
            winner = mean.argmax(dim=1) if vote == "soft" else self._hard_vote(models, group, mean)
            decided |= self._classes(group, winner)
        joint = self.labels.joint_classes(decided) if self.labels.has_joint_class else None
        if vote == "soft":
            decided = {name: table.argmax(dim=1) for name, table in probabilities.items()}
        return EnsemblePrediction(joint, {name: decided[name] for name in probabilities}, probabilities)

    def describe(self) -> list[str]:
        """Lines for the log: what the joint class is, and which models decide which attributes."""
        lines = []
        if self.labels.has_joint_class:
            lines = [f"answer = {self._formula()} ({self.labels.num_joint_classes} classes, {self._order_is})"]
        for group in self.groups:
            total = sum(self._weights[model] for model in group.models)
            shares = [f"{self._names[model]} ({self._weights[model] / total:.3g})" for model in group.models]
            apart = ""
            cut = any(len(self._sets[model]) > 1 and self._models[model].has_joint_class for model in group.models)
            if cut and len(group.attributes) == 1:
                apart = ", apart from the others, as the models' attributes overlap without being the same"
            lines.append(f"{' x '.join(group.attributes)}: by {', '.join(shares)}{apart}")
        return lines

    def warnings(self) -> list[str]:
        """Said where nothing but the order of the models tells what the numbers of the joint class mean."""
        if self._order_is != OF_THE_MODELS or not self.labels.has_joint_class:
            return []
        return [
            f"answer = {self._formula()}: none of the models' labels.attributes names all of these, so their order is "
            "that of --resume; name the models in the right order, or let labels.attributes of one name all"
        ]

    def _formula(self) -> str:
        sizes = [len(self.labels.attributes[name].class_names) for name in self._order]
        factors = [math.prod(sizes[i:]) for i in range(1, len(sizes) + 1)]
        terms = zip(self._order, factors, strict=True)
        return " + ".join(name if factor == 1 else f"{name} * {factor}" for name, factor in terms)

    # --- which models predict what ---

    def _refuse_disagreement(self) -> None:
        problems = []
        for (first, one), (second, other) in itertools.combinations(enumerate(self._models), 2):
            for name, mine in one.predicted_attributes.items():
                theirs = other.predicted_attributes.get(name, mine)
                if (mine.class_names, mine.bins) != (theirs.class_names, theirs.bins):
                    problems.append(
                        f"{name} is not the same to all: {self._names[first]} is scored with {_described(mine)}, "
                        f"{self._names[second]} with {_described(theirs)}; only models of the same scored classes can "
                        "answer together (their training bins may differ)"
                    )
        if problems:
            raise ConfigError("\n".join(problems))

    def _choose_order(self) -> tuple[tuple[str, ...], str]:
        """The attributes of the joint class, the first counting most, and where the order is from."""
        needed = set().union(*self._sets)
        for names, model in zip(self._sets, self._names, strict=True):
            if needed == set(names):
                return names, f"as {model} has it"
        for labels, model in zip(self._models, self._names, strict=True):
            if needed <= labels.attributes.keys():
                return tuple(name for name in labels.attributes if name in needed), f"labels.attributes of {model}"
        return _unique(itertools.chain(*self._sets)), OF_THE_MODELS

    def _answer_labels(self) -> LabelSpace:
        """The first model's label space that has all, or else one with a head for each attribute."""
        predicted = _unique([*self._order, *itertools.chain(*(each.predicted_attributes for each in self._models))])
        for labels in self._models:
            if _joint_names(labels) == self._order and labels.predicted_attributes.keys() == set(predicted):
                return labels
        specs = {
            name: next(each for each in self._models if name in each.predicted_attributes).to_config()["attributes"][
                name
            ]
            for name in predicted
        }
        combinations = math.prod(len(self._attribute(name).class_names) for name in self._order)
        joint = list(self._order) if combinations <= MOST_JOINT_CLASSES else None
        return LabelSpace(specs, {name: [name] for name in predicted}, joint)

    def _attribute(self, name: str) -> Attribute:
        return next(each.predicted_attributes[name] for each in self._models if name in each.predicted_attributes)

    def _find_groups(self) -> list[Group]:
        """Those of the joint class, in its order, then one for each attribute beside it."""
        found: dict[Group, None] = {}
        for name in self._order:
            own = next(names for names in self._sets if name in names)
            whole = all(
                set(own).isdisjoint(names) or (set(own) == set(names) and labels.has_joint_class)
                for names, labels in zip(self._sets, self._models, strict=True)
            )
            attributes = tuple(each for each in self._order if each in own) if whole else (name,)
            found[Group(attributes, self._predicting(name))] = None
        beside = [name for name in self.labels.predicted_attributes if name not in self._order]
        return [*found, *(Group((name,), self._predicting(name)) for name in beside)]

    def _predicting(self, name: str) -> tuple[int, ...]:
        """The models whose joint class has an attribute; if there are none, those that predict it beside theirs."""
        joint = tuple(number for number, names in enumerate(self._sets) if name in names)
        return joint or tuple(number for number, each in enumerate(self._models) if name in each.predicted_attributes)

    # --- their distributions ---

    def _distribution(self, models: Sequence[Probabilities], number: int, group: Group) -> Tensor:
        """A model's distribution over a group's classes: (N, C), the group's first attribute counting most."""
        if len(group.attributes) == 1:
            return models[number].by_attribute[group.attributes[0]]
        own, sizes = self._sets[number], self._sizes(self._sets[number])
        joint = models[number].joint
        assert joint is not None
        joint = joint.reshape(-1, *sizes)
        return joint.permute(0, *(own.index(name) + 1 for name in group.attributes)).flatten(start_dim=1)

    def _mean(self, models: Sequence[Probabilities], group: Group) -> Tensor:
        """The soft vote, in double precision in between: several times the same is that same, to the last bit."""
        total = math.fsum(self._weights[number] for number in group.models)
        weighted = [
            self._distribution(models, number, group).double() * (self._weights[number] / total)
            for number in group.models
        ]
        return torch.stack(weighted).sum(dim=0).float()

    def _hard_vote(self, models: Sequence[Probabilities], group: Group, mean: Tensor) -> Tensor:
        votes = torch.zeros_like(mean, dtype=torch.float64)
        for number in group.models:
            choice = self._distribution(models, number, group).argmax(dim=1, keepdim=True)
            votes.scatter_add_(1, choice, votes.new_full(choice.shape, self._weights[number]))
        # Sums of the same weights in another order differ in their last bits, and are ties nevertheless.
        tied = votes >= votes.amax(dim=1, keepdim=True) * (1 - 1e-9)
        return mean.masked_fill(~tied, -1).argmax(dim=1)

    def _classes(self, group: Group, winners: Tensor) -> dict[str, Tensor]:
        """The winners (N,) among a group's joint classes, as a class of each attribute."""
        classes = torch.unravel_index(winners, self._sizes(group.attributes))
        return dict(zip(group.attributes, classes, strict=True))

    def _sizes(self, names: Sequence[str]) -> tuple[int, ...]:
        return tuple(len(self.labels.attributes[name].class_names) for name in names)


def _joint_names(labels: LabelSpace) -> tuple[str, ...]:
    """The attributes of the joint class, or all where there is none."""
    if not labels.has_joint_class:
        return tuple(name for name in labels.attributes if name in labels.predicted_attributes)
    return tuple(attribute.name for attribute in labels.joint_attributes)


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _described(attribute: Attribute) -> str:
    if attribute.bins is not None:
        return f"bins = [{', '.join(f'{edge:g}' for edge in attribute.bins)}]"
    return f"classes = [{', '.join(attribute.class_names)}]"
