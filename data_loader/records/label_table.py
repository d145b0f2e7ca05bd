"""The label table: the classes of images, converted once from their raw values."""

from __future__ import annotations

import logging
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from base.attribute import Attribute, is_unknown
from base.batch import UNKNOWN
from base.label_space import LabelSpace
from data_loader.records.records import Record
from data_loader.records.tables import raise_problems
from utils.errors import DataError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class LabelTable:
    """Images (rows) and their classes (columns, (N,) int64 each; -1 = unknown).

    records: the images, in the order of the rows
    training_classes: by attribute, the class that is trained
    scoring_classes: by attribute, the class that is scored
    numbers: by attribute with bins, its value, (N,) float64, NaN = unknown
    targets: by head, the class that is trained

        table = LabelTable.from_records(records, label_space)
        women = table[table.scoring_classes["gender"] == 1]
    """

    records: list[Record]
    label_space: LabelSpace
    training_classes: dict[str, Tensor]
    scoring_classes: dict[str, Tensor]
    numbers: dict[str, Tensor]
    targets: dict[str, Tensor]

    @classmethod
    def from_records(
        cls, records: Sequence[Record], label_space: LabelSpace, problems: list[str] | None = None
    ) -> LabelTable:
        """The table of records.

        problems: takes a line for each source row with a value that is no class, which counts as unknown here

        Raises DataError for such values where `problems` is None."""
        found: dict[str, None] = {}  # several images may come from one row
        training, scoring, numbers = {}, {}, {}
        for name, attribute in label_space.attributes.items():
            values = [record.attributes.get(name) for record in records]
            number_of = {value: number for number, value in enumerate(dict.fromkeys(values))}  # a few dozen
            converted = [_convert(attribute, value) for value in number_of]
            trained, scored, known, wrong = zip(*converted, strict=True) if converted else [()] * 4
            rows = torch.tensor([number_of[value] for value in values], dtype=torch.int64)
            training[name], scoring[name] = (torch.tensor(each, dtype=torch.int64)[rows] for each in (trained, scored))
            if attribute.bins is not None:
                numbers[name] = torch.tensor(known, dtype=torch.float64)[rows]
            if any(wrong):
                lines = zip(records, rows.tolist(), strict=True)
                found |= dict.fromkeys(f"{record.origin}: {wrong[row]}" for record, row in lines if wrong[row])
        if problems is None:
            raise_problems([*found])
        else:
            problems += found
        targets = {name: head.targets(training) for name, head in label_space.heads.items()}
        return cls(list(records), label_space, training, scoring, numbers, targets)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, rows: np.ndarray | Tensor) -> LabelTable:
        """The table of some rows: their indices, or a mask (N,)."""
        chosen = torch.as_tensor(rows)
        chosen = chosen.nonzero().flatten() if chosen.dtype == torch.bool else chosen
        columns = (self.training_classes, self.scoring_classes, self.numbers, self.targets)
        return LabelTable(
            [self.records[row] for row in chosen.tolist()],
            self.label_space,
            *({name: column[chosen] for name, column in each.items()} for each in columns),
        )

    def without(self, paths: Set[Path]) -> LabelTable:
        """The table without some files."""
        if not paths:  # to hash 18,900 paths takes longer than all else
            return self
        return self[np.array([record.path not in paths for record in self.records], dtype=bool)]

    @property
    def scoring_targets(self) -> dict[str, Tensor]:
        """By attribute that a head predicts, the class that is scored."""
        return {name: self.scoring_classes[name] for name in self.label_space.predicted_attributes}

    @property
    def sample_weights(self) -> Tensor | None:
        """The weight of each image in the loss, (N,) float32; None where all are 1."""
        weights = [record.weight for record in self.records]
        return None if all(weight == 1 for weight in weights) else torch.tensor(weights, dtype=torch.float32)

    @property
    def num_persons(self) -> int:
        return len({record.person for record in self.records})

    def class_counts(self) -> dict[str, Tensor]:
        """By head, how many images are of each of its classes, (C,) int64; unknown is not counted."""
        return {
            name: torch.bincount(target[target != UNKNOWN], minlength=self.label_space.heads[name].num_classes)
            for name, target in self.targets.items()
        }

    def absent_classes(self) -> dict[str, list[str]]:
        """By head, the classes that no image has."""
        counts = self.class_counts()
        return {
            name: [known for known, count in zip(head.class_names, counts[name].tolist(), strict=True) if not count]
            for name, head in self.label_space.heads.items()
        }

    def warn_of_absent_classes(self, title: str, whole: LabelTable | None = None) -> None:
        """Logs a warning for each head with absent classes, up to ten of them.

        title: what the images are called, such as "the training side"
        whole: the data that they are a part of; what it lacks itself is not repeated"""
        reported = {} if whole is None else whole.absent_classes()
        for name, classes in self.absent_classes().items():
            if new := [known for known in classes if known not in reported.get(name, ())]:
                more = f" or {len(new) - 10} more" if len(new) > 10 else ""
                logger.warning("%s has no image of %s = %s%s", title, name, " or ".join(new[:10]), more)


def _convert(attribute: Attribute, value: Any) -> tuple[int, int, float, str]:
    """The training class, the scored class and the number of a raw value, and what is wrong if it is no class."""
    if is_unknown(value):
        return UNKNOWN, UNKNOWN, np.nan, ""
    try:
        number = np.nan if attribute.bins is None else attribute.number(value)
        return attribute.training_class(value), attribute.scoring_class(value), number, ""
    except DataError as error:
        return UNKNOWN, UNKNOWN, np.nan, str(error)
