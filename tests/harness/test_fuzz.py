"""The harness in short: mutated files and configs are read or refused, and it sees what is neither."""

from __future__ import annotations

import faulthandler
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import strategies as st

from tests.harness import fuzz
from tests.harness.fuzz import Failure, campaigns, run_trials
from tests.harness.mutations import Case
from utils.errors import ConfigError, StorageFullError

TRIALS = {"image": 40, "table": 40, "run": 10, "checkpoint": 10, "config": 12}


def test_mutated_files_and_configs_are_read_or_refused(tmp_path: Path) -> None:
    wrong: list[str] = []
    for name, strategy, trial, _ in campaigns(tmp_path, 0, 0):
        run_trials(strategy, trial, TRIALS[name], 3, lambda case, found: wrong.append(f"{case}: {found}"))
    assert len(wrong) == sum(TRIALS.values())
    assert [each for each in wrong if not each.endswith(": ")] == []


def refuse(_: Case) -> None:
    raise ConfigError("tiny.json: epochs = 0 must be above 0")


def foreign(_: Case) -> None:
    raise KeyError("epochs")


def another_code(_: Case) -> None:
    raise StorageFullError("a full disk")


def wordless(_: Case) -> None:
    raise ConfigError("")


def hang(_: Case) -> None:
    end = time.process_time() + 30
    while time.process_time() < end:
        pass


def fill_memory(_: Case) -> None:
    bytearray(8 * 2**30)


def crash(_: Case) -> None:
    faulthandler.disable()  # else pytest prints where it happens
    os.abort()


@pytest.mark.parametrize(
    ("trial", "wrong"),
    [
        (lambda _: None, None),
        (refuse, None),
        (foreign, "KeyError"),
        (another_code, "exit code 74"),
        (wordless, "without a word"),
        (hang, "of the processor"),
        (fill_memory, "MemoryError"),
        (crash, "ends the process"),
    ],
)
def test_what_is_neither_read_nor_refused_is_seen(
    trial: Callable[[Case], None], wrong: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz, "CPU_SECONDS", 0.2)
    found = [*fuzz.fuzz("planted", st.builds(Case, st.just("a.csv"), st.binary()), trial, 1, 1, tmp_path)]
    if wrong is None:
        assert found == [None]
        return
    (failure,) = found
    assert isinstance(failure, Failure)
    assert wrong in failure.wrong
    assert Path(failure.file).is_file()
