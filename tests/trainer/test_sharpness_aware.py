"""Sharpness-aware minimisation against a closed form and a second implementation; and what it must leave alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

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


def make() -> tuple[Net, WeightedLoss]:
    torch.manual_seed(0)
    return Net(), WeightedLoss()


def batches(number: int = 2) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    return [(torch.randn(5, 3, 6, 6), torch.randint(3, (5,))) for _ in range(number)]


def accumulate(net: Net, criterion: WeightedLoss, scale: float = 1.0) -> None:
    """The gradient of the mean loss over two batches, their dropout keyed by the batch."""
    for number, (images, target) in enumerate(batches()):
        torch.manual_seed(number)
        (scale / 2 * criterion(net(images), target)).backward()


def sharpness_aware_gradients(
    net: Net, criterion: WeightedLoss, sharpness_aware: SharpnessAware, scale: float = 1.0
) -> dict[str, Tensor]:
    accumulate(net, criterion, scale)
    with sharpness_aware.perturbed_weights():
        accumulate(net, criterion, scale)
    named = [*net.named_parameters(), *criterion.named_parameters()]
    return {name: parameter.grad.clone() for name, parameter in named if parameter.grad is not None}


def state(*modules: nn.Module) -> dict[str, Tensor]:
    return {
        f"{number}.{name}": tensor.clone()
        for number, module in enumerate(modules)
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]
    }


def assert_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


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


@pytest.mark.parametrize(("rho", "adaptive"), [(0.05, False), (0.7, False), (0.5, True)])
def test_gradients_are_those_of_a_second_implementation(rho: float, adaptive: bool) -> None:
    """Without touching the weights: the network as a function of them, and gradients of that function."""
    net, criterion = make()
    learned = {name: parameter.detach() for name, parameter in [*net.named_parameters(), *criterion.named_parameters()]}

    def loss(values: dict[str, Tensor]) -> Tensor:
        total = torch.zeros(())
        for number, (images, target) in enumerate(batches()):
            torch.manual_seed(number)
            own = {name: value for name, value in values.items() if name != "logarithm"}
            buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}
            logits = functional_call(net, {**own, **buffers}, (images,))
            total = total + functional_call(criterion, {"logarithm": values["logarithm"]}, (logits, target)) / 2
        return total

    def gradient(values: dict[str, Tensor]) -> dict[str, Tensor]:
        leaves = {name: value.clone().requires_grad_() for name, value in values.items()}
        found = torch.autograd.grad(loss(leaves), list(leaves.values()), allow_unused=True)
        return {name: each for name, each in zip(leaves, found, strict=True) if each is not None}

    uphill = gradient(learned)
    scale = {name: learned[name].abs() + 0.01 if adaptive else 1.0 for name in uphill}
    norm = sum(float((scale[name] * each).square().sum()) for name, each in uphill.items()) ** 0.5
    worst = {name: learned[name] + rho * scale[name] ** 2 * each / norm for name, each in uphill.items()}
    expected = gradient({**learned, **worst})
    found = sharpness_aware_gradients(net, criterion, SharpnessAware([net, criterion], rho, adaptive))
    assert found.keys() == expected.keys()
    assert "unused.weight" not in found
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-5)
    plain = uphill["body.0.weight"]
    assert not torch.allclose(found["body.0.weight"], plain, rtol=1e-3, atol=1e-5), "the comparison can fail"


def test_weights_come_back_and_statistics_are_counted_once() -> None:
    net, criterion = make()
    other, other_criterion = make()
    accumulate(other, other_criterion)
    sharpness_aware_gradients(net, criterion, SharpnessAware([net, criterion], 0.5))
    assert_equal(state(net, criterion), state(other, other_criterion))
    assert int(net.body[1].num_batches_tracked) == 2  # type: ignore[arg-type]


class Interrupted(Exception):
    pass


def test_weights_come_back_when_the_second_pass_fails() -> None:
    net, criterion = make()
    accumulate(net, criterion)
    before = state(net, criterion)
    images, target = batches()[0]

    def second_pass() -> None:
        with SharpnessAware([net, criterion], 0.5).perturbed_weights():
            criterion(net(images), target)
            changed = {name for name, value in state(net, criterion).items() if not torch.equal(value, before[name])}
            assert {"0.head.weight", "0.body.1.running_mean", "1.logarithm"} <= changed
            raise Interrupted

    with pytest.raises(Interrupted):
        second_pass()
    assert_equal(state(net, criterion), before)


@pytest.mark.parametrize("wrong", [float("inf"), float("nan"), 3e38])
@pytest.mark.parametrize("adaptive", [False, True])
def test_a_gradient_that_is_not_finite_moves_nothing(wrong: float, adaptive: bool) -> None:
    """What float16 overflows to now and then, and the loss scaler then leaves out; also where only a norm overflows."""
    net, criterion = make()
    accumulate(net, criterion)
    before = state(net, criterion)
    for parameter in (net.body[0].weight, net.body[1].bias):
        assert isinstance(parameter, nn.Parameter)
        assert parameter.grad is not None
        parameter.grad[0] = wrong
    with SharpnessAware([net, criterion], 0.5, adaptive).perturbed_weights():
        assert_equal(state(net, criterion), before)
        assert all(parameter.grad is None for parameter in (*net.parameters(), criterion.logarithm))
    assert_equal(state(net, criterion), before)


def test_what_is_frozen_stays_where_it_is() -> None:
    net, criterion = make()
    net.body.requires_grad_(False)
    accumulate(net, criterion)
    before = state(net, criterion)
    with SharpnessAware([net, criterion], 0.5).perturbed_weights():
        moved = {name for name, value in state(net, criterion).items() if not torch.equal(value, before[name])}
    head = {name for name, _ in net.named_parameters() if name.startswith("head.")}
    assert moved == {f"0.{name}" for name in head} | {"1.logarithm"}


@pytest.mark.parametrize("overflow", [False, True])
def test_updates_with_a_loss_scaler_are_plain_ones(overflow: bool) -> None:
    """GradScaler around both passes: the same update as without it, and none where the loss overflows."""

    def train(scaler: torch.amp.GradScaler, broken: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        net, criterion = make()
        sharpness_aware = SharpnessAware([net, criterion], 0.1)
        optimizer = torch.optim.SGD([*net.parameters(), *criterion.parameters()], lr=0.05)
        images, target = batches()[0]

        def backward() -> None:
            torch.manual_seed(0)
            scaler.scale(broken(criterion(net(images), target))).backward()

        backward()
        with sharpness_aware.perturbed_weights():
            backward()
        scaler.step(optimizer)
        scaler.update()
        return {name: parameter.detach() for name, parameter in net.named_parameters()}

    def as_it_is(loss: Tensor) -> Tensor:
        return loss

    scaled: Any = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    if overflow:
        net, _ = make()
        after = train(scaled, lambda loss: loss * 3e38)
        assert_equal(after, {name: parameter.detach() for name, parameter in net.named_parameters()})
        assert scaled.get_scale() == 2.0**11
    else:
        plain = train(torch.amp.GradScaler("cpu", enabled=False), as_it_is)
        for name, value in train(scaled, as_it_is).items():
            torch.testing.assert_close(value, plain[name], rtol=1e-4, atol=1e-6)
