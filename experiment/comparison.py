"""Which of two runs is better, by how much, and how sure that is: on the images that neither trained on, by person."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from base.batch import UNKNOWN
from experiment.run_record import leaves
from experiment.runs import summarise_run
from inference.run_predictions import RunPredictions, common_images
from inference.scoring.evaluation import JOINT, with_interval
from inference.scoring.intervals import (
    Counts,
    Interval,
    Score,
    counts_by_person,
    difference,
    error_of_seeds,
    interval_over_seeds,
    number_persons,
    student,
)
from inference.tuning.decision import attributes_of, targets_of, truth_of_targets
from utils.errors import ConfigError
from utils.wording import counted

SEED_ALONE = ("seed",)
"""Configs that differ in nothing else are one config with several seeds."""

MEASURES = {"macro_f1": "macro F1", "accuracy": "accuracy"}


@dataclass(frozen=True)
class ComparedRun:
    """A run on the common images.

    counts: by classification (the joint class, then each attribute), by person
    validation_digest: equal for runs that were validated on the same images
    """

    predictions: RunPredictions
    counts: dict[str, Counts]
    validation_digest: str | None


def compare_runs(folders: Sequence[Path]) -> list[str]:
    """A comparison in lines: runs whose configs differ in the seed alone are one group, with mean and spread; each
    other group is compared with the first.

    Raises ConfigError, CheckpointError, DataError."""
    if repeated := [folder for number, folder in enumerate(folders) if folder in folders[:number]]:
        raise ConfigError(f"{repeated[0]}: is named twice")
    if len(folders) < 2:
        raise ConfigError(f"{folders[0]}: alone cannot be compared; name another run")
    read = [RunPredictions.read(folder) for folder in folders]
    common = common_images(read)
    runs = _counted(common)
    table = common[0].table
    sizes = ", ".join(f"{run.name} {len(run.table)}" for run in read)
    lines = [f"{len(table)} images of {len(set(table.persons))} persons are common (of {sizes})"]
    digests = {run.validation_digest for run in runs}
    if None in digests:
        lines.append("whether they were validated on the same images is not known: a run kept no digest")
    elif len(digests) == 1:
        lines.append("they were validated on the same images")
    else:
        lines.append("they were validated on different images: only the common ones are compared")
    nested = "is a greedy soup: each person is predicted by the one that is chosen without them, not by itself"
    lines += [f"{run.predictions.folder} {nested}" for run in runs if run.predictions.is_nested]
    groups = _groups(runs)
    for title, group in groups.items():
        lines += _summary(title, group)
    (first, base), *others = groups.items()
    if not others:
        lines.append("they differ in the seed alone, and are one group; to compare, name runs of another config too")
    for title, group in others:
        lines += ["", f"{title} against {first}:", *_comparison(base, group)]
    return lines


def _counted(runs: Sequence[RunPredictions]) -> list[ComparedRun]:
    table = runs[0].table
    labels, persons = table.labels, number_persons(table.persons)
    by_attribute = {name: classes.numpy() for name, classes in table.truth.items()}
    truth = truth_of_targets(labels, by_attribute) | by_attribute
    decided = []
    for run in runs:
        heads = {name: each.double().numpy() for name, each in run.table.by_head.items()}
        own = targets_of(run.table.labels, heads) | attributes_of(run.table.labels, heads)
        decided.append({name: each.argmax(axis=1) for name, each in own.items()})
    counts = {
        name: counts_by_person(classes, [each[name] for each in decided], persons)
        for name, classes in truth.items()
        if (classes != UNKNOWN).any()
    }
    return [
        ComparedRun(
            run, {name: each[number] for name, each in counts.items()}, summarise_run(run.folder).validation_digest
        )
        for number, run in enumerate(runs)
    ]


def _groups(runs: Sequence[ComparedRun]) -> dict[str, list[ComparedRun]]:
    """Runs of one config but for its seed, by a title; a soup is alone."""
    found: list[tuple[dict[str, Any], list[ComparedRun]]] = []
    for run in runs:
        config = {key: value for key, value in leaves(run.predictions.config) if key not in SEED_ALONE}
        if run.predictions.soup:
            config["soup"] = run.predictions.folder
        group = next((group for own, group in found if own == config), None)
        if group is None:
            found.append((config, [run]))
        else:
            group.append(run)
    return {_title(group): group for _, group in found}


def _title(group: Sequence[ComparedRun]) -> str:
    first = group[0].predictions.name
    return first if len(group) == 1 else f"{first} and {counted(len(group) - 1, 'other seed')}"


def _names(run: ComparedRun) -> list[str]:
    """The classifications that are reported; of several attributes without a joint class their mean first."""
    return list(run.counts) if JOINT in run.counts or len(run.counts) == 1 else [JOINT, *run.counts]


def _parts(run: ComparedRun, name: str) -> list[Counts]:
    return [run.counts[name]] if name in run.counts else list(run.counts.values())


def _score(run: ComparedRun, name: str, measure: str) -> Score:
    make = {"macro_f1": Score.macro_f1, "accuracy": Score.accuracy}[measure]
    return Score.mean([make(counts) for counts in _parts(run, name)])


def _summary(title: str, group: Sequence[ComparedRun]) -> list[str]:
    lines = [f"{title}:"]
    for name in _names(group[0]):
        texts = []
        for measure, words in MEASURES.items():
            scores = [_score(run, name, measure) for run in group]
            mean = statistics.fmean(score.value for score in scores)
            spread = f" (over seeds +- {statistics.stdev(each.value for each in scores):.4f})" if len(group) > 1 else ""
            texts.append(f"{words} {with_interval(mean, interval_over_seeds(scores))}{spread}")
        lines.append(f"  {name:<10} {'  '.join(texts)}")
    return lines


def _comparison(base: Sequence[ComparedRun], group: Sequence[ComparedRun]) -> list[str]:
    lines = []
    for name in _names(base[0]):
        for measure, words in MEASURES.items():
            if len(base) == len(group) == 1:
                found = difference(_parts(base[0], name), _parts(group[0], name), measure)
                value, interval, is_decided = found.value, found.interval, found.is_decided
                test = f", p = {found.p_value:.4f}"
            else:
                value, interval = _difference_of_seeds(base, group, name, measure)
                is_decided, test = not interval[0] <= 0 <= interval[1], ""
            verdict = ("better" if value > 0 else "worse") if is_decided else "cannot be decided"
            lines.append(f"  {name:<10} {words} {with_interval(value, interval, '+')}{test}: {verdict}")
    if len(base) == len(group) == 1:
        lines.append("  of these two trained models; for their configs, compare several seeds of each")
    return lines


def _difference_of_seeds(
    base: Sequence[ComparedRun], group: Sequence[ComparedRun], name: str, measure: str
) -> tuple[float, Interval]:
    """Of the means over seeds; the interval is wide enough for other persons and for other seeds: both errors are
    independent, and their half widths add up in squares (Zou & Donner 2008)."""
    scores = [[_score(run, name, measure) for run in each] for each in (base, group)]
    first, second = (Score.mean(each) for each in scores)
    value, error = second.value - first.value, second.error_of(first)
    of_persons = student(first.num_persons - 1) * error if first.num_persons > 1 else np.inf
    half = float(np.hypot(of_persons, error_of_seeds(*([score.value for score in each] for each in scores))))
    return value, (value - half, value + half)
