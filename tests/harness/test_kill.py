"""The harness in short: runs survive kills, and it sees a bug that is planted. Its command does it at length."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness.kill import find_planted, run_trials
from tests.harness.planted import PLANTED, write_not_atomic
from tests.integration.drawn_road import draw_small_data


def test_killed_runs_end_as_undisturbed_ones(tmp_path: Path) -> None:
    trials = [*run_trials(2, 3, ["training"], tmp_path)]
    assert sum(len(trial.points) for trial in trials) >= 2
    assert [str(trial) for trial in trials if trial.wrong] == []


def test_a_planted_bug_is_found(tmp_path: Path) -> None:
    assert find_planted(write_not_atomic, 12, 1, tmp_path, draw_small_data(tmp_path / "data"))


@pytest.mark.long
@pytest.mark.parametrize("plant", PLANTED)
def test_each_planted_bug_is_found(plant: Callable[[], None], tmp_path: Path) -> None:
    assert find_planted(plant, 40, 1, tmp_path, draw_small_data(tmp_path / "data"))
