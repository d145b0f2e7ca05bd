"""The harness of several processes in short. Its command does it at length."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from tests.harness.ranks import DATA, far_from, make_reference, run_trial
from tests.integration.drawn_road import draw_small_data


def test_three_processes_of_which_one_is_killed_end_as_undisturbed_ones(tmp_path: Path) -> None:
    """Of three, sums are rounded by the layout of DistributedDataParallel's buckets, which a first pass changes."""
    data = draw_small_data(tmp_path / DATA)

    def reference_of(scenario: str, processes: int) -> dict[str, Any]:
        return make_reference(scenario, processes, tmp_path / "reference", data)

    trial = run_trial(10, 1, reference_of, tmp_path / "trial")
    assert trial.events == ["3 processes, SIGKILL at 14 of process 1", "resumed by 3"]
    assert trial.wrong == ""


def test_weights_and_metrics_that_are_far_from_others_are_seen() -> None:
    """As a run's end has them, with another number of processes."""

    def end(weight: float, loss: float) -> dict[str, Any]:
        model = {"head": torch.tensor([1.0, weight])}
        return {"0/last.pth": {"model": model}, "0/log/metrics.jsonl": json.dumps({"epoch": 1, "loss": loss}).encode()}

    assert far_from(end(1.0, 2.0), end(1.00001, 2.00001)) == ""
    assert "head" in far_from(end(1.0, 2.0), end(1.01, 2.0))
    assert "loss" in far_from(end(1.0, 2.0), end(1.0, 2.01))
    assert "0/last.pth" in far_from(end(1.0, 2.0), {})
