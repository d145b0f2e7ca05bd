"""Lean modules give timm's values and gradients, bit for bit, in fewer passes over memory."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from timm.layers import EffectiveSEModule, SEModule
from timm.models._efficientnet_blocks import SqueezeExcite
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from model.lean_modules import use_lean_modules

CHANNELS = 16
Make = Callable[[], nn.Module]

MODULES: dict[str, Make] = {
    "SqueezeExcite": lambda: SqueezeExcite(CHANNELS),
    "SqueezeExcite of SiLU": lambda: SqueezeExcite(CHANNELS, act_layer=nn.SiLU),
    "SEModule": lambda: SEModule(CHANNELS),
    "SEModule with a norm": lambda: SEModule(CHANNELS, norm_layer=nn.BatchNorm2d),
    "EffectiveSEModule": lambda: EffectiveSEModule(CHANNELS),
    "SiLU": nn.SiLU,
    "SiLU in place": lambda: nn.SiLU(inplace=True),
    "Hardswish in place": lambda: nn.Hardswish(inplace=True),
    "Mish in place": lambda: nn.Mish(inplace=True),
}


def twins(make: Make) -> tuple[nn.Module, nn.Module]:
    """timm's or torch's, and ours of the same weights."""
    torch.manual_seed(0)
    plain = make()
    ours = copy.deepcopy(plain)
    use_lean_modules(ours)
    assert type(ours) is not type(plain)
    assert isinstance(ours, type(plain))
    return plain, ours


def outcome(module: nn.Module, images: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """The output, and the gradients of the images and the parameters; the images are used by the module alone, and
    come from a computation, as in a network."""
    given = images.clone().requires_grad_()
    with torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
        outputs = module((given * 1.5).to(dtype))
    factors = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(2)).to(outputs.dtype)
    gradients = torch.autograd.grad((outputs * factors).float().sum(), [given, *module.parameters()])
    return [outputs.detach(), *gradients]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("name", MODULES)
def test_values_and_gradients_are_the_same_bits(name: str, layout: torch.memory_format, dtype: torch.dtype) -> None:
    plain, ours = twins(MODULES[name])
    images = torch.randn(3, CHANNELS, 6, 5, generator=torch.Generator().manual_seed(1)).to(memory_format=layout)
    for mine, theirs in zip(outcome(ours, images, dtype), outcome(plain, images, dtype), strict=True):
        assert torch.equal(mine, theirs)
    with torch.no_grad():
        assert torch.equal(ours(images.clone()), plain(images.clone()))


@pytest.mark.parametrize("make", [nn.SiLU, nn.Hardswish, nn.Mish])
def test_in_place_only_without_gradients(make: Callable[..., nn.Module]) -> None:
    _, ours = twins(lambda: make(inplace=True))
    leaf = torch.randn(4, requires_grad=True)
    images = leaf * 1
    before = images.detach().clone()
    ours(images).sum().backward()
    assert torch.equal(images, before)
    with torch.no_grad():
        assert ours(images).data_ptr() == images.data_ptr()
    free = torch.randn(4)
    assert ours(free).data_ptr() == free.data_ptr()  # no gradient is wanted of it


def test_double_gradients_are_right() -> None:
    _, ours = twins(lambda: SqueezeExcite(CHANNELS, act_layer=nn.SiLU))
    images = torch.randn(2, CHANNELS, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(ours.double(), (images,), fast_mode=True)


@pytest.mark.parametrize("make", [lambda: SEModule(CHANNELS, add_maxpool=True), lambda: nn.GELU(), lambda: nn.ReLU()])
def test_others_are_left_as_they_are(make: Make) -> None:
    module = make()
    kind = type(module)
    use_lean_modules(module)
    assert type(module) is kind


def operations(model: nn.Module, images: Tensor) -> dict[str, int]:
    """How often the operations ran that a step forward and back is made of."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        model(images).square().sum().backward()
    return {event.key: event.count for event in found.key_averages()}


@pytest.mark.parametrize("model_name", ["efficientnet_b0", "regnety_002", "mobilenetv3_small_050"])
def test_models_take_fewer_passes_to_the_same_end(model_name: str) -> None:
    torch.manual_seed(0)
    plain = timm.create_model(model_name, num_classes=3).to(memory_format=torch.channels_last)
    ours = copy.deepcopy(plain)
    use_lean_modules(ours)
    copied: Any = pickle.loads(pickle.dumps(ours))
    images = torch.randn(2, 3, 64, 64).to(memory_format=torch.channels_last)
    counts = {name: operations(model, images) for name, model in (("plain", plain), ("ours", ours))}
    copied(images).square().sum().backward()
    for model in (ours, copied):
        assert model.state_dict().keys() == plain.state_dict().keys()
        for mine, theirs in zip(model.parameters(), plain.parameters(), strict=True):
            assert mine.grad is not None
            assert torch.equal(mine.grad, theirs.grad)
    assert counts["ours"].get("aten::clone", 0) < counts["plain"].get("aten::clone", 1)
