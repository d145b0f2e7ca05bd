"""Classes that one side of a split lacks: nothing can be learned of them there, or nothing judged."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence

import numpy as np

from base.batch import UNKNOWN
from base.label_space import Head, LabelSpace
from data_loader.records.records import Record

logger = logging.getLogger(__name__)


def warn_of_absent_classes(records: Sequence[Record], side: str, label_space: LabelSpace) -> None:
    """Of each attribute that is predicted, and of a head that predicts several: which of its classes no record has.

    What follows is not said again: a combined class is missed only where each of its parts is there."""
    there = {
        name: _classes(Head(name, (attribute,)), records)
        for name, attribute in label_space.predicted_attributes.items()
    }
    absent = {
        name: [known for number, known in enumerate(attribute.training_class_names) if number not in there[name]]
        for name, attribute in label_space.predicted_attributes.items()
    }
    for head in label_space.heads.values():
        if len(head.attributes) > 1:
            sizes = [len(attribute.training_class_names) for attribute in head.attributes]
            parts = [sorted(there[attribute.name] - {UNKNOWN}) for attribute in head.attributes]
            expected = [int(np.ravel_multi_index(each, sizes)) for each in itertools.product(*parts)]
            found = _classes(head, records)
            absent[f"head {head.name}"] = [head.class_names[number] for number in expected if number not in found]
    for name, classes in absent.items():
        if classes:
            logger.warning("%s has no image of %s = %s", side, name, " or ".join(classes))


def _classes(head: Head, records: Sequence[Record]) -> set[int]:
    """The training classes that the records have, and -1 where some are unknown."""
    names = [attribute.name for attribute in head.attributes]
    rows = {tuple(record.attributes.get(name) for name in names) for record in records}
    return {head.target(dict(zip(names, row, strict=True))) for row in rows}
