"""The harness in short: damaged checkpoints, logs and configs, and a checksum that is not looked at."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from tests.harness.corrupt import run_trials
from utils.checkpoint import checkpoint_file


def test_damaged_files_are_named_and_the_run_ends_as_the_undisturbed_one(tmp_path: Path) -> None:
    trials = [*run_trials(12, 1, tmp_path, ["in epoch 3"])]
    assert [str(trial) for trial in trials if trial.wrong] == []
    assert {trial.mode for trial in trials} == {"choice", "end", "answer", "other"}


@pytest.mark.long
def test_a_checksum_that_is_not_compared_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unchecked(path: Path, data: bytes) -> bytes:
        with contextlib.suppress(ValueError):
            return data[: data.rindex(b"sha256:") - 2] + bytes(2)
        return verified(path, data)

    verified = checkpoint_file._verified_archive
    monkeypatch.setattr(checkpoint_file, "_verified_archive", unchecked)
    assert any(trial.wrong for trial in run_trials(30, 1, tmp_path, ["in epoch 3"]))
