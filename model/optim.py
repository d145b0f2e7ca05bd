"""The optimizers that a config may name, and how they are put together with a model.

torch's and timm's under their names and with their arguments; where both have a name, torch's is meant, but for Muon,
which torch's has for matrices only. Left out is what one plain step a batch does not serve: closures (LBFGS), second
derivatives (Adahessian), sparse gradients (SparseAdam), full batches (Rprop), averages that nobody reads (ASGD), steps
that draw random numbers (Kron).

Some of timm's leave open what their arguments may be; the classes below say it, and change nothing else.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypedDict

import timm.optim
import torch
from pydantic import ConfigDict, Field, with_config
from timm.optim import MADGRAD, SGDW, Adan, Adopt, LaProp, Lars, Lion, Lookahead, NAdamW, RMSpropTF
from torch.nn import Parameter
from torch.optim import SGD, Adadelta, Adafactor, Adagrad, Adam, Adamax, AdamW, NAdam, Optimizer, RAdam, RMSprop

from base.base_model import BaseModel
from model.parameter_groups import parameter_groups
from utils.config.signatures import NonNegativeFloat, PositiveFloat, PositiveInt

__all__ = [  # noqa: RUF022 - torch's come first
    "SGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop",
    "AdaBelief", "AdafactorBigVision", "AdamP", "Adan", "Adopt", "LaProp", "Lamb", "Lars", "Lion", "MADGRAD", "Mars",
    "Muon", "NAdamW", "NvNovoGrad", "RMSpropTF", "SGDP", "SGDW",
]  # fmt: skip

PROGRAMS_ARGUMENTS = ("params", "capturable", "differentiable", "maximize", "adamw_lr", "verbose")
"""Arguments that a config may not give: they are for CUDA graphs, for gradients of the step itself, or for climbing, or
have a successor (Muon's adamw_lr)."""

Momentum = Annotated[float, Field(ge=0, lt=1)]
Betas = tuple[Momentum, Momentum]


class AdaBelief(timm.optim.AdaBelief):
    """Adam that divides by the gradient's deviation from its running mean (Zhuang et al. 2020); timm's."""

    def __init__(self, params: Any, lr: NonNegativeFloat = 1e-3, betas: Betas = (0.9, 0.999), **others: Any) -> None:
        super().__init__(params, lr, betas, **others)


class AdafactorBigVision(timm.optim.AdafactorBigVision):
    """Adafactor as big_vision trains ViTs with it, its momentum in half precision (Zhai et al. 2022); timm's."""

    def __init__(
        self,
        params: Any,
        lr: NonNegativeFloat = 1.0,
        decay_rate: PositiveFloat = 0.8,
        beta2_cap: Momentum = 0.999,
        momentum_dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16",
        eps: PositiveFloat | None = None,
        **others: Any,
    ) -> None:
        super().__init__(
            params, lr, decay_rate=decay_rate, beta2_cap=beta2_cap, momentum_dtype=momentum_dtype, eps=eps, **others
        )


class AdamP(timm.optim.AdamP):
    """Adam whose step leaves out what only lengthens a weight that a norm rescales (Heo et al. 2021); timm's."""

    def __init__(
        self,
        params: Any,
        lr: NonNegativeFloat = 1e-3,
        betas: Betas = (0.9, 0.999),
        eps: NonNegativeFloat = 1e-8,
        weight_decay: NonNegativeFloat = 0.0,
        **others: Any,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, **others)


class Lamb(timm.optim.Lamb):
    """Adam whose step is scaled, layer by layer, to the weights' norm, for large batches (You et al. 2020); timm's."""

    def __init__(self, params: Any, lr: NonNegativeFloat = 1e-3, betas: Betas = (0.9, 0.999), **others: Any) -> None:
        super().__init__(params, lr, betas=betas, **others)


class Mars(timm.optim.Mars):
    """Adam or Lion on gradients of reduced variance (Yuan et al. 2024); timm's."""

    def __init__(
        self,
        params: Any,
        lr: NonNegativeFloat = 3e-3,
        mars_type: Literal["adamw", "lion"] = "adamw",
        betas_1d: Betas | None = None,
        **others: Any,
    ) -> None:
        super().__init__(params, lr, mars_type=mars_type, betas_1d=betas_1d, **others)


class Muon(timm.optim.Muon):
    """Momentum made orthogonal, for matrices and convolutions; AdamW for norms and biases (Jordan et al. 2024); timm's.

    Raises ValueError for an adjust_lr_fn that the algo does not have.
    """

    def __init__(
        self,
        params: Any,
        lr: NonNegativeFloat = 0.02,
        ns_coefficients: Literal["original", "quintic", "polar_express", "polar_express_safer"] = "quintic",
        safety_factor: Annotated[float, Field(ge=1)] = 1.0,
        adjust_lr_fn: Literal["original", "match_rms_adamw", "rms_to_rms", "rsqrt_in"] | None = "match_rms_adamw",
        conv_mode: Literal["flatten", "batched"] = "flatten",
        betas: Betas = (0.9, 0.95),
        algo: Literal["muon", "adamuon"] = "muon",
        **others: Any,
    ) -> None:
        foreign = {"muon": "rsqrt_in", "adamuon": "original"}[algo]
        if adjust_lr_fn == foreign:
            raise ValueError(f'adjust_lr_fn = "{adjust_lr_fn}" is not one that algo = "{algo}" has; choose another')
        super().__init__(
            params,
            lr,
            ns_coefficients=ns_coefficients,
            safety_factor=safety_factor,
            adjust_lr_fn=adjust_lr_fn,
            conv_mode=conv_mode,
            betas=betas,
            algo=algo,
            **others,
        )


class NvNovoGrad(timm.optim.NvNovoGrad):
    """Momentum on gradients divided by their layer's running norm (Ginsburg et al. 2019); timm's."""

    def __init__(self, params: Any, lr: NonNegativeFloat = 1e-3, betas: Betas = (0.95, 0.98), **others: Any) -> None:
        super().__init__(params, lr, betas, **others)


class SGDP(timm.optim.SGDP):
    """SGD whose step leaves out what only lengthens a weight that a norm rescales (Heo et al. 2021); timm's."""

    def __init__(self, params: Any, lr: NonNegativeFloat, eps: NonNegativeFloat = 1e-8, **others: Any) -> None:
        super().__init__(params, lr, eps=eps, **others)


@with_config(ConfigDict(extra="forbid", strict=True))
class LookaheadSettings(TypedDict, total=False):
    """timm's Lookahead (Zhang et al. 2019): every k updates the weights go back to slow_weights + alpha * (weights -
    slow_weights), which are the new slow weights. Its first slow weights are those after k updates.

    alpha: above 0, at most 1, default 0.5; k: default 6.
    """

    alpha: Annotated[float, Field(gt=0, le=1)]
    k: PositiveInt


@with_config(ConfigDict(extra="forbid", strict=True))
class SharpnessAwareSettings(TypedDict, total=False):
    """See trainer/sharpness_aware.py. rho: default 0.05; adaptive: default false."""

    rho: PositiveFloat
    adaptive: bool


@dataclass(frozen=True)
class OptimizerSettings:
    """Beside an optimizer's type and args.

    decay_norms_and_biases: false takes weight decay off norms, biases and other parameters of one dimension, and off
    those that the model itself exempts; layer_decay: each stage of the backbone learns with this times the rate of the
    one above it, the topmost with this times the heads' rate, which is lr (None: all learn with lr); lookahead and
    sharpness_aware: {} turns them on with their defaults.
    """

    decay_norms_and_biases: bool = True
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = None
    lookahead: LookaheadSettings | None = None
    sharpness_aware: SharpnessAwareSettings | None = None


def build_optimizer(
    make: Callable[[list[dict[str, Any]]], Optimizer],
    model: BaseModel,
    further: Iterable[Parameter] = (),
    settings: OptimizerSettings | None = None,
) -> Optimizer:
    """The optimizer of all of a model's parameters (also of the frozen ones, which may be unfrozen later), and of
    `further` ones, the criterion's own, which learn with the full rate and do not decay.

    make: from parameter groups, as torch has them, to the optimizer. With plain settings and nothing further there is
    one group, `model.parameters()`. Sharpness-aware minimisation is not the optimizer's: see the trainer.
    Raises ValueError for a layer_decay where the model has no stages."""
    settings = settings or OptimizerSettings()
    groups = parameter_groups(model, settings.decay_norms_and_biases, settings.layer_decay)
    own = list(further)
    if own:
        groups.append({"params": own, "weight_decay": 0.0})
    optimizer = make(groups)
    for group in optimizer.param_groups:
        group["lr"] *= group.get("lr_scale", 1.0)
    return optimizer if settings.lookahead is None else Lookahead(optimizer, **settings.lookahead)


def fused_argument(
    optimizer: Callable[..., Optimizer], arguments: Mapping[str, Any], device: torch.device
) -> dict[str, bool]:
    """What to add to the config's `arguments` of an optimizer for a model on `device`: on a GPU {"fused": True}, one
    kernel for all parameters, where it has that and the config leaves it open; {} otherwise.

    On a CPU the fused step rounds differently from the plain one, and gains little beside the model."""
    open_to = inspect.signature(optimizer).parameters.keys() - arguments.keys()
    return {"fused": True} if device.type == "cuda" and {"fused", "foreach"} <= open_to else {}
