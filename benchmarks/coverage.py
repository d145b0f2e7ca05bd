"""How often 95 % intervals of macro F1 and accuracy cover the truth: `python -m benchmarks.coverage --draws 1000`.

Data sets of few and of many persons, seven images each, are drawn from a population whose score is known: 18 classes of
mask, gender and age, of which the oldest are 7 % of the persons, and errors that a person's images share. Each method
gives its interval of each data set; printed is the table of docs/scores.md. It takes minutes on one core.

percentile  of 1,000 resamples of persons (cluster bootstrap, Field & Welsh 2007)
expanded    the same, with tails as wide as Student's t (Hesterberg 2015)
BCa         bias-corrected and accelerated (Efron 1987)
jackknife   what this project reports: inference/scoring/intervals.py
difference  its interval of the difference between two equally good models, which is 0
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri  # type: ignore[import-untyped]

from inference.scoring.intervals import TAIL, Counts, Interval, Score, counts_by_person, difference, student
from utils.command_line import CommandLine
from utils.errors import run_and_exit
from utils.random_streams import numpy_stream

IMAGES = np.array([0, 0, 0, 0, 0, 1, 2])
"""The mask of each of a person's images."""

GENDER, AGE = np.array([0.4, 0.6]), np.array([0.47, 0.46, 0.07])
ACCURACIES = {"weak": (0.7, 0.7, 0.5), "middling": (0.93, 0.9, 0.75), "strong": (0.995, 0.985, 0.9)}
"""By model, of mask, gender and age; the oldest are recognised 25 points less often."""

SHARED = (0.1, 0.6, 0.6)
"""How much of each attribute's errors is the person's."""

NUM_RESAMPLES = 1000
NUM_PERSONS = (10, 30, 100, 400)
POPULATION = 200_000

Make = Callable[[Counts], Score]
MAKES: dict[str, Make] = {"macro F1": Score.macro_f1, "accuracy": Score.accuracy}
ATTRIBUTES = {"18 classes": lambda joint: joint, "gender": lambda joint: joint // 3 % 2}


@dataclass(frozen=True)
class Images:
    """Joint classes of a person's images, (P, 7); predicted: by model, the second like the first but for its errors."""

    truth: np.ndarray
    predicted: list[np.ndarray]


def draw(num_persons: int, accuracies: Sequence[float], stream: np.random.Generator) -> Images:
    """A data set, and two equally good models' predictions."""
    gender, age = (stream.choice(len(shares), (num_persons, 1), p=shares) for shares in (GENDER, AGE))
    truths = [np.broadcast_to(each, (num_persons, len(IMAGES))) for each in (IMAGES, gender, age)]
    predicted = []
    of_person = [stream.normal(size=(num_persons, 1)) for _ in truths]  # both models find the same people hard
    for _ in range(2):
        columns = []
        for number, (truth, classes) in enumerate(zip(truths, (3, 2, 3), strict=True)):
            right = accuracies[number] - 0.25 * (truth == 2) * (number == 2)
            shared = SHARED[number]
            own = stream.normal(size=truth.shape)
            is_wrong = np.sqrt(shared) * of_person[number] + np.sqrt(1 - shared) * own > ndtri(right)
            other = (truth + stream.integers(1, classes, truth.shape)) % classes
            columns.append(np.where(is_wrong, other, truth))
        predicted.append(columns[0] * 6 + columns[1] * 3 + columns[2])
    return Images(truths[0] * 6 + truths[1] * 3 + truths[2], predicted)


def bootstrap_intervals(make: Make, counts: Counts, stream: np.random.Generator) -> dict[str, Interval]:
    """By name of the method."""
    number = len(counts.total)
    draws = stream.multinomial(number, np.full(number, 1 / number), size=NUM_RESAMPLES).astype(np.float64)
    resampled = _values(make, counts.weighted(draws))
    score = make(counts)
    wide = float(ndtr(-np.sqrt(number / (number - 1)) * student(number - 1)))
    below = (resampled < score.value).mean() + (resampled == score.value).mean() / 2
    bias = ndtri(np.clip(below, 1e-3, 1 - 1e-3))
    away = score.without.mean() - score.without
    acceleration = (away**3).sum() / (6 * (away**2).sum() ** 1.5 + 1e-30)
    tails = np.array([TAIL, 1 - TAIL])
    shifted = bias + ndtri(tails)
    accelerated = ndtr(bias + shifted / (1 - acceleration * shifted))
    found = {"percentile": tails, "expanded": np.array([wide, 1 - wide]), "BCa": accelerated}
    return {name: tuple(np.quantile(resampled, each)) for name, each in found.items()}


def _values(make: Make, counts: Counts) -> np.ndarray:
    return counts.macro_f1() if make == Score.macro_f1 else counts.accuracy()


def measure(num_draws: int) -> Iterator[str]:
    """The table's lines, as Markdown: a row for each model, score and number of persons."""
    methods = ["percentile", "expanded", "BCa", "jackknife"]
    yield f"| model | score | truth | persons | {' | '.join(methods)} | difference |"
    yield "|---" * 9 + "|"
    for model, accuracies in ACCURACIES.items():
        population = draw(POPULATION, accuracies, numpy_stream(0, "population"))
        truths = {
            (attribute, name): float(_values(make, _counts(population, of)[0].whole)[0])
            for attribute, of in ATTRIBUTES.items()
            for name, make in MAKES.items()
        }
        for number in NUM_PERSONS:
            covered: dict[tuple[str, str, str], list[bool]] = {}
            for repeat in range(num_draws):
                stream = numpy_stream(1, f"coverage {model}", number, repeat)
                images = draw(number, accuracies, stream)
                for attribute, of in ATTRIBUTES.items():
                    first, second = _counts(images, of)
                    for name, make in MAKES.items():
                        found = bootstrap_intervals(make, first, stream)
                        found["jackknife"] = make(first).interval()
                        for method, (low, high) in found.items():
                            is_in = low - 1e-9 <= truths[attribute, name] <= high + 1e-9
                            covered.setdefault((attribute, name, method), []).append(is_in)
                        kind = "macro_f1" if make == Score.macro_f1 else "accuracy"
                        low, high = difference([first], [second], kind).interval
                        covered.setdefault((attribute, name, "difference"), []).append(low <= 0 <= high)
            for (attribute, name), truth in truths.items():
                shares = [f"{np.mean(covered[attribute, name, each]):.1%}" for each in (*methods, "difference")]
                yield f"| {model} | {name}, {attribute} | {truth:.3f} | {number} | {' | '.join(shares)} |"


def _counts(images: Images, of: Callable[[np.ndarray], np.ndarray]) -> list[Counts]:
    person_of = np.repeat(np.arange(len(images.truth)), images.truth.shape[1])
    return counts_by_person(of(images.truth.ravel()), [of(each.ravel()) for each in images.predicted], person_of)


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = CommandLine(prog="python -m benchmarks.coverage", description="How often 95 % intervals cover the truth.")
    parser.add_argument("--draws", type=int, default=1000, help="data sets of each kind (default: 1000)")
    for line in measure(parser.parse(argv).draws):
        print(line, flush=True)


if __name__ == "__main__":
    run_and_exit(main)
