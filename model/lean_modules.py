"""timm's modules with fewer passes over memory when they are trained; values and gradients are the same bits.

On a CPU, and in a GPU's element-wise kernels, such passes are what a step of a small network waits for."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import EffectiveSEModule, SEModule
from timm.models._efficientnet_blocks import SqueezeExcite
from torch import Tensor, nn
from torch.nn import functional


class _SpatialMean(torch.autograd.Function):
    """images.mean((2, 3), keepdim=True), whose gradient is a view that repeats one number a channel.

    torch makes a whole tensor of it, laid out in its own order, which then costs as much again to add to the other
    gradient of the images: a tenth of a step of efficientnet_b0, channels_last."""

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        ctx.shape = images.shape
        return images.mean((2, 3), keepdim=True)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        height, width = ctx.shape[2:]
        return (gradient / (height * width)).expand(ctx.shape)


def _spatial_mean(images: Tensor) -> Tensor:
    if torch.compiler.is_compiling():  # which writes its own kernels
        return images.mean((2, 3), keepdim=True)
    mean: Tensor = _SpatialMean.apply(images)
    return mean


class LeanSqueezeExcite(SqueezeExcite):
    """The gate of EfficientNets and MobileNets."""

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = self.gate(self.conv_expand(self.act1(self.conv_reduce(_spatial_mean(x)))))
        return x * gate


class LeanSEModule(SEModule):
    """The gate of RegNets and SE-ResNets."""

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = self.gate(self.fc2(self.act(self.bn(self.fc1(_spatial_mean(x))))))
        return x * gate


class LeanEffectiveSEModule(EffectiveSEModule):
    """The gate of VoVNets."""

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = self.gate(self.fc(_spatial_mean(x)))
        return x * gate


def _in_place(module: Any, images: Tensor) -> bool:
    """What is written over is copied first where its gradient will ask for it: then it is not worth it."""
    return module.inplace and not (torch.is_grad_enabled() and images.requires_grad)


class LeanSiLU(nn.SiLU):
    """In place only without gradients."""

    def forward(self, input: Tensor) -> Tensor:
        return functional.silu(input, inplace=_in_place(self, input))


class LeanHardswish(nn.Hardswish):
    """In place only without gradients."""

    def forward(self, input: Tensor) -> Tensor:
        return functional.hardswish(input, inplace=_in_place(self, input))


class LeanMish(nn.Mish):
    """In place only without gradients."""

    def forward(self, input: Tensor) -> Tensor:
        return functional.mish(input, inplace=_in_place(self, input))


LEAN_MODULES: dict[type[nn.Module], type[nn.Module]] = {
    EffectiveSEModule: LeanEffectiveSEModule,
    SEModule: LeanSEModule,
    SqueezeExcite: LeanSqueezeExcite,
    nn.Hardswish: LeanHardswish,
    nn.Mish: LeanMish,
    nn.SiLU: LeanSiLU,
}
"""By the very class that is replaced."""


def use_lean_modules(model: nn.Module) -> None:
    """Makes each module of these very classes its lean twin, in place; all else about it is as it was.

    A gate that looks at maxima too is left as it is."""
    for module in model.modules():
        lean = LEAN_MODULES.get(type(module))
        if lean is not None and not getattr(module, "add_maxpool", False):
            module.__class__ = lean
