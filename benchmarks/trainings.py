"""Trainings of several recipes and seeds that answer the same images: kept as they end, compared by seed and person."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

import train
from base.batch import UNKNOWN
from base.label_space import LabelSpace
from data_loader.records import Record
from inference.predictor import Predictor, find_checkpoint, predict
from inference.scoring.intervals import (
    Counts,
    Interval,
    Score,
    counts_by_person,
    error_of_seeds,
    interval_over_seeds,
    number_persons,
    student,
)
from utils.errors import ConfigError
from utils.files import write_atomically
from utils.run_folders import RunFolders

ANSWER = "answer"
"""The joint class, beside the attributes' names."""


@dataclass(frozen=True)
class Column:
    """A score of an attribute or of the joint class; kind: "accuracy" or "macro_f1"."""

    title: str
    attribute: str
    kind: Literal["accuracy", "macro_f1"]

    def score(self, counts: Counts) -> Score:
        return Score.accuracy(counts) if self.kind == "accuracy" else Score.macro_f1(counts)


COLUMNS = (
    Column("18 classes, macro F1", ANSWER, "macro_f1"),
    Column("18 classes, accuracy", ANSWER, "accuracy"),
    Column("mask, macro F1", "mask", "macro_f1"),
    Column("gender, macro F1", "gender", "macro_f1"),
    Column("age, macro F1", "age", "macro_f1"),
)


@dataclass(frozen=True)
class Figure:
    """A mean over seeds, or a difference of two.

    seeds: the value of each
    interval: 95 %
    is_decided: of a difference, whether there is one
    """

    seeds: list[float]
    interval: Interval
    is_decided: bool = False

    @classmethod
    def of(cls, scores: Sequence[Score]) -> Figure:
        """scores: of each seed"""
        return cls([score.value for score in scores], interval_over_seeds(scores))

    @classmethod
    def difference(cls, first: Sequence[Score], second: Sequence[Score]) -> Figure:
        """By how much the second is above the first, which has the same seeds: a pair shares what a seed decides on.
        The interval is as in `interval_over_seeds`."""
        seeds = [after.value - before.value for before, after in zip(first, second, strict=True)]
        before, after = Score.mean(first), Score.mean(second)
        half = math.hypot(student(after.num_persons - 1) * after.error_of(before), error_of_seeds(seeds))
        low, high = statistics.fmean(seeds) - half, statistics.fmean(seeds) + half
        return cls(seeds, (low, high), not low <= 0 <= high)

    def text(self, sign: str = "") -> str:
        """mean [interval] ± standard deviation over the seeds; bold where it is decided"""
        low, high = self.interval
        deviation = f" ± {statistics.stdev(self.seeds):.3f}" if len(self.seeds) > 1 else ""
        text = f"{statistics.fmean(self.seeds):{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]{deviation}"
        return f"**{text}**" if self.is_decided else text


@dataclass(frozen=True)
class TestImages:
    """The images that all models answer.

    persons: (N,), the number of each image's person
    joint: (N,), the true joint class, -1 = unknown
    """

    __test__ = False

    labels: LabelSpace
    persons: np.ndarray
    joint: np.ndarray

    @classmethod
    def of(cls, labels: LabelSpace, persons: Sequence[str], joint: torch.Tensor) -> TestImages:
        return cls(labels, number_persons(persons), joint.numpy())

    def classes(self, attribute: str, joint: np.ndarray) -> np.ndarray:
        """The attribute's classes of joint classes, (N,)."""
        if attribute == ANSWER:
            return joint
        known = torch.from_numpy(np.where(joint == UNKNOWN, 0, joint))
        return np.where(joint == UNKNOWN, UNKNOWN, self.labels.attribute_classes(known)[attribute].numpy())

    def scores(self, column: Column, predicted: Sequence[np.ndarray]) -> list[Score]:
        """predicted: of each model the joint classes, (N,)"""
        truth = self.classes(column.attribute, self.joint)
        classes = [self.classes(column.attribute, each) for each in predicted]
        return [column.score(counts) for counts in counts_by_person(truth, classes, self.persons)]

    def majority(self, column: Column) -> float:
        """The score of always predicting the class that is most frequent among these images."""
        truth = self.classes(column.attribute, self.joint)
        constant = np.full_like(truth, np.bincount(truth[truth != UNKNOWN]).argmax())
        return column.score(counts_by_person(truth, [constant], self.persons)[0]).value

    def as_json(self) -> dict[str, str]:
        return {"persons": " ".join(map(str, self.persons.tolist())), "truth": as_letters(self.joint)}

    @classmethod
    def from_json(cls, stored: Mapping[str, str], labels: LabelSpace) -> TestImages:
        return cls(labels, np.array(stored["persons"].split(), dtype=np.int64), from_letters(stored["truth"]))


def as_letters(joint: np.ndarray) -> str:
    """Joint classes as a text, a letter an image: 0 is a; unknown is "-"."""
    return "".join("-" if each == UNKNOWN else chr(ord("a") + each) for each in joint.tolist())


def from_letters(text: str) -> np.ndarray:
    """The joint classes of `as_letters`."""
    return np.array([UNKNOWN if each == "-" else ord(each) - ord("a") for each in text], dtype=np.int64)


class Trainings:
    """What the trainings of one set of images predicted, in a file that grows with each.

    recipes: by name the config of each, as it was trained
    predicted: by recipe and seed the joint classes, (N,)
    """

    def __init__(
        self, images: TestImages, recipes: dict[str, Any], predicted: dict[str, dict[int, np.ndarray]]
    ) -> None:
        self.images, self.recipes, self.predicted = images, recipes, predicted

    @classmethod
    def from_json(cls, stored: Mapping[str, Any], labels: LabelSpace) -> Trainings:
        predicted = {
            name: {int(seed): from_letters(text) for seed, text in seeds.items()}
            for name, seeds in stored["predicted"].items()
        }
        return cls(TestImages.from_json(stored["images"], labels), stored["recipes"], predicted)

    @classmethod
    def open(cls, file: Path, images: TestImages) -> Trainings:
        """Of a file that may not exist yet. Raises ConfigError if it is of other images."""
        if not file.exists():
            return cls(images, {}, {})
        stored = json.loads(file.read_text(encoding="utf-8"))
        if stored["images"] != images.as_json():
            raise ConfigError(f"{file}: holds predictions of other images; name another --output")
        return cls.from_json(stored, images.labels)

    def has(self, name: str, seed: int, config: Mapping[str, Any]) -> bool:
        """Whether a training is done. Raises ConfigError if one of this name had another config."""
        if (kept := self.recipes.get(name, config)) != config:
            raise ConfigError(f"{name}: was trained as {json.dumps(kept)}; name another --output")
        return seed in self.predicted.get(name, {})

    def keep(self, file: Path, name: str, seed: int, config: Mapping[str, Any], joint: np.ndarray) -> None:
        self.recipes[name] = config
        self.predicted.setdefault(name, {})[seed] = joint
        write_atomically(file, (json.dumps(self.as_json(), indent=1) + "\n").encode())

    def as_json(self) -> dict[str, Any]:
        predicted = {
            name: {str(seed): as_letters(joint) for seed, joint in sorted(seeds.items())}
            for name, seeds in self.predicted.items()
        }
        return {"recipes": self.recipes, "images": self.images.as_json(), "predicted": predicted}

    def figure(self, name: str, column: Column) -> Figure:
        """A recipe's score over its seeds."""
        return Figure.of(self.images.scores(column, list(self.predicted[name].values())))

    def difference(self, name: str, baseline: str, column: Column) -> Figure | None:
        """By how much a recipe is above another, of the seeds that both have; None without one."""
        seeds = [seed for seed in sorted(self.predicted[name]) if seed in self.predicted[baseline]]
        if not seeds:
            return None
        models = [self.predicted[each][seed] for each in (baseline, name) for seed in seeds]
        scores = self.images.scores(column, models)
        return Figure.difference(scores[: len(seeds)], scores[len(seeds) :])

    def tables(self, titles: Mapping[str, str], baseline: str | None) -> str:
        """The scores of the recipes that `titles` names, and how much the baseline is above each, as Markdown."""
        names = [name for name in titles if name in self.predicted]
        heads = [column.title for column in COLUMNS]
        rows = [["recipe", "seeds", *heads], ["the most frequent class", ""]]
        rows[1] += [f"{self.images.majority(column):.3f}" for column in COLUMNS]
        for name in names:
            texts = [self.figure(name, column).text() for column in COLUMNS]
            rows.append([titles[name], str(len(self.predicted[name])), *texts])
        lines = markdown(rows)
        if baseline is None:
            return "\n".join(lines)
        rows = [[f"{titles[baseline]}, less", "seeds", *heads]]
        for name in names:
            found = [self.difference(baseline, name, column) for column in COLUMNS] if name != baseline else []
            if figures := [each for each in found if each is not None]:
                rows.append([titles[name], str(len(figures[0].seeds)), *(each.text("+") for each in figures)])
        return "\n".join([*lines, "", *markdown(rows)])


def markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table; the first row is its head."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]


def train_once(config: Mapping[str, Any], file: Path) -> RunFolders:
    """Trains a config, written to `file`, to its end, or resumes it. Raises whatever train.py does."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps(config, indent=4).encode())
    trained = train.main(["-c", str(file), "--resume", "auto"])
    assert trained is not None
    return trained.folders


def predict_joint(run: RunFolders, records: Sequence[Record]) -> np.ndarray:
    """The joint classes that a run's last weights predict, (N,)."""
    predictor = Predictor.from_checkpoint(find_checkpoint(run.models, "last"))
    joint = predict([predictor], list(records))[0].joint
    assert joint is not None
    return joint.argmax(dim=1).numpy()


Progress = Callable[[str], None]
"""Takes a line for each training."""
