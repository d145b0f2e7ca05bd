"""Sharpness-aware runs: accumulation, what is told of them, and a stop in their midst."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import StepLR

from model.optim import AdamP, OptimizerSettings, build_optimizer, lookahead
from tests.trainer.conftest import MakeTrainer, MemoryLoader, SmallModel
from trainer.schedule import Schedule
from trainer.sharpness_aware import SharpnessAware
from utils.checkpoint.checkpoint_file import read_checkpoint
from utils.errors import StopSignal


def sharpness_aware_parts(model: SmallModel, _: torch.optim.Optimizer) -> dict[str, Any]:
    return {"sharpness_aware": SharpnessAware([model], 0.5)}


def test_accumulation_equals_one_large_batch(make_trainer: MakeTrainer) -> None:
    """All batches of an update climb together. The losses that are told are those at the weights themselves."""
    ends, lines = [], []
    for folder, batch_size, accumulation_steps, parts in (
        ("small", 4, 3, sharpness_aware_parts),
        ("large", 12, 1, sharpness_aware_parts),
        ("plain", 12, 1, None),
    ):
        torch.manual_seed(0)
        built = make_trainer(
            folder,
            loader=MemoryLoader(12, 8, batch_size=batch_size),
            model=SmallModel(False, 0),
            accumulation_steps=accumulation_steps,
            parts=parts,
            epochs=1,
            lr=0.1,
            optimizer=torch.optim.SGD,
        )
        built.trainer.train()
        ends.append(dict(built.trainer.learner.model.state_dict()))
        lines.append(json.loads(built.metrics_file.read_text()))
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name], rtol=1e-5, atol=1e-6)
    assert any(not torch.allclose(value, ends[2][name], atol=1e-4) for name, value in ends[0].items())
    assert lines[0]["train/loss"] == pytest.approx(lines[2]["train/loss"], rel=1e-5)


def test_a_run_with_everything_that_touches_the_step_resumes_exactly(make_trainer: MakeTrainer) -> None:
    """Lookahead, groups without decay, sharpness-awareness, a warm-up that a schedule follows, accumulation."""
    settings = OptimizerSettings(decay_norms_and_biases=False)
    models: list[SmallModel] = []

    def optimizer(_: Any, lr: float) -> torch.optim.Optimizer:
        plain = build_optimizer(lambda groups: AdamP(groups, lr, weight_decay=0.1), models[-1], settings=settings)
        return lookahead(plain, k=2)

    def run(folder: str, resume: dict[str, Any] | None = None) -> Any:
        torch.manual_seed(0)
        models.append(SmallModel())
        return make_trainer(
            folder,
            resume,
            model=models[-1],
            optimizer=optimizer,
            schedule=lambda made: Schedule(StepLR(made, 1, 0.5), "epoch", warmup_updates=4),
            parts=sharpness_aware_parts,
            accumulation_steps=2,
        )

    whole = run("whole")
    whole.trainer.train()
    for updates in (1, 3, 4, 5):
        stopped = run(f"stopped{updates}")
        update_weights = stopped.trainer.learner._update_weights

        def update(stopped: Any = stopped, update_weights: Any = update_weights, updates: int = updates) -> None:
            update_weights()
            if stopped.trainer.learner.updates == updates:
                stopped.stop.request()

        stopped.trainer.learner._update_weights = update
        with pytest.raises(StopSignal):
            stopped.trainer.train()
        resumed = run(f"stopped{updates}", read_checkpoint(stopped.folder / "last.pth"))
        resumed.trainer.train()
        assert resumed.metrics_file.read_bytes() == whole.metrics_file.read_bytes()
        assert (resumed.folder / "last.pth").read_bytes() == (whole.folder / "last.pth").read_bytes()
