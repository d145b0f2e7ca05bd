"""Callbacks against plain loops of forward, backward and step; resumed exactly; named in their errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from base.base_callback import BaseCallback, Update
from model.loss import CrossEntropyLoss
from model.loss.multi_head import MultiHeadLoss
from tests.trainer.conftest import Built, MakeTrainer, MemoryLoader, SmallModel, assert_equal_states, train_until
from trainer.callbacks import AdversarialWeights, Callbacks, GradientNorm
from utils.errors import UserError

LR = 0.05


def criterion() -> MultiHeadLoss:
    return MultiHeadLoss({"mask": CrossEntropyLoss(), "age": CrossEntropyLoss()}, {"mask": 0.4, "age": 0.6})


class PlainLoop:
    """The same model and batches, in float64-free plain torch: gradients of an update of `accumulated` batches."""

    def __init__(self, model: SmallModel, loader: MemoryLoader, accumulated: int) -> None:
        self.model, self.loader, self.accumulated = model, loader, accumulated

    def updates(self) -> list[tuple[Tensor, dict[str, Tensor]]]:
        batches = list(self.loader.train_batches(1))
        groups = [batches[start : start + self.accumulated] for start in range(0, len(batches), self.accumulated)]
        joined = []
        for group in groups:
            images = torch.cat([batch.images for batch in group]).float() / 255
            targets = {name: torch.cat([batch.targets[name] for batch in group]) for name in group[0].targets}
            joined.append(((images - 0.5) / 0.25, targets))
        return joined

    def loss(self, images: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        outputs = self.model(images)
        terms = {"mask": 0.4, "age": 0.6}
        return sum(
            weight * nn.functional.cross_entropy(outputs[name], targets[name], ignore_index=-1)
            for name, weight in terms.items()
        )  # type: ignore[return-value]

    def gradients(self, images: Tensor, targets: Mapping[str, Tensor]) -> list[Tensor]:
        return list(torch.autograd.grad(self.loss(images, targets), list(self.model.parameters())))


def built(make_trainer: MakeTrainer, callback: BaseCallback, accumulated: int, **more: Any) -> tuple[Built, PlainLoop]:
    torch.manual_seed(5)
    model, loader = SmallModel(batch_norm=False, dropout=0.0), MemoryLoader()
    twin = SmallModel(batch_norm=False, dropout=0.0)
    twin.load_state_dict(model.state_dict())
    made = make_trainer(
        loader=loader, model=model, criterion=criterion(), optimizer=torch.optim.SGD, lr=LR, epochs=1,
        parts=lambda _: {"callbacks": [callback]}, accumulation_steps=accumulated, **more,
    )  # fmt: skip
    return made, PlainLoop(twin, loader, accumulated)


@pytest.mark.parametrize(("accumulated", "precision"), [(1, "float32"), (2, "float32"), (2, "float16")])
def test_the_gradients_norm(make_trainer: MakeTrainer, accumulated: int, precision: str) -> None:
    made, plain = built(make_trainer, GradientNorm(), accumulated, precision=precision, max_grad_norm=0.5)
    norms = []
    for images, targets in plain.updates():
        gradients = plain.gradients(images, targets)
        norms.append(sum(float(each.double().square().sum()) for each in gradients) ** 0.5)
        clipped = min(1.0, 0.5 / norms[-1])
        with torch.no_grad():
            for weight, gradient in zip(plain.model.parameters(), gradients, strict=True):
                weight.sub_(LR * clipped * gradient)
    metrics = made.trainer.train_epoch(1)
    found = made.trainer.learner.callbacks.end_epoch(1, metrics)
    rounding = 1e-4 if precision == "float32" else 0.02
    assert found["train/gradient_norm"] == pytest.approx(sum(norms) / len(norms), rel=rounding)
    assert found["train/largest_gradient_norm"] == pytest.approx(max(norms), rel=rounding)
    assert made.trainer.learner.callbacks.end_epoch(2, {}) == {}, "each epoch by itself"


@pytest.mark.parametrize("share", [1.0, 0.5])
@pytest.mark.parametrize("accumulated", [1, 2])
def test_the_adversarial_step(make_trainer: MakeTrainer, share: float, accumulated: int) -> None:
    made, plain = built(make_trainer, AdversarialWeights(radius=0.3, share=share), accumulated)
    for images, targets in plain.updates():
        weights = list(plain.model.parameters())
        own = plain.gradients(images, targets)
        before = [weight.detach().clone() for weight in weights]
        with torch.no_grad():
            for weight, gradient in zip(weights, own, strict=True):
                if weight.dim() >= 2:
                    weight.add_(0.3 * weight.norm() * gradient / gradient.norm())
        worst = plain.gradients(images, targets)
        with torch.no_grad():
            for weight, kept, gradient, other in zip(weights, before, own, worst, strict=True):
                weight.copy_(kept - LR * ((1 - share) * gradient + share * other))
    made.train()
    for name, weight in plain.model.state_dict().items():
        torch.testing.assert_close(made.state()[name], weight, rtol=1e-4, atol=1e-6)


def test_running_statistics_are_of_the_first_pass_alone(make_trainer: MakeTrainer) -> None:
    found = []
    for callbacks in ([], [AdversarialWeights(radius=0.5)]):
        torch.manual_seed(5)
        made = make_trainer(model=SmallModel(), epochs=1, lr=0.0, parts=lambda _, each=callbacks: {"callbacks": each})
        found.append(made.train().state())
    assert_equal_states(*found)


class LastUpdates(BaseCallback):
    """Counts the updates, and remembers the sum of the first weights after each."""

    metrics = {"train/updates": "max"}  # noqa: RUF012

    def __init__(self) -> None:
        self.count, self.sums = 0, torch.zeros(4)

    def after_update(self, update: Update) -> None:
        self.count += 1
        assert update.number == self.count
        self.sums = self.sums * 0.9 + next(update.model.parameters()).detach().sum(dim=(1, 2, 3))

    def end_epoch(self, epoch: int, metrics: Mapping[str, float]) -> Mapping[str, float]:
        assert "val/loss" in metrics
        return {"train/updates": self.count, "train/sums": float(self.sums.sum()) * epoch}

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "sums": self.sums}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.count, self.sums = state["count"], state["sums"]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("stop_after", [1, 4, 6])
def test_a_run_that_is_resumed_ends_as_one_that_was_not(
    make_trainer: MakeTrainer, precision: str, stop_after: int
) -> None:
    settings: dict[str, Any] = {
        "precision": precision,
        "accumulation_steps": 2,
        "monitor": "max train/sums",
        "parts": lambda _: {"callbacks": [GradientNorm(), AdversarialWeights(share=0.5, from_epoch=2), LastUpdates()]},
    }
    whole = make_trainer("whole", **settings).train()
    stopped = train_until(make_trainer("resumed", **settings), stop_after)
    resumed = make_trainer("resumed", resume=stopped, **settings).train()
    assert_equal_states(whole.state(), resumed.state())
    assert whole.metrics_file.read_text() == resumed.metrics_file.read_text()
    assert (whole.folder / "last.pth").read_bytes() == (resumed.folder / "last.pth").read_bytes()
    assert whole.trainer.monitor.best == resumed.trainer.monitor.best


class Failing(BaseCallback):
    def __init__(self, method: str) -> None:
        def fail(*_: Any) -> None:
            raise KeyError("wrong")

        setattr(self, method, fail)


@pytest.mark.parametrize("method", ["before_update", "after_update", "end_epoch", "state_dict"])
def test_an_error_names_the_callback(make_trainer: MakeTrainer, method: str) -> None:
    made = make_trainer(epochs=1, parts=lambda _: {"callbacks": [GradientNorm(), Failing(method)]})
    with pytest.raises(UserError) as caught:
        made.train()
    assert str(caught.value).startswith(f"callbacks.1 (Failing): {method} fails")
    assert "wrong" in str(caught.value)
    if method == "end_epoch":
        assert made.checkpoint()["completed_epochs"] == 1, "the epoch is not lost"
    if method == "state_dict":
        assert made.trainer.learner.updates == 0, "told before an epoch is lost with it"


def test_a_number_that_the_epoch_has_is_refused() -> None:
    class Improving(BaseCallback):
        def end_epoch(self, epoch: int, metrics: Mapping[str, float]) -> Mapping[str, float]:  # noqa: ARG002
            return {"val/loss": 0.0}

    with pytest.raises(UserError, match=r"callbacks.0 \(Improving\): end_epoch fails: .*val/loss, which the epoch has"):
        Callbacks([Improving()]).end_epoch(1, {"val/loss": 1.0})


def test_a_watched_number_that_is_not_given_is_a_warning(
    make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture
) -> None:
    make_trainer(epochs=2, monitor="max train/never").train()
    assert len([each for each in caplog.messages if each.startswith("train/never is watched, but")]) == 1


def test_a_state_that_no_checkpoint_can_hold_is_refused_when_it_is_saved() -> None:
    callback = BaseCallback()
    callback.state_dict = lambda: {"model": nn.Linear(1, 1)}  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"callbacks.0 \(BaseCallback\): state_dict fails.*Linear"):
        Callbacks([callback]).state_dict()
