"""Sharpness-aware minimisation against a closed form and a second implementation; and what it must not change."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from trainer.sharpness_aware import SharpnessAware


class Net(nn.Module):
    """With every kind of statistics that a forward pass in training changes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
            nn.BatchNorm2d(4, momentum=None),  # the mean over all batches
            nn.Flatten(),
            nn.Dropout(0.3),
        )
        self.head = nn.Linear(64, 3)
        self.unused = nn.Linear(2, 2)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(images))
        return logits


class WeightedLoss(nn.Module):
    """A criterion that learns, as head weights or ArcFace's matrix do."""

    def __init__(self) -> None:
        super().__init__()
        self.logarithm = nn.Parameter(torch.tensor(0.3))

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return torch.exp(-self.logarithm) * nn.functional.cross_entropy(logits, target) + self.logarithm


def make() -> nn.ModuleList:
    """The model and the criterion."""
    torch.manual_seed(0)
    return nn.ModuleList([Net(), WeightedLoss()])


def batches(number: int = 2) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    return [(torch.randn(5, 3, 6, 6), torch.randint(3, (5,))) for _ in range(number)]


def accumulate(both: nn.ModuleList, scaler: torch.amp.GradScaler | None = None, scale: float = 1.0) -> None:
    """The gradient of the mean loss over two batches, their dropout keyed by the batch."""
    net, criterion = both
    for number, (images, target) in enumerate(batches()):
        torch.manual_seed(number)
        loss = scale / 2 * criterion(net(images), target)
        (loss if scaler is None else scaler.scale(loss)).backward()


def state(both: nn.ModuleList) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in both.state_dict().items()}


def changed(both: nn.ModuleList, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in both.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("adaptive", [False, True])
def test_descent_on_a_quadratic_is_the_closed_form(adaptive: bool) -> None:
    """L = w A w / 2, whose gradient is A w everywhere."""
    torch.manual_seed(2)
    root = torch.randn(4, 4, dtype=torch.float64)
    matrix = root @ root.T
    module = nn.ParameterList([torch.randn(4, dtype=torch.float64)])
    weight, rho, rate = module[0], 0.3, 0.01
    sharpness_aware = SharpnessAware([module], rho, adaptive)
    optimizer = torch.optim.SGD([weight], lr=rate)
    expected = weight.detach().clone()
    for _ in range(10):
        (weight @ matrix @ weight / 2).backward()
        with sharpness_aware.perturbed_weights():
            (weight @ matrix @ weight / 2).backward()
        optimizer.step()
        optimizer.zero_grad()
        gradient = matrix @ expected
        scale = expected.abs() + 0.01 if adaptive else torch.ones(4, dtype=torch.float64)
        worst = expected + rho * scale**2 * gradient / (scale * gradient).norm()
        expected = expected - rate * matrix @ worst
        torch.testing.assert_close(weight.detach(), expected, rtol=1e-12, atol=1e-12)


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("fails", [False, True])
def test_weights_come_back_and_statistics_are_counted_once(fails: bool) -> None:
    both = make()
    accumulate(both)
    before = state(both)

    def second_pass() -> None:
        with SharpnessAware(both, 0.5).perturbed_weights():
            accumulate(both)
            assert {"0.head.weight", "0.body.1.running_mean", "1.logarithm"} <= changed(both, before)
            if fails:
                raise Interrupted

    if fails:
        with pytest.raises(Interrupted):
            second_pass()
    else:
        second_pass()
    assert changed(both, before) == set()
    assert int(before["0.body.1.num_batches_tracked"]) == 2


@pytest.mark.parametrize("wrong", [float("inf"), float("nan"), 3e38])
@pytest.mark.parametrize("adaptive", [False, True])
def test_a_gradient_that_is_not_finite_moves_nothing(wrong: float, adaptive: bool) -> None:
    """What float16 overflows to now and then, and the loss scaler then leaves out; also where only a norm overflows."""
    both = make()
    accumulate(both)
    before = state(both)
    for name in ("0.body.0.weight", "0.body.1.bias"):
        gradient = both.get_parameter(name).grad
        assert gradient is not None
        gradient[0] = wrong
    with SharpnessAware(both, 0.5, adaptive).perturbed_weights():
        assert changed(both, before) == set()
        assert all(parameter.grad is None for parameter in both.parameters())


def test_frozen_weights_are_not_perturbed() -> None:
    both = make()
    both.get_submodule("0.body").requires_grad_(False)
    accumulate(both)
    before = state(both)
    with SharpnessAware(both, 0.5).perturbed_weights():
        assert changed(both, before) == {"0.head.weight", "0.head.bias", "1.logarithm"}


@pytest.mark.parametrize("overflow", [False, True])
def test_updates_with_a_loss_scaler_are_plain_ones(overflow: bool) -> None:
    """GradScaler around both passes: the same update as without it, and none where the loss overflows."""

    def train(scaler: torch.amp.GradScaler, scale: float = 1.0) -> dict[str, Tensor]:
        both = make()
        optimizer = torch.optim.SGD(both.parameters(), lr=0.05)
        accumulate(both, scaler, scale)
        with SharpnessAware(both, 0.1).perturbed_weights():
            accumulate(both, scaler, scale)
        scaler.step(optimizer)
        scaler.update()
        return {name: parameter.detach() for name, parameter in both.named_parameters()}

    scaled = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    found = train(scaled, 3e38 if overflow else 1.0)
    expected = dict(make().named_parameters()) if overflow else train(torch.amp.GradScaler("cpu", enabled=False))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value.detach(), rtol=1e-4, atol=0 if overflow else 1e-6)
    assert scaled.get_scale() == (2.0**11 if overflow else 2.0**12)
