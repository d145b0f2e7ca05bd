"""What tuning is worth: nested folds of persons, in which nothing is tuned on the images that it is scored on.

The persons are dealt into folds. For each fold, the steps to take are chosen among the others by an inner cross-
validation, fitted on the others, and applied to the fold's images; the decisions of all folds together are the nested
estimate. What is fitted without the folds i and j serves for the inner fold j of i and the inner fold i of j.

Weights, temperatures and shifts are fitted by likelihood (greedy weights aside), and kept where they lower the nested
log loss by more than its standard error (Breiman et al. 1984): macro F1 is too noisy with few persons to choose by. The
rule follows from the probabilities that they give. All of it is kept where it raises nested macro F1 above that of the
arg max, and left out otherwise.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from base.batch import UNKNOWN
from inference.run_predictions import RunPredictions
from inference.scoring.evaluation import with_interval
from inference.scoring.intervals import (
    Counts,
    Difference,
    Interval,
    Score,
    counts_by_person,
    difference,
    number_persons,
    student,
)
from inference.tuning.calibration import LEVELS, SMALLEST_PROBABILITY, Calibration, Level
from inference.tuning.decision import Decision, Pool, TunedRun, truth_of_targets
from inference.tuning.macro_f1_rule import Rule
from inference.tuning.weights import WEIGHTS
from utils.errors import DataError
from utils.random_streams import numpy_stream

Decided = Mapping[str, np.ndarray]
"""By target, the classes of all images, (N,)."""


@dataclass(frozen=True, order=True)
class Way:
    """A way to decide: by which steps."""

    weights: str = "equal"
    calibration: Level = "none"
    rule: bool = False

    @property
    def steps(self) -> list[str]:
        """The names of the steps it takes."""
        calibrations = {"none": [], "temperature": ["temperature"], "shift": ["temperature", "shift"]}
        weights = [] if self.weights == "equal" else [f"{self.weights} weights"]
        return [*weights, *calibrations[self.calibration], *(["rule"] if self.rule else [])]

    def __str__(self) -> str:
        return ", ".join(self.steps) or "no step: the arg max"


UNTUNED = Way()


def ways(num_runs: int) -> list[Way]:
    """All of them; those with fewer steps first."""
    found = itertools.product(WEIGHTS if num_runs > 1 else ["equal"], LEVELS, [False, True])
    return sorted((Way(*each) for each in found), key=lambda way: len(way.steps))


@dataclass(frozen=True)
class Worth:
    """What a step adds in nested folds: to macro F1, or takes from log loss; with its 95 % interval.

    is_kept: whether it is part of the decision
    """

    measure: str
    value: float
    interval: Interval
    is_kept: bool

    def __str__(self) -> str:
        kept, brings = ("kept", "changes") if self.is_kept else ("left out", "would change")
        return f"{kept}, {brings} {self.measure} by {with_interval(self.value, self.interval, '+')}"


@dataclass(frozen=True)
class Fitted:
    """What a way has learned: weights (M,), the calibration of their mean, and by target a rule."""

    weights: np.ndarray
    calibration: Calibration | None
    rules: dict[str, Rule]


@dataclass(frozen=True)
class Learned:
    """How a way decides on all images, and their log losses (N,), having learned from some."""

    fitted: Fitted
    decided: Decided
    losses: np.ndarray


class Tuning:
    """Tunes on the out-of-fold predictions of runs, which have the same images (`common_images`).

    num_folds: of persons
    seed: that the persons are dealt with

    Specialists, which predict different attributes, keep equal weights. Where too few persons have a known joint class
    (partial labels), each attribute is decided by itself (`pool.by_attribute`).

    Raises DataError where there is too little to learn from."""

    def __init__(self, runs: Sequence[RunPredictions], num_folds: int = 5, seed: int = 0) -> None:
        self.runs, self.num_folds = runs, num_folds
        self.tables = [run.table for run in runs]
        self.by_head = [{name: table.double().numpy() for name, table in each.by_head.items()} for each in self.tables]
        self.pool = Pool([table.labels for table in self.tables], [str(run.folder) for run in runs])
        self.labels = self.pool.labels
        truth = {name: classes for table in reversed(self.tables) for name, classes in table.truth.items()}
        self.attribute_truth = {name: truth[name].numpy() for name in self.labels.predicted_attributes}
        self.person_of = number_persons(self.tables[0].persons)
        self.truth = truth_of_targets(self.labels, self.attribute_truth)
        if self.num_persons < 2 * num_folds:
            self.pool.by_attribute = True
            self.truth = truth_of_targets(self.labels, self.attribute_truth, by_attribute=True)
        if self.num_persons < 2 * num_folds:
            raise DataError(
                f"{runs[0].folder}: only {self.num_persons} persons have a known class; "
                f"{num_folds} folds need {2 * num_folds} at least: train with more, or tune with fewer --folds"
            )
        self.ways = ways(1 if self.pool.are_specialists else len(runs))
        self.fold_of = self._deal(seed)

    @property
    def is_known(self) -> np.ndarray:
        """(N,) bool: the images of which some target is known."""
        return np.any([classes != UNKNOWN for classes in self.truth.values()], axis=0)

    @property
    def num_images(self) -> int:
        """Of which some target is known."""
        return int(self.is_known.sum())

    @property
    def num_persons(self) -> int:
        """The persons of these images."""
        return len(np.unique(self.person_of[self.is_known]))

    def _deal(self, seed: int) -> np.ndarray:
        """The fold of each image, (N,): persons in an order in which neighbours are of one class, dealt in turn."""
        first = next(iter(self.truth.values()))
        persons = np.arange(self.person_of.max() + 1)
        lowest = np.full(len(persons), np.iinfo(np.int64).max)
        np.minimum.at(lowest, self.person_of, first)
        order = np.lexsort([numpy_stream(seed, "tuning folds").permutation(len(persons)), lowest])
        fold = np.empty(len(persons), dtype=np.int64)
        fold[order] = np.arange(len(persons)) % self.num_folds
        return fold[self.person_of]

    # --- fitting ---

    def fit(self, rows: np.ndarray) -> dict[Way, Learned]:
        """What each way learns from some images, (N,) bool."""
        found: dict[Way, Learned] = {}
        truth = {name: classes[rows] for name, classes in self.attribute_truth.items()}
        by_head = [{name: table[rows] for name, table in own.items()} for own in self.by_head]
        for name in dict.fromkeys(way.weights for way in self.ways):
            weights = WEIGHTS[name](self.pool, by_head, truth)
            heads = self.pool.heads(by_head, weights.tolist())
            for level in LEVELS:
                calibration = None if level == "none" else Calibration.fit(self.pool.labels, heads, truth, level)
                mean, _ = self.pool.combine(self.by_head, weights.tolist(), calibration)
                plain = {target: table.argmax(axis=1) for target, table in mean.items()}
                # Of images that are scored: with partial labels the others may be of another kind.
                learned_from = {target: rows & (self.truth[target] != UNKNOWN) for target in mean}
                rules = {
                    target: Rule.for_macro_f1(table[learned_from[target]])
                    for target, table in mean.items()
                    if learned_from[target].any()
                }
                ruled = plain | {target: rule.decide(mean[target]) for target, rule in rules.items()}
                losses = self._losses(mean)
                found[Way(name, level, False)] = Learned(Fitted(weights, calibration, {}), plain, losses)
                found[Way(name, level, True)] = Learned(Fitted(weights, calibration, rules), ruled, losses)
        return found

    def _losses(self, mean: Mapping[str, np.ndarray]) -> np.ndarray:
        """The log loss of each image, (N,), summed over the targets; 0 where its truth is unknown."""
        total = np.zeros(len(self.fold_of))
        for name, classes in self.truth.items():
            known = np.flatnonzero(classes != UNKNOWN)
            total[known] -= np.log(np.maximum(mean[name][known, classes[known]], SMALLEST_PROBABILITY))
        return total

    # --- choosing ---

    def counts(self, decided: Sequence[Decided], rows: np.ndarray | None = None) -> list[list[Counts]]:
        """By decision, then by target, the counts by person; of some images, (N,) bool, or of all."""
        by_target = []
        for name, classes in self.truth.items():
            truth = classes if rows is None else np.where(rows, classes, UNKNOWN)
            if (truth != UNKNOWN).any():
                by_target.append(counts_by_person(truth, [each[name] for each in decided], self.person_of))
        return [list(each) for each in zip(*by_target, strict=True)]

    def choose(self, crossed: Mapping[Way, Crossed], rows: np.ndarray) -> Way:
        """The way to take, by some images, (N,) bool."""
        best = min(self.ways, key=lambda way: crossed[way].losses[rows].sum())
        worse = {way: self._mean_by_person(crossed[way].losses - crossed[best].losses, rows) for way in self.ways}
        near = [way for way in self.ways if way.rule and worse[way][0] <= worse[way][1]]
        way = min(near, key=lambda each: (len(each.steps), worse[each][0]))
        scores = [
            Score.mean([Score.macro_f1(target) for target in counts]).value
            for counts in self.counts([crossed[way].decided, crossed[UNTUNED].decided], rows)
        ]
        return way if scores[0] > scores[1] else UNTUNED

    def _mean_by_person(self, values: np.ndarray, rows: np.ndarray) -> tuple[float, float]:
        """The mean of (N,) over some images, and its standard error by persons."""
        by_person = np.bincount(self.person_of[rows], weights=values[rows])
        images = np.bincount(self.person_of[rows])
        mean, number = by_person.sum() / images.sum(), int((images > 0).sum())
        error = np.sqrt(number / (number - 1) * ((by_person - mean * images) ** 2).sum()) / images.sum()
        return float(mean), float(error)

    @cached_property
    def _without(self) -> dict[frozenset[int], dict[Way, Learned]]:
        """What each way learns from all folds but one, or two."""
        folds = range(self.num_folds)
        left_out = [frozenset(each) for size in (1, 2) for each in itertools.combinations(folds, size)]
        return {each: self.fit(~np.isin(self.fold_of, [*each])) for each in left_out}

    def crossed(self, way: Way, outer: frozenset[int] = frozenset()) -> Crossed:
        """How a way decides on each image, having learned without its fold and without `outer`."""
        decided = {name: np.zeros(len(self.fold_of), dtype=np.int64) for name in self.truth}
        losses = np.zeros(len(self.fold_of))
        for fold in range(self.num_folds):
            learned, rows = self._without[outer | {fold}][way], self.fold_of == fold
            losses[rows] = learned.losses[rows]
            for name, classes in decided.items():
                classes[rows] = learned.decided[name][rows]
        return Crossed(decided, losses)

    def run(self) -> TuningResult:
        """Chooses, fits on all, and estimates what the whole of it is worth."""
        nested = {name: np.zeros(len(self.fold_of), dtype=np.int64) for name in self.truth}
        chosen_by_fold = []
        for fold in range(self.num_folds):
            outer, rows = frozenset([fold]), self.fold_of == fold
            way = self.choose({way: self.crossed(way, outer) for way in self.ways}, ~rows)
            chosen_by_fold.append(way)
            for name, classes in nested.items():
                classes[rows] = self._without[outer][way].decided[name][rows]
        crossed = {way: self.crossed(way) for way in self.ways}
        everything = np.ones(len(self.fold_of), dtype=bool)
        chosen = self.choose(crossed, everything)
        fitted = self.fit(everything)[chosen].fitted
        before, after = self.counts([crossed[UNTUNED].decided, nested])
        return TuningResult(self, chosen, chosen_by_fold, fitted, before, after, self._worths(chosen, crossed))

    def _worths(self, chosen: Way, crossed: Mapping[Way, Crossed]) -> dict[str, Worth]:
        """By step, what it is worth to the chosen way (or to the arg max), with the other steps as they are."""
        found = {}
        for step in dict.fromkeys(step for way in self.ways for step in way.steps):
            is_kept = step in chosen.steps
            without = _nearest(chosen, self.ways, step, False)
            with_it = chosen if is_kept else _nearest(chosen, self.ways, step, True)
            if step == "rule":
                first, second = self.counts([crossed[without].decided, crossed[with_it].decided])
                gain = difference(first, second)
                found[step] = Worth("macro F1", gain.value, gain.interval, is_kept)
            else:
                value, error = self._mean_by_person(crossed[with_it].losses - crossed[without].losses, self.is_known)
                half = student(self.num_persons - 1) * error
                found[step] = Worth("log loss", value, (value - half, value + half), is_kept)
        return found


@dataclass(frozen=True)
class Crossed:
    """How a way decides on each image, having learned without its fold; and their log losses, (N,)."""

    decided: Decided
    losses: np.ndarray


def _nearest(way: Way, all_ways: Sequence[Way], step: str, has_it: bool) -> Way:
    """The way that has, or has not, a step, and otherwise differs least."""
    fitting = [each for each in all_ways if (step in each.steps) == has_it]
    return min(fitting, key=lambda each: len({*each.steps} ^ {*way.steps}))


@dataclass(frozen=True)
class TuningResult:
    """What was chosen, and what it is worth.

    chosen_by_fold: what the outer folds chose, each for itself
    untuned, nested: by target, the counts of the arg max and of the nested decisions, on the same images
    steps: by step, what it adds to the chosen way, or would; fitted on other persons, but chosen by these very figures
    """

    tuning: Tuning
    chosen: Way
    chosen_by_fold: list[Way]
    fitted: Fitted
    untuned: list[Counts]
    nested: list[Counts]
    steps: dict[str, Worth]

    @property
    def gain(self) -> Difference:
        """Of macro F1, nested over untuned."""
        return difference(self.untuned, self.nested)

    def _lines_by_target(self) -> list[str]:
        """Of several targets, what each gains. Those that no image knows are left out, as in the counts."""
        names = [name for name, classes in self.tuning.truth.items() if (classes != UNKNOWN).any()]
        if len(names) < 2:
            return []
        lines = []
        for name, before, after in zip(names, self.untuned, self.nested, strict=True):
            score, gain = Score.macro_f1(before), difference([before], [after])
            gained = with_interval(gain.value, gain.interval, "+")
            lines.append(f"  {name}: macro F1 {with_interval(score.value, score.interval())}, gain {gained}")
        return lines

    def decision(self) -> Decision:
        runs = [
            TunedRun(
                run.name,
                float(weight),
                {name: list(head.class_names) for name, head in run.table.labels.heads.items()},
                run.digest,
            )
            for run, weight in zip(self.tuning.runs, self.fitted.weights, strict=True)
        ]
        return Decision(
            self.tuning.pool.labels,
            [run for run in runs if run.weight > 0],
            self.fitted.calibration,
            self.fitted.rules,
            [run.name for run in runs if run.weight <= 0],
            self.tuning.pool.by_attribute,
            self.summary(),
        )

    def summary(self) -> dict[str, Any]:
        """Plain data, for the decision's file."""
        return {
            "images": self.tuning.num_images,
            "persons": self.tuning.num_persons,
            "folds": self.tuning.num_folds,
            "steps": self.chosen.steps,
            "steps_by_fold": [way.steps for way in self.chosen_by_fold],
            "untuned": _summary(self.untuned),
            "nested": _summary(self.nested),
            "gain": {"macro_f1": self.gain.value, "interval": list(self.gain.interval), "p": self.gain.p_value},
        }

    def lines(self) -> list[str]:
        """For the log."""
        tuning, folds = self.tuning, self.tuning.num_folds
        lines = []
        if tuning.pool.by_attribute and tuning.labels.has_joint_class:
            joint = ", ".join(each.name for each in tuning.labels.joint_attributes)
            lines.append(f"too few persons have a known {joint} all at once: each is tuned by itself")
        lines += [
            f"{tuning.num_images} images of {tuning.num_persons} persons, nested in {folds} folds of persons",
            f"untuned arg max:  {_line(self.untuned)}",
            f"tuned, nested:    {_line(self.nested)}",
            f"gain of macro F1: {with_interval(self.gain.value, self.gain.interval, '+')}, p = {self.gain.p_value:.4f}"
            f"{'' if self.gain.is_decided else ': cannot be told from none'}",
            *self._lines_by_target(),
            f"chosen: {self.chosen} (so in {self.chosen_by_fold.count(self.chosen)} of {folds} folds)",
        ]
        lines += [f"{step}: {worth}" for step, worth in self.steps.items()]
        for run, weight in zip(tuning.runs, self.fitted.weights.tolist(), strict=True):
            lines.append(f"{run.name}: weight {weight:.3g}{'' if weight else '; leave it out of test.py --resume'}")
        return lines + ([] if self.fitted.calibration is None else _describe(self.fitted.calibration, tuning.pool))


def _describe(calibration: Calibration, pool: Pool) -> list[str]:
    texts = [f"{name} {value:.2f}" for name, value in calibration.temperatures.items()]
    lines = [f"temperature of {', '.join(texts)}"]
    for name, shifts in calibration.shifts.items():
        if any(shifts):
            names = pool.labels.attributes[name].class_names
            moved = [f"{text} {shift:+.2f}" for text, shift in zip(names, shifts, strict=True)]
            lines.append(f"shift of {name} (log odds): {', '.join(moved)}")
    return lines


def _scores(counts: Sequence[Counts]) -> tuple[Score, Score]:
    return Score.mean([Score.macro_f1(each) for each in counts]), Score.mean([Score.accuracy(each) for each in counts])


def _line(counts: Sequence[Counts]) -> str:
    macro_f1, accuracy = _scores(counts)
    texts = [with_interval(each.value, each.interval()) for each in (macro_f1, accuracy)]
    return f"macro F1 {texts[0]}  accuracy {texts[1]}"


def _summary(counts: Sequence[Counts]) -> dict[str, Any]:
    macro_f1, accuracy = _scores(counts)
    return {
        "macro_f1": macro_f1.value,
        "interval": list(macro_f1.interval()),
        "accuracy": accuracy.value,
        "accuracy_interval": list(accuracy.interval()),
    }
