"""Averages of the weights: against plain arithmetic, in validation, in checkpoints, and over a resume."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.utils import ModelEmaV3

from tests.trainer.conftest import Built, MakeTrainer, SmallModel
from trainer.averaging import ExponentialMovingAverage, StochasticWeightAveraging, WeightAveraging
from utils.checkpoint.checkpoint_file import read_checkpoint


def weights_after_each_update(built: Built) -> list[dict[str, torch.Tensor]]:
    """Trains, and gives the model's state after every update."""
    seen: list[dict[str, torch.Tensor]] = []
    learner = built.trainer.learner

    def keep(*_: Any) -> None:
        seen.append({name: tensor.detach().clone() for name, tensor in learner.model.state_dict().items()})

    learner.optimizer.register_step_post_hook(keep)
    built.trainer.train()
    return seen


def averaged(built: Built) -> dict[str, torch.Tensor]:
    averaging = built.trainer.learner.averaging
    assert averaging is not None
    assert averaging.average is not None
    return averaging.average.state_dict()


def with_average(averaging: WeightAveraging) -> Any:
    return lambda _model, _optimizer: {"averaging": averaging}


def test_exponential_average_is_the_recursion(make_trainer: MakeTrainer) -> None:
    built = make_trainer(parts=with_average(ExponentialMovingAverage(decay=0.8, warmup=False)))
    seen = weights_after_each_update(built)
    for name, tensor in averaged(built).items():
        if tensor.is_floating_point():
            expected = seen[0][name]
            for weights in seen[1:]:
                expected = 0.8 * expected + 0.2 * weights[name]
            torch.testing.assert_close(tensor, expected)


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
    built.trainer.train()
    for name, tensor in averaged(built).items():
        assert torch.equal(tensor, timms.module.state_dict()[name]), name


def test_warmed_average_follows_its_formula(make_trainer: MakeTrainer) -> None:
    built = make_trainer(parts=with_average(ExponentialMovingAverage(decay=0.7, warmup_gamma=2.0)))
    seen = weights_after_each_update(built)
    name = "outputs.mask.weight"
    expected = seen[0][name]
    decays = []
    for step, weights in enumerate(seen[1:], start=1):
        decays.append(min(0.7, 1 - (1 + step / 2.0) ** (-2 / 3)))
        expected = decays[-1] * expected + (1 - decays[-1]) * weights[name]
    assert decays[0] < 0.3 < decays[-1] == 0.7
    torch.testing.assert_close(averaged(built)[name], expected)


def test_stochastic_average_is_the_mean_of_epoch_ends(make_trainer: MakeTrainer) -> None:
    built = make_trainer(parts=with_average(StochasticWeightAveraging(from_epoch=2)), epochs=4)
    seen = weights_after_each_update(built)
    per_epoch = len(seen) // 4
    ends = [seen[per_epoch * epoch - 1] for epoch in (2, 3, 4)]
    for name, tensor in averaged(built).items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, torch.stack([end[name] for end in ends]).mean(dim=0))


@pytest.mark.parametrize("used_for", [["validation", "answers"], ["validation"], ["answers"]])
def test_each_use_is_what_the_config_says(make_trainer: MakeTrainer, used_for: list[Any]) -> None:
    built = make_trainer(parts=with_average(ExponentialMovingAverage(decay=0.9, used_for=used_for)), epochs=1)
    built.trainer.train()
    content = read_checkpoint(built.folder / "last.pth")
    assert content["answers_with"] == ("average" if "answers" in used_for else "model")
    validated = built.trainer.learner.eval_model()
    assert (validated is built.trainer.learner.model) == ("validation" not in used_for)
    assert not validated.training
    loaded = SmallModel()
    loaded.load_state_dict(content["averaging"]["average"])
    for name, tensor in averaged(built).items():
        assert torch.equal(tensor, loaded.state_dict()[name])
    assert any(not torch.equal(tensor, content["model"][name]) for name, tensor in averaged(built).items())


def test_validation_scores_the_average(make_trainer: MakeTrainer) -> None:
    """The same weights as a model of their own give the same validation loss."""
    built = make_trainer(parts=with_average(ExponentialMovingAverage(decay=0.9)), epochs=2)
    built.trainer.train()
    alone = make_trainer("alone", epochs=2)
    alone.trainer.learner.model.load_state_dict(averaged(built))
    assert built.trainer.validate(2) == alone.trainer.validate(2)


def test_there_is_no_average_before_its_first_epoch(make_trainer: MakeTrainer) -> None:
    built = make_trainer(parts=with_average(StochasticWeightAveraging(from_epoch=3)), epochs=2)
    built.trainer.train()
    assert built.trainer.learner.eval_model() is built.trainer.learner.model
    assert read_checkpoint(built.folder / "last.pth")["answers_with"] == "model"


@pytest.mark.parametrize(
    "make", [lambda: ExponentialMovingAverage(decay=0.9), lambda: StochasticWeightAveraging(from_epoch=2)]
)
def test_a_resumed_average_equals_an_uninterrupted_one(make_trainer: MakeTrainer, make: Any) -> None:
    whole = make_trainer("whole", parts=with_average(make()), epochs=4)
    whole.trainer.train()
    first = make_trainer("first", parts=with_average(make()), epochs=2)
    first.trainer.train()
    second = make_trainer(
        "first", resume=read_checkpoint(first.folder / "last.pth"), parts=with_average(make()), epochs=4
    )
    second.trainer.train()
    for name, tensor in averaged(whole).items():
        assert torch.equal(tensor, averaged(second)[name]), name
    assert whole.metrics_file.read_bytes() == second.metrics_file.read_bytes()
