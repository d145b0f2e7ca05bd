"""Record: one image on disk, and its row in a source."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Part = Literal["train", "validation", "test"]


@dataclass(frozen=True, slots=True)
class Record:
    """One image.

    path: of the file, absolute
    name: in tables and outputs
    person: the group that no split may cut
    attributes: raw values by name; None or empty: unknown
    origin: where it was read, such as "data/train/train.csv row 12"
    part: the side of the split that its table gives it, if any
    person_id: in the table, such as "001498-1", where that is not `person`
    weight: in the loss of the heads
    train_only: it never validates
    """

    path: Path
    name: str
    person: str
    attributes: dict[str, Any]
    origin: str
    part: Part | None = None
    person_id: str | None = None
    weight: float = 1.0
    train_only: bool = False
