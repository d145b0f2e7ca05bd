"""The one home of every label fact: attributes, heads, class names, and how classes combine to one answer."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from base.attribute import Attribute, AttributeSpec, attribute_from
from base.batch import EMBEDDING, UNKNOWN
from utils.errors import InvalidConfig, Problem

MOST_JOINT_CLASSES = 4096
"""Of more, attributes are scored one by one: counts of [true, predicted] joint classes would no longer fit."""


@dataclass(frozen=True)
class Head:
    """One output of the model: one attribute, or several as one class number (the first counts most)."""

    name: str
    attributes: tuple[Attribute, ...]

    @property
    def class_names(self) -> tuple[str, ...]:
        return _combined_names([attribute.training_class_names for attribute in self.attributes])

    @property
    def num_classes(self) -> int:
        return math.prod(len(attribute.training_class_names) for attribute in self.attributes)

    def targets(self, training_classes: Mapping[str, Tensor]) -> Tensor:
        """Training classes by attribute, (N,) each -> the head's classes (N,), -1 where any attribute is unknown."""
        sizes = {attribute.name: len(attribute.training_class_names) for attribute in self.attributes}
        return _joint_classes(training_classes, sizes)

    def scoring_joint(self, probabilities: Tensor) -> Tensor:
        """(B, C) probabilities over training classes -> (B, S1, S2, ...) over scored classes, one axis an attribute."""
        sizes = [len(attribute.training_class_names) for attribute in self.attributes]
        joint = probabilities.reshape(len(probabilities), *sizes)
        for axis, attribute in enumerate(self.attributes, start=1):
            if attribute.training_to_scoring == tuple(range(len(attribute.class_names))):
                continue  # trained on what is scored: no need to send the mapping to the device
            to_scoring = _on_device(attribute.training_to_scoring, joint.device)
            shape = [*joint.shape]
            shape[axis] = len(attribute.class_names)
            joint = joint.new_zeros(shape).index_add_(axis, to_scoring, joint)
        return joint


class LabelSpace:
    """The attributes of a table, the heads that a model predicts them with, and the joint class they combine to.

    attributes: by name, see AttributeSpec.
    heads: by name, the attributes each predicts (default: one head an attribute).
    answer: the attributes that make the joint class, the first counting most (default: all that heads predict, or none
    where they have more than 4,096 combinations: each is then scored by itself). The competition's joint
    class is mask * 6 + gender * 3 + age.

    Raises InvalidConfig with all that is wrong.
    """

    def __init__(
        self,
        attributes: dict[str, AttributeSpec],
        heads: dict[str, list[str]] | None = None,
        answer: list[str] | None = None,
    ) -> None:
        problems: list[Problem] = []
        made = {name: attribute_from(name, spec, problems) for name, spec in attributes.items()}
        self.attributes = {name: attribute for name, attribute in made.items() if attribute is not None}
        self._config = {"attributes": attributes, "heads": heads, "answer": answer}
        _check_names("attributes", attributes, problems)
        if heads is None:
            heads = {name: [name] for name in attributes}
        else:
            _check_names("heads", heads, problems)
        _check_heads(heads, attributes, problems)
        predicted = [name for names in heads.values() for name in names]
        joint = answer if answer is not None else [name for name in attributes if name in predicted]
        if answer is not None and (not answer or len(set(answer)) != len(answer)):
            problems.append(Problem(("answer",), f"= {answer} must name at least one attribute, each once"))
        for name in joint:
            if name not in predicted:
                wrong = f'names "{name}", which no head predicts: they predict {", ".join(predicted)}'
                problems.append(Problem(("answer",), wrong))
        if problems:
            raise InvalidConfig(problems)
        self.num_combinations = math.prod(len(self.attributes[name].class_names) for name in joint)
        if self.num_combinations > MOST_JOINT_CLASSES:
            if answer is not None:
                wrong = f"combines to {self.num_combinations:,} classes, above {MOST_JOINT_CLASSES:,}; leave it out"
                raise InvalidConfig([Problem(("answer",), wrong)])
            joint = []
        self.heads = {name: Head(name, tuple(self.attributes[part] for part in parts)) for name, parts in heads.items()}
        self.joint_attributes = tuple(self.attributes[name] for name in joint)

    @property
    def predicted_attributes(self) -> dict[str, Attribute]:
        """The attributes that some head predicts, in the order of the heads."""
        return {attribute.name: attribute for head in self.heads.values() for attribute in head.attributes}

    @property
    def num_classes(self) -> dict[str, int]:
        """By head, how many classes it is trained on."""
        return {name: head.num_classes for name, head in self.heads.items()}

    @property
    def has_joint_class(self) -> bool:
        """False where the attributes have too many combinations: each is then scored and answered by itself."""
        return bool(self.joint_attributes)

    @property
    def num_joint_classes(self) -> int:
        assert self.has_joint_class
        return math.prod(len(attribute.class_names) for attribute in self.joint_attributes)

    @property
    def joint_class_names(self) -> tuple[str, ...]:
        """The names of the joint classes, such as "wear male <30"."""
        assert self.has_joint_class
        return _combined_names([attribute.class_names for attribute in self.joint_attributes])

    def joint_classes(self, classes: Mapping[str, Tensor]) -> Tensor:
        """Scored classes by attribute, (B,) each -> the joint class (B,), -1 where any attribute is unknown."""
        return _joint_classes(
            classes, {attribute.name: len(attribute.class_names) for attribute in self.joint_attributes}
        )

    def attribute_classes(self, joint: Tensor) -> dict[str, Tensor]:
        """The joint class (B,) -> classes by attribute, (B,) each; -1 stays -1."""
        columns = torch.unravel_index(joint.clamp(min=0), [len(each.class_names) for each in self.joint_attributes])
        return {
            attribute.name: column.where(joint != UNKNOWN, UNKNOWN)
            for attribute, column in zip(self.joint_attributes, columns, strict=True)
        }

    def attribute_probabilities(self, probabilities: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Probabilities by head, (B, C) over training classes -> by attribute, (B, S) over scored classes."""
        by_attribute = {}
        for name, head in self.heads.items():
            joint = head.scoring_joint(probabilities[name])
            for axis, attribute in enumerate(head.attributes, start=1):
                others = [other for other in range(1, joint.dim()) if other != axis]
                by_attribute[attribute.name] = joint.sum(dim=others) if others else joint
        return by_attribute

    def joint_probabilities(self, probabilities: Mapping[str, Tensor]) -> Tensor:
        """Probabilities by head, (B, C) over training classes -> (B, num_joint_classes): the heads' product.

        Attributes that one head predicts together keep their dependence; those not in the answer are summed out."""
        answer = [attribute.name for attribute in self.joint_attributes]
        joint, axes = None, []
        for name, head in self.heads.items():
            names = [attribute.name for attribute in head.attributes]
            if not (kept := [each for each in names if each in answer]):
                continue
            part = head.scoring_joint(probabilities[name])
            if dropped := [axis for axis, each in enumerate(names, start=1) if each not in answer]:
                part = part.sum(dim=dropped)
            axes += kept
            joint = part if joint is None else joint.flatten(1).unsqueeze(2) * part.flatten(1).unsqueeze(1)
        assert joint is not None
        joint = joint.reshape(len(joint), *(len(self.attributes[name].class_names) for name in axes))
        return joint.permute(0, *(axes.index(name) + 1 for name in answer)).flatten(1)

    def to_config(self) -> dict[str, Any]:
        """The arguments that make this label space again: plain data, for the checkpoint."""
        return {key: value for key, value in self._config.items() if value is not None}


def _joint_classes(classes: Mapping[str, Tensor], sizes: Mapping[str, int]) -> Tensor:
    """sizes: by attribute, its number of classes; the first attribute counts most."""
    joint = torch.zeros_like(classes[next(iter(sizes))])
    unknown = torch.zeros_like(joint, dtype=torch.bool)
    for name, size in sizes.items():
        unknown |= classes[name] == UNKNOWN
        joint = joint * size + classes[name]
    return joint.masked_fill(unknown, UNKNOWN)


@lru_cache(maxsize=64)
def _on_device(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    """Kept, as each copy to a GPU waits; made outside inference mode, as gradients may need it later."""
    with torch.inference_mode(False):
        return torch.tensor(numbers, device=device)


def _combined_names(names: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(" ".join(filter(None, each)) for each in itertools.product(*names))


def _check_names(argument: str, names: Collection[str], problems: list[Problem]) -> None:
    """Names are parts of metric names (val/mask_f1), of --set paths (labels.attributes.mask) and of layers' names."""
    if not names:
        problems.append(Problem((argument,), f"is empty: name at least one of the {argument}"))
    for name in names:
        if not re.fullmatch(r"[\w-]+", name):
            wrong = f'has the name "{name}", which must consist of letters, digits, "_" and "-"'
            problems.append(Problem((argument,), wrong))


def _check_heads(heads: Mapping[str, list[str]], attributes: Mapping[str, Any], problems: list[Problem]) -> None:
    seen: dict[str, str] = {}
    for head, parts in heads.items():
        key_path = ("heads", head)
        if head == EMBEDDING:
            problems.append(Problem(key_path, "must have another name: the model's embedding has this one"))
        if not parts:
            problems.append(Problem(key_path, "names no attribute"))
        for part in parts:
            if part not in attributes:
                problems.append(Problem(key_path, f'names "{part}", which is not one of {", ".join(attributes)}'))
            elif part in seen:
                problems.append(Problem(key_path, f'names "{part}", which head "{seen[part]}" predicts already'))
            seen[part] = head
