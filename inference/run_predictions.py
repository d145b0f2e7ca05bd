"""The out-of-fold predictions of runs, as their folders keep them, and what several runs have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from base.batch import UNKNOWN
from base.label_space import LabelSpace
from data_loader.records import LabelTable, Record, read_records, sources
from data_loader.records.sources import BaseSource
from data_loader.records.tables import raise_problems
from inference.inputs import folds_with_checkpoints
from inference.out_of_fold import OUT_OF_FOLD_FILE, PredictionTable
from inference.predictor import find_checkpoint
from utils.checkpoint.checkpoint_file import read_checkpoint
from utils.config.former_defaults import upgraded
from utils.config.plugins import plugins_of_run
from utils.config.sections import exported
from utils.errors import CheckpointError, ConfigError, DataError
from utils.files import short_path


@dataclass(frozen=True)
class RunPredictions:
    """What a run predicts of images that it did not train on.

    folder: of its checkpoints
    name: <name>/<run>
    config: resolved
    digest: of the table's file
    soup: the runs that it is the mean of; none: it is no soup
    is_nested: each person is predicted by the soup that was chosen without them, not by the run's own weights
    """

    folder: Path
    name: str
    config: dict[str, Any]
    table: PredictionTable
    digest: str
    soup: tuple[str, ...] = ()
    is_nested: bool = False

    @classmethod
    def read(cls, folder: Path) -> RunPredictions:
        """Raises CheckpointError where the folder is no run, or has no such table; DataError where the truth must be
        read from the data, as for a table of an earlier version, and cannot be."""
        if folder.is_file():
            raise CheckpointError(f"{folder}: is a file; name the run's folder, which has {OUT_OF_FOLD_FILE}")
        checkpoint = find_checkpoint(next(iter(folds_with_checkpoints(folder).values()), folder))
        content, file = read_checkpoint(checkpoint), folder / OUT_OF_FOLD_FILE
        try:
            config = upgraded(content["config"])
            labels = LabelSpace(**content["labels"])
            name = f"{config['name']}/{content['run_name']}"
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{checkpoint}: holds no run of this version ({error!r:.80})") from None
        try:
            table = PredictionTable.read(file, labels)
        except OSError:
            lacks = f"has no {OUT_OF_FOLD_FILE}, which training writes at its end where something validates"
            remedy = f"python train.py --resume {folder} adds it; without a validation side name another run"
            if "soup" in content:
                lacks, remedy = "is a soup of runs that validate on different people", "name those runs"
            raise CheckpointError(f"{folder}: {lacks}; {remedy}") from None
        except ValueError as error:
            raise CheckpointError(f"{error}; python train.py --resume {folder} writes it again") from None
        soup, is_nested = tuple(content.get("soup", ())), bool(content.get("greedy"))
        run = cls(folder, name, config, table, digest_of(file), soup, is_nested)
        if not any((classes != UNKNOWN).any() for classes in table.truth.values()):
            run = replace(run, table=replace(table, truth=run.read_images().scoring_targets))
        return run

    def read_images(self) -> LabelTable:
        """The table's images, in its order, as the run's data has them now. Raises DataError where some are gone."""
        folder = next(iter(folds_with_checkpoints(self.folder).values()), self.folder)
        known = read_run_records(self.config, self.table.labels, folder)
        row_of = rows_by_id(known.records)
        if missing := [name for name in self.table.ids if name not in row_of]:
            lacks = f"its data no longer has {missing[0]} ({len(missing)} of the images that it predicted are gone)"
            raise DataError(f"{self.folder}: {lacks}; put them back")
        return known[np.array([row_of[name] for name in self.table.ids])]


def digest_of(file: Path) -> str:
    """Of a file's content."""
    return hashlib.blake2b(file.read_bytes(), digest_size=8).hexdigest()


def read_run_records(config: Mapping[str, Any], labels: LabelSpace, folder: Path) -> LabelTable:
    """The images of the data that a run was trained with, and what is known of them; folder: the run's

    Raises DataError."""
    fixes = config.get("label_fixes")
    with plugins_of_run(config, folder).active():
        built = [exported(sources, BaseSource)[spec["type"]](**spec["args"]) for spec in config["data"]]
        return read_records(built, labels, Path(fixes) if fixes else None)


def rows_by_id(records: Sequence[Record]) -> dict[str, int]:
    """The position of each record, by what tables call it: its name, and its path."""
    row_of = {record.name: row for row, record in enumerate(records)}
    return row_of | {short_path(record.path): row for row, record in enumerate(records)}


def common_images(runs: Sequence[RunPredictions], specialists: bool = False) -> list[RunPredictions]:
    """The runs with the rows of those images alone that all of them predict, in one order.

    specialists: whether they may predict different attributes, those that several predict in the same classes

    Raises DataError where there are none, an image is in a table twice, or two runs do not know the same of one;
    ConfigError where the runs do not predict the same classes."""
    for run in runs[1:]:
        if not specialists:
            _check_same_classes(runs[0], run)
    rows = []
    for run in runs:
        position = {name: row for row, name in enumerate(run.table.ids)}
        if len(position) < len(run.table):
            raise DataError(f"{run.folder}: {OUT_OF_FOLD_FILE} has images of the same name")
        rows.append(position)
    common = [name for name in runs[0].table.ids if all(name in position for position in rows)]
    if not common:
        raise DataError(f"{', '.join(str(run.folder) for run in runs)}: have predicted no image in common")
    found = [
        replace(run, table=run.table[[position[name] for name in common]])
        for run, position in zip(runs, rows, strict=True)
    ]
    first = found[0].table
    first_with = {name: run for run in reversed(found) for name in run.table.truth}
    problems = []
    for run in found[1:]:
        if first.persons != run.table.persons:
            row = next(row for row, person in enumerate(run.table.persons) if person != first.persons[row])
            problems.append(f"{run.folder}: {common[row]} is another person's than in {found[0].folder}")
        for name, classes in run.table.truth.items():
            other = first_with[name]
            if not torch.equal(classes, other.table.truth[name]):
                row = int((classes != other.table.truth[name]).nonzero()[0])
                problems.append(f"{run.folder}: {common[row]} has another true {name} than in {other.folder}")
    raise_problems(problems)
    return found


def _check_same_classes(first: RunPredictions, run: RunPredictions) -> None:
    """Raises ConfigError where two runs' answers do not mean the same."""
    own, other = (scored_classes(each.table.labels) for each in (first, run))
    if own != other:
        different = next(key for key in (*own, *other) if own.get(key) != other.get(key))
        both = f"{first.folder} and {run.folder}: do not predict the same"
        if different in own and different in other:
            raise ConfigError(f"{both}: {different} is {own[different]} and {other[different]}; name runs of one kind")
        lacking = run.folder if different in own else first.folder
        raise ConfigError(f"{both}: {lacking} has no {different}; name runs with the same attributes")


def scored_classes(labels: LabelSpace) -> dict[str, list[Any]]:
    """What answers mean: by attribute, in any order, the scored classes and bins; and the joint class's attributes."""
    attributes = {
        name: [*each.class_names, *(each.bins or ())] for name, each in sorted(labels.predicted_attributes.items())
    }
    return attributes | {"the joint class": [attribute.name for attribute in labels.joint_attributes]}
