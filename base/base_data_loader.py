"""The contract of a data loader: what the trainer uses of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from base.batch import Batch
from base.label_space import LabelSpace
from base.preprocessing import Preprocessing


class ImageRecord(Protocol):
    """One image on disk (data_loader.records.records.Record)."""

    @property
    def path(self) -> Path: ...


class BaseDataLoader(ABC):
    """Batches for training and validation, which depend on (seed, epoch, batch) alone, never on a state."""

    label_space: LabelSpace
    preprocessing: Preprocessing
    epoch_of_full_size = 1
    """The first epoch whose training images are as large as they become."""

    @property
    @abstractmethod
    def validation_records(self) -> Sequence[ImageRecord]:
        """The validation images; a validation batch's `indices` are their positions here."""

    @property
    @abstractmethod
    def images_per_epoch(self) -> int:
        """Training images of an epoch over all processes; a repeated image counts as often as it comes."""

    @property
    @abstractmethod
    def steps_per_epoch(self) -> int:
        """Training batches of one epoch on each process: the same number on all."""

    @abstractmethod
    def train_batches(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
        """This process's training batches of `epoch`, from `start_batch` (counted from 0) on; skipping is free."""

    @abstractmethod
    def validation_batches(self) -> Iterator[Batch]:
        """This process's share of the validation images, in order; over all processes each comes exactly once."""

    @property
    def num_validation(self) -> int:
        """Validation images over all processes."""
        return len(self.validation_records)
