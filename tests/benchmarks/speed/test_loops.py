"""The loops that are written by hand learn what they should; the expert's is the trainer's arithmetic."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch

from benchmarks.speed.loops import TeamsLoop, TimmsLoop, as_floats
from benchmarks.speed.rows.trainer_overhead import experts_loop
from benchmarks.speed.synthetic import synthetic_batches, synthetic_trainer, train_one_epoch
from benchmarks.speed.workplace import Workplace
from trainer.trainer import Trainer


def small_trainer(workplace: Workplace, steps: int = 3, optimizer: dict[str, Any] | None = None) -> Trainer:
    changes = {
        "arch": {"args": {"model_name": "resnet10t"}},
        "data_loader": {"args": {"input_size": 32}},
        "trainer": {"precision": "float32"},
    }
    config = workplace.config(changes if optimizer is None else {**changes, "optimizer": optimizer})
    batches = synthetic_batches(workplace.labels, 2, 4, 32)
    return synthetic_trainer(workplace, config, batches, steps, torch.device("cpu"))


def test_the_experts_loop_learns_the_trainers_weights(workplace: Workplace) -> None:
    """With plain SGD: Adam makes whole steps of what rounding leaves of a small gradient."""
    trainer = small_trainer(workplace, optimizer={"type": "SGD", "args": {"lr": 0.01, "momentum": 0.9}})
    loop = experts_loop(trainer, workplace.config()["loss"]["heads"])
    before = copy.deepcopy(trainer.learner.model.state_dict())
    first, second = synthetic_batches(workplace.labels, 2, 4, 32)
    train_one_epoch(trainer)
    loop.epoch([first, second, first])
    after, by_expert = trainer.learner.model.state_dict(), loop.model.state_dict()
    assert sum(not torch.equal(before[name], weight) for name, weight in after.items()) > len(after) / 2
    for name, weight in after.items():
        torch.testing.assert_close(by_expert[name], weight, atol=1e-5, rtol=1e-4)


def test_the_teams_loop_and_timms_learn(workplace: Workplace) -> None:
    learner = small_trainer(workplace).learner
    mean, std = learner.preprocessing.mean, learner.preprocessing.std
    (batch,) = synthetic_batches(workplace.labels, 1, 4, 32)
    floats = as_floats(batch, mean, std)
    for kind, others in ((TeamsLoop, {}), (TimmsLoop, {"compute_type": torch.bfloat16})):
        model = copy.deepcopy(learner.model)
        adam = torch.optim.Adam(model.parameters())
        loop = kind(model, adam, workplace.config()["loss"]["heads"], mean, std, torch.device("cpu"), **others)
        loop.epoch([floats] * 2)
        assert all(
            not torch.equal(old, new) for old, new in zip(learner.model.parameters(), model.parameters(), strict=True)
        )


def test_float_batches_are_what_the_teams_workers_make(workplace: Workplace) -> None:
    (batch,) = synthetic_batches(workplace.labels, 1, 4, 32)
    images, targets = as_floats(batch, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
    assert images.is_contiguous()
    assert images.dtype == torch.float32
    expected = (batch.images.numpy().transpose(0, 2, 3, 1) / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.25, 0.3]
    np.testing.assert_allclose(images.numpy().transpose(0, 2, 3, 1), expected, atol=1e-5)
    assert targets.keys() == batch.targets.keys()
