"""Depthwise convolutions give torch's values, and gradients that are torch's but for rounding."""

from __future__ import annotations

import copy
import itertools
import pickle
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from model.depthwise import DepthwiseConv2d, use_fast_depthwise

CHANNELS = 16
BF16 = torch.bfloat16
HALF_STEP = 2**-8
"""How far rounding to bfloat16 moves a number, relative to it."""

Layer = tuple[nn.Conv2d, nn.Conv2d]


def layers(size: int, stride: int = 1, bias: bool = False, **options: Any) -> Layer:
    """Torch's, and ours of the same weights."""
    torch.manual_seed(0)
    options = {"padding": size // 2, **options}
    plain = nn.Conv2d(CHANNELS, CHANNELS, size, stride, groups=CHANNELS, bias=bias, **options)
    ours = copy.deepcopy(plain)
    use_fast_depthwise(ours)
    return plain, ours


def gradients(layer: nn.Conv2d, images: Tensor) -> list[Tensor]:
    """Outputs, and the gradients of images and parameters of a sum of them by random factors."""
    images = images.clone().requires_grad_()
    outputs = layer(images)
    factors = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(2)).to(outputs.dtype)
    found = torch.autograd.grad((outputs * factors).float().sum(), [images, *layer.parameters()])
    return [outputs.detach(), *found]


def photographs(side: int, dtype: torch.dtype = torch.float32, width: int | None = None) -> Tensor:
    images = torch.randn(3, CHANNELS, side, width or side, generator=torch.Generator().manual_seed(1))
    return images.to(dtype).to(memory_format=torch.channels_last)


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def functions_taken(outputs: Tensor) -> str:
    return type(outputs.grad_fn).__name__


CASES = [
    (size, stride, padding, side)
    for size, stride, side in itertools.product((3, 5, 7), (1, 2), (12, 13))
    for padding in {0, size // 2, size - 1}
] + [(7, 1, 3, 1), (5, 2, 2, 1)]


@pytest.mark.parametrize(("size", "stride", "padding", "side"), CASES)
def test_gradients_are_torchs(size: int, stride: int, padding: int, side: int) -> None:
    """But for what bfloat16 must round, or torch itself rounds on this processor: the truth is float64's, of the same
    rounded numbers."""
    plain, ours = (layer.to(BF16) for layer in layers(size, stride, bias=True, padding=padding))
    images = photographs(side, BF16, side + 3 if side > 3 else side)
    torchs, truth = gradients(plain, images), gradients(plain.double(), images.double())
    for found, theirs, expected in zip(gradients(ours, images), torchs, truth, strict=True):
        assert found.dtype == BF16
        assert relative_error(found, expected) <= max(1.5 * HALF_STEP, relative_error(theirs, expected))


def test_only_where_it_is_faster() -> None:
    ours = {(size, stride): layers(size, stride)[1] for size in (3, 5) for stride in (1, 2)}
    assert {functions_taken(layer(photographs(12))) for layer in ours.values()} == {"ConvolutionBackward0"}
    taken = {key: functions_taken(layer.to(BF16)(photographs(12, BF16))) for key, layer in ours.items()}
    assert {key for key, name in taken.items() if name == "_ConvolutionBackward"} == {(3, 2), (5, 1), (5, 2)}
    assert functions_taken(ours[5, 1](photographs(12, BF16).contiguous())) == "ConvolutionBackward0"
    with torch.no_grad():
        assert ours[5, 1](photographs(12, BF16)).grad_fn is None


@pytest.mark.parametrize(
    "options", [{"dilation": 2}, {"padding_mode": "reflect"}, {"padding": "same"}, {"padding": 5}], ids=str
)
def test_what_is_left_as_it_is(options: dict[str, Any]) -> None:
    assert type(layers(5, **options)[1]) is nn.Conv2d
    dense = nn.Sequential(nn.Conv2d(8, 8, 5), nn.Conv2d(8, 8, 5, groups=4), nn.Conv2d(8, 16, 5, groups=8))
    use_fast_depthwise(dense)
    assert {type(layer) for layer in dense} == {nn.Conv2d}
    same = timm.create_model("tf_efficientnet_b0", num_classes=0)  # with timm's own Conv2dSame where it is strided
    before = {name for name, module in same.named_modules() if type(module).__name__ == "Conv2dSame"}
    use_fast_depthwise(same)
    assert before == {name for name, module in same.named_modules() if type(module).__name__ == "Conv2dSame"} != set()


def test_a_model_is_the_same_but_for_its_gradients_roundings() -> None:
    torch.manual_seed(0)
    plain = timm.create_model("mobilenetv3_small_050", num_classes=3).to(memory_format=torch.channels_last)
    ours = copy.deepcopy(plain)
    use_fast_depthwise(ours)
    assert sum(isinstance(module, DepthwiseConv2d) for module in ours.modules()) == 11
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in plain.named_parameters()]
    images = torch.randn(4, 3, 64, 64).to(memory_format=torch.channels_last)
    copies = [copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))]
    with torch.no_grad():
        assert torch.equal(ours.eval()(images), plain.eval()(images))
    with torch.autocast("cpu", BF16):
        outputs = {model: model.train()(images) for model in (plain, ours, *copies)}
    for model in (ours, *copies):
        assert torch.equal(outputs[model], outputs[plain])
        assert model.state_dict().keys() == plain.state_dict().keys()
        assert all(torch.equal(value, plain.state_dict()[name]) for name, value in model.state_dict().items())
    for output in outputs.values():
        output.float().square().sum().backward()
    theirs = torch.cat([parameter.grad.flatten() for parameter in plain.parameters()])
    for model in (ours, *copies):
        assert relative_error(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]), theirs) < 0.05
