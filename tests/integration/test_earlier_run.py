"""A run that the version of 2026-11-29 stopped in mid-epoch resumes and answers as that version itself did.

earlier_run/ holds what that version wrote: the stopped run, the metrics of the same run that was not stopped, and the
probabilities that the latter's last checkpoint answered with. Other processors round otherwise: numbers are compared
within a tolerance."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tests.integration.workplace import ROOT, Workplace, copy_into

EARLIER = ROOT / "tests" / "integration" / "earlier_run"
RUN = Path("saved/models/Earlier/20261130-101325-138")


@pytest.fixture
def earlier(workplace: Workplace) -> Workplace:
    copy_into(EARLIER, workplace.folder)
    return workplace


def test_it_resumes_in_mid_epoch_and_ends_with_the_same_metrics(earlier: Workplace) -> None:
    earlier.train("--resume", RUN).check_success()
    log = earlier.folder / "saved" / "log" / RUN.relative_to("saved/models") / "metrics.jsonl"
    resumed, whole = (
        [json.loads(line) for line in file.read_text().splitlines()]
        for file in (log, EARLIER / "metrics_to_the_end.jsonl")
    )
    assert [epoch["epoch"] for epoch in resumed] == [1, 2, 3]
    for epoch, uninterrupted in zip(resumed, whole, strict=True):
        losses = {name: value for name, value in uninterrupted.items() if "loss" in name or name == "lr"}
        assert {name: epoch[name] for name in losses} == pytest.approx(losses, rel=1e-3)
        of_one_class = {"val/age_accuracy", "val/age_f1"}  # all validation images are of one age: left out since
        assert epoch.keys() >= uninterrupted.keys() - of_one_class


def test_it_answers_with_the_same_probabilities_once_it_is_finished(earlier: Workplace) -> None:
    earlier.train("--resume", RUN).check_success()
    earlier.test("--resume", RUN, "--checkpoint", "last", "--probabilities", "--output", "a.csv").check_success()
    answered, expected = (
        list(csv.DictReader(file.read_text().splitlines()))
        for file in (earlier.folder / "a_probabilities.csv", EARLIER / "probabilities_at_the_end.csv")
    )
    assert answered[0].keys() == expected[0].keys()
    for row, expected_row in zip(answered, expected, strict=True):
        assert row.pop("ImageID") == expected_row.pop("ImageID")
        assert {name: float(value) for name, value in row.items()} == pytest.approx(
            {name: float(value) for name, value in expected_row.items()}, abs=2e-3
        )


def test_its_best_checkpoint_answers_without_resuming(earlier: Workplace) -> None:
    outcome = earlier.test("--resume", RUN, "--output", "a.csv")
    outcome.check_success()
    assert (earlier.folder / "a.csv").read_text().count("\n") == 7
