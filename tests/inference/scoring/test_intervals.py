"""Intervals and paired tests by person, against scikit-learn, scipy and plain loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped]
from sklearn.metrics import accuracy_score, f1_score

from inference.scoring import intervals
from inference.scoring.intervals import Score, counts_by_person, difference, number_persons
from utils.random_streams import numpy_stream

STREAM = numpy_stream(3, "intervals")
PERSON_OF = np.repeat(np.arange(12), 5)
TRUTH = STREAM.integers(0, 4, 60)
GOOD, BETTER = (np.where(STREAM.random(60) < share, TRUTH, STREAM.integers(0, 4, 60)) for share in (0.4, 0.7))


def sklearn_macro_f1(truth: np.ndarray, predicted: np.ndarray) -> float:
    return float(f1_score(truth, predicted, average="macro", zero_division=0))


def test_the_jackknife_is_that_of_a_plain_loop() -> None:
    (counts,) = counts_by_person(TRUTH, [GOOD], PERSON_OF)
    for score, function in ((Score.macro_f1(counts), sklearn_macro_f1), (Score.accuracy(counts), accuracy_score)):
        whole = function(TRUTH, GOOD)
        without = [function(TRUTH[person != PERSON_OF], GOOD[person != PERSON_OF]) for person in range(12)]
        error = np.sqrt(11 / 12 * np.sum((np.array(without) - whole) ** 2))
        assert score.value == pytest.approx(whole)
        assert score.without == pytest.approx(without)
        assert score.standard_error == pytest.approx(error)
        half = stats.t.ppf(0.975, 11) * error / (whole * (1 - whole))
        logit = np.log(whole / (1 - whole))
        assert score.interval() == pytest.approx(1 / (1 + np.exp(-np.array([logit - half, logit + half]))))


def test_of_images_as_persons_the_accuracys_error_is_the_binomial_one() -> None:
    (counts,) = counts_by_person(TRUTH, [GOOD], np.arange(60))
    share = accuracy_score(TRUTH, GOOD)
    assert Score.accuracy(counts).standard_error == pytest.approx(np.sqrt(share * (1 - share) / 59))


def test_all_right_is_not_certain() -> None:
    """The exact interval of 12 successes of 12; of 4 classes with few persons each it is no narrower."""
    (counts,) = counts_by_person(TRUTH, [TRUTH], PERSON_OF)
    exact = stats.binomtest(12, 12).proportion_ci()
    assert Score.accuracy(counts).interval() == pytest.approx((exact.low, 1))
    low, high = Score.macro_f1(counts).interval()
    assert low <= exact.low + 1e-9
    assert high == 1
    (wrong,) = counts_by_person(TRUTH, [(TRUTH + 1) % 4], PERSON_OF)
    assert Score.accuracy(wrong).interval() == pytest.approx((0, 1 - exact.low))
    (alone,) = counts_by_person(TRUTH, [GOOD], np.zeros(60, dtype=int))
    assert Score.macro_f1(alone).interval() == (0, 1)


def test_persons_without_a_known_image_do_not_count() -> None:
    truth = np.where(PERSON_OF < 6, TRUTH, -1)
    (some,) = counts_by_person(truth, [GOOD], PERSON_OF)
    (those,) = counts_by_person(TRUTH[:30], [GOOD[:30]], PERSON_OF[:30])
    assert Score.macro_f1(some).num_persons == 6
    assert Score.macro_f1(some).interval() == pytest.approx(Score.macro_f1(those).interval())


def test_the_paired_test_is_that_of_all_exchanges() -> None:
    """Every one of the 2^6 exchanges of six persons, by scikit-learn."""
    rows = slice(0, 30)
    truth, first, second, persons = TRUTH[rows], GOOD[rows], BETTER[rows], PERSON_OF[rows]
    observed = sklearn_macro_f1(truth, second) - sklearn_macro_f1(truth, first)
    as_large = []
    for exchange in itertools.product([False, True], repeat=6):
        moved = np.array(exchange)[persons]
        one, other = np.where(moved, second, first), np.where(moved, first, second)
        found = sklearn_macro_f1(truth, other) - sklearn_macro_f1(truth, one)
        as_large.append(abs(found) >= abs(observed) - 1e-12)
    counts = counts_by_person(truth, [first, second], persons)
    found_difference = difference(counts[:1], counts[1:])
    assert found_difference.value == pytest.approx(observed)
    assert found_difference.p_value == pytest.approx(np.mean(as_large), abs=0.03)


@pytest.mark.parametrize("kind", ["macro_f1", "accuracy"])
def test_a_large_difference_is_decided_and_none_is_not(kind: str) -> None:
    stream = numpy_stream(8, "pairs")
    persons = np.repeat(np.arange(100), 7)
    truth = stream.integers(0, 6, 700)
    low, high, as_high = (np.where(stream.random(700) < p, truth, stream.integers(0, 6, 700)) for p in (0.5, 0.7, 0.7))
    first, second, third = counts_by_person(truth, [low, high, as_high], persons)
    better = difference([first], [second], kind)
    assert better.is_decided
    assert better.p_value < 0.01
    assert better.interval[0] < better.value < better.interval[1]
    assert not difference([second], [third], kind).is_decided
    same = difference([second], [second], kind)
    assert (same.value, same.interval, same.p_value) == (0, (0, 0), 1)


def test_the_paired_interval_is_that_of_the_resampled_difference() -> None:
    stream = numpy_stream(9, "pairs")
    persons = np.repeat(np.arange(200), 4)
    truth = stream.integers(0, 3, 800)
    low, high = (np.where(stream.random(800) < share, truth, stream.integers(0, 3, 800)) for share in (0.5, 0.6))
    first, second = counts_by_person(truth, [low, high], persons)
    draws = stream.multinomial(200, np.full(200, 1 / 200), size=2000)
    resampled = second.weighted(draws).macro_f1() - first.weighted(draws).macro_f1()
    assert difference([first], [second]).interval == pytest.approx(np.percentile(resampled, [2.5, 97.5]), abs=0.006)


def test_persons_are_numbered_from_0() -> None:
    assert number_persons(["b", "a", "b"]).tolist() == [1, 0, 1]
    assert intervals.student(9) == pytest.approx(stats.t.ppf(0.975, 9))
