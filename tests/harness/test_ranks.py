"""The harness of several processes in short. Its command does it at length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.harness.ranks import DATA, make_reference, run_trial
from tests.integration.drawn_road import draw_small_data


def test_three_processes_of_which_one_is_killed_end_as_undisturbed_ones(tmp_path: Path) -> None:
    """Of three, sums are rounded by the layout of DistributedDataParallel's buckets, which a first pass changes."""
    data = draw_small_data(tmp_path / DATA)

    def reference_of(scenario: str, processes: int) -> dict[str, Any]:
        return make_reference(scenario, processes, tmp_path / "reference", data)

    trial = run_trial(10, 1, reference_of, tmp_path / "trial")
    assert trial.events == ["3 processes, SIGKILL at 14 of process 1", "resumed by 3"]
    assert trial.wrong == ""
