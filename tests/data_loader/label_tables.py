"""Splits and label tables of records that a test has made."""

from __future__ import annotations

from collections.abc import Sequence

from base.label_space import LabelSpace
from data_loader.records import LabelTable, Record
from data_loader.splits import Split


def split_of(
    labels: LabelSpace, train: Sequence[Record], validation: Sequence[Record] = (), test: Sequence[Record] = ()
) -> Split:
    return Split(*(LabelTable.from_records(side, labels) for side in (train, validation, test)))
