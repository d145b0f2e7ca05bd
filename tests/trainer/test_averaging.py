"""Averages of the weights: against plain arithmetic, in validation, in checkpoints, and over a resume."""

from __future__ import annotations

import itertools
import signal
from typing import Any

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import nn

from tests.trainer.conftest import Built, MakeTrainer, SmallModel, assert_equal_states
from trainer.averaging import ExponentialMovingAverage, StochasticWeightAveraging, WeightAveraging
from trainer.learner import Learner
from utils.errors import StopSignal

States = list[dict[str, torch.Tensor]]


def train_and_keep(built: Built) -> States:
    """Trains, and gives the model's state after every update."""
    seen: States = []
    built.trainer.learner.optimizer.register_step_post_hook(lambda *_: seen.append(built.state()))
    built.train()
    return seen


def averaged(built: Built) -> dict[str, torch.Tensor]:
    averaging = built.trainer.learner.averaging
    assert averaging is not None
    state: dict[str, torch.Tensor] = averaging.state_dict()["average"]
    return state


def with_average(averaging: WeightAveraging) -> Any:
    return lambda _model: {"averaging": averaging}


@pytest.mark.parametrize("arguments", [{"decay": 0.7}, {"decay": 0.9, "warmup": False}, {"warmup_gamma": 5.0}])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_exponential_average_is_timms_bit_by_bit(
    make_trainer: MakeTrainer, arguments: dict[str, Any], batch_norm: bool
) -> None:
    """Also of running statistics and counts; a model without norms has no counts."""
    built = make_trainer(
        model=SmallModel(batch_norm), parts=with_average(ExponentialMovingAverage(**arguments)), epochs=2
    )
    model = built.trainer.learner.model
    settings = {"decay": 0.999, "warmup": True, **arguments}
    timms = ModelEmaV3(model, use_warmup=settings.pop("warmup"), **settings)
    built.trainer.learner.optimizer.register_step_post_hook(
        lambda *_: timms.update(model, step=built.trainer.learner.updates + 1)
    )
    built.train()
    assert_equal_states(averaged(built), timms.module.state_dict())


def test_stochastic_average_is_the_mean_of_epoch_ends(make_trainer: MakeTrainer) -> None:
    built = make_trainer(parts=with_average(StochasticWeightAveraging(from_epoch=2)), epochs=4)
    seen = train_and_keep(built)
    ends = [seen[len(seen) // 4 * epoch - 1] for epoch in (2, 3, 4)]
    for name, tensor in averaged(built).items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, torch.stack([end[name] for end in ends]).mean(dim=0))


@pytest.mark.parametrize("used_for", [["validation", "answers"], ["validation"], ["answers"]])
def test_what_the_average_is_used_for(make_trainer: MakeTrainer, used_for: list[Any]) -> None:
    built = make_trainer(parts=with_average(ExponentialMovingAverage(decay=0.9, used_for=used_for)), epochs=1).train()
    content = built.checkpoint()
    assert content["answers_with"] == ("average" if "answers" in used_for else "model")
    validated = built.trainer.learner.eval_model()
    assert (validated is built.trainer.learner.model) == ("validation" not in used_for)
    assert not validated.training
    assert_equal_states(averaged(built), content["averaging"]["average"])
    assert any(not torch.equal(tensor, content["model"][name]) for name, tensor in averaged(built).items())


def test_validation_scores_the_average(make_trainer: MakeTrainer) -> None:
    """The same weights as a model of their own give the same validation loss."""
    built = make_trainer(parts=with_average(ExponentialMovingAverage(decay=0.9)), epochs=2).train()
    alone = make_trainer("alone", epochs=2)
    alone.trainer.learner.model.load_state_dict(averaged(built))
    assert built.trainer.validate(2) == alone.trainer.validate(2)


def test_there_is_no_average_before_its_first_epoch(make_trainer: MakeTrainer) -> None:
    built = make_trainer(parts=with_average(StochasticWeightAveraging(from_epoch=3)), epochs=2).train()
    assert built.trainer.learner.eval_model() is built.trainer.learner.model
    assert built.checkpoint()["answers_with"] == "model"


def test_a_resumed_stochastic_average_equals_an_uninterrupted_one(make_trainer: MakeTrainer) -> None:
    """The exponential one is resumed in test_learner.py, after every update."""
    parts = with_average(StochasticWeightAveraging(from_epoch=2))
    whole = make_trainer("whole", parts=parts, epochs=4).train()
    first = make_trainer("first", parts=with_average(StochasticWeightAveraging(from_epoch=2)), epochs=2).train()
    parts = with_average(StochasticWeightAveraging(from_epoch=2))
    second = make_trainer("first", resume=first.checkpoint(), parts=parts, epochs=4).train()
    assert_equal_states(averaged(whole), averaged(second))
    assert whole.metrics_file.read_bytes() == second.metrics_file.read_bytes()


def test_a_stochastic_average_resumed_after_a_stop_in_the_validation(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The epoch's weights are in the average already."""
    parts = with_average(StochasticWeightAveraging(from_epoch=1))
    whole = make_trainer("whole", parts=parts, epochs=3).train()
    first = make_trainer("first", parts=with_average(StochasticWeightAveraging(from_epoch=1)), epochs=3)
    learner, evaluations = first.trainer.learner, itertools.count(1)

    def stop_in_the_second_validation() -> nn.Module:
        if next(evaluations) == 2:
            first.trainer.stop.received = signal.SIGTERM
        return Learner.eval_model(learner)

    monkeypatch.setattr(learner, "eval_model", stop_in_the_second_validation)
    with pytest.raises(StopSignal):
        first.train()
    assert first.checkpoint()["completed_epochs"] == 1
    parts = with_average(StochasticWeightAveraging(from_epoch=1))
    second = make_trainer("first", resume=first.checkpoint(), parts=parts, epochs=3).train()
    assert_equal_states(averaged(whole), averaged(second))
    assert whole.metrics_file.read_bytes() == second.metrics_file.read_bytes()
