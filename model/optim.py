"""The optimizers that a config may name, and how they are put together with a model.

torch's and timm's under their names and with their arguments; where both have a name, torch's is meant, but for Muon,
which torch's has for matrices only. Left out is what one plain step a batch does not serve: closures (LBFGS), second
derivatives (Adahessian), sparse gradients (SparseAdam), full batches (Rprop), averages that nobody reads (ASGD), steps
that draw random numbers (Kron).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any

import torch
from pydantic import Field
from timm.optim import (
    MADGRAD,
    SGDP,
    SGDW,
    AdaBelief,
    AdafactorBigVision,
    AdamP,
    Adan,
    Adopt,
    Lamb,
    LaProp,
    Lars,
    Lion,
    Lookahead,
    Mars,
    Muon,
    NAdamW,
    NvNovoGrad,
    RMSpropTF,
)
from torch import nn
from torch.nn import Parameter
from torch.optim import SGD, Adadelta, Adafactor, Adagrad, Adam, Adamax, AdamW, NAdam, Optimizer, RAdam, RMSprop

from base.base_model import BaseModel
from utils.config.signatures import PositiveInt

__all__ = [  # noqa: RUF022 - torch's come first
    "SGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop",
    "AdaBelief", "AdafactorBigVision", "AdamP", "Adan", "Adopt", "LaProp", "Lamb", "Lars", "Lion", "MADGRAD", "Mars",
    "Muon", "NAdamW", "NvNovoGrad", "RMSpropTF", "SGDP", "SGDW",
]  # fmt: skip

PROGRAMS_ARGUMENTS = ("params", "capturable", "differentiable", "maximize", "adamw_lr", "verbose")
"""Arguments that a config may not give: they are for CUDA graphs, for gradients of the step itself, or for climbing, or
have a successor (Muon's adamw_lr)."""


def lookahead(optimizer: Optimizer, alpha: Annotated[float, Field(gt=0, le=1)] = 0.5, k: PositiveInt = 6) -> Lookahead:
    """timm's Lookahead (Zhang et al. 2019): every k updates the weights become slow_weights + alpha * (weights -
    slow_weights), which are the new slow weights. Its first slow weights are those after k updates.

    alpha: the part of the way that the slow weights go;
    k: updates between two such steps.
    """
    return Lookahead(optimizer, alpha, k)


@dataclass(frozen=True)
class OptimizerSettings:
    """Beside an optimizer's type and args.

    decay_norms_and_biases: false takes weight decay off norms, biases and other parameters of one dimension, and off
    those that the model itself exempts;
    layer_decay: each stage of the backbone learns with this times the rate of the one above it, the topmost with this
    times the heads' rate, which is lr; null: all learn with lr.
    """

    decay_norms_and_biases: bool = True
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = None


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
    return optimizer


def parameter_groups(
    model: BaseModel, decay_norms_and_biases: bool = True, layer_decay: float | None = None
) -> list[dict[str, Any]]:
    """The model's parameters as torch's optimizers take them, {"params": [...], ...}, none left out.

    A group whose rate is not to be the optimizer's own has "lr_scale", the factor (which whoever builds the optimizer
    applies); one that does not decay has "weight_decay": 0. Raises ValueError for a layer_decay of no stages."""
    scales = {} if layer_decay is None else rate_scales(model, layer_decay)
    undecayed = set() if decay_norms_and_biases else without_decay(model)
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        scale, decays = scales.get(name, 1.0), name not in undecayed
        group = groups.setdefault((scale, decays), {"params": []})
        group["params"].append(parameter)
        if not decays:
            group["weight_decay"] = 0.0
        if layer_decay is not None:
            group["lr_scale"] = scale
    return list(groups.values())


def rate_scales(model: BaseModel, layer_decay: float) -> dict[str, float]:
    """By parameter of a stage: layer_decay ** n, n = 1 for the last stage, 2 for the one below it, and so on.

    The layer-wise learning rates of BEiT (Bao et al. 2021). What is in no stage, such as the heads, has the full
    rate. Raises ValueError if the model has no stages. A model on the meta device will do."""
    if not model.stages():
        raise ValueError(f"layer_decay = {layer_decay}: {model.title()} has no stages; leave it out")
    return {
        name: layer_decay**number for number, names in enumerate(reversed(model.stages()), start=1) for name in names
    }


def without_decay(model: nn.Module) -> set[str]:
    """The parameters that weight decay would do no good: of one dimension or none (norms' and biases), named bias, or
    listed by the `no_weight_decay()` of timm's models (position embeddings, ...), which may hold * for any text."""
    exempt = []
    for prefix, module in model.named_modules():
        listed: Callable[[], Iterable[str]] | None = getattr(module, "no_weight_decay", None)
        exempt += [f"{prefix}.{name}" if prefix else name for name in (listed() if listed else ())]
    return {
        name
        for name, parameter in model.named_parameters()
        if parameter.ndim <= 1 or name.endswith(".bias") or any(fnmatchcase(name, pattern) for pattern in exempt)
    }


def dry_run(make: Callable[[list[Parameter]], Optimizer]) -> None:
    """Makes an optimizer of a matrix and a vector, and takes a step with it.

    Raises ValueError for a number out of its range, which some of timm's take in silence, and what the library raises:
    some look at their arguments only as they step."""
    parameters = [Parameter(torch.zeros(4, 4)), Parameter(torch.zeros(4))]
    optimizer = make(parameters)
    for name, value in optimizer.param_groups[0].items():
        values = value if isinstance(value, list | tuple) else [value]
        numbers = [each for each in values if isinstance(each, int | float)]
        if name in ("lr", "weight_decay", "eps") and any(number < 0 for number in numbers):
            raise ValueError(f"{name} = {value} must be at least 0")
        if name in ("momentum", "betas", "betas_1d") and any(not 0 <= number < 1 for number in numbers):
            raise ValueError(f"{name} = {value} must be at least 0 and below 1")
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()


def fused_argument(
    optimizer: Callable[..., Optimizer], arguments: Mapping[str, Any], device: torch.device
) -> dict[str, bool]:
    """What to add to the config's `arguments` of an optimizer for a model on `device`: on a GPU {"fused": True}, one
    kernel for all parameters, where it has that and the config leaves it open; {} otherwise.

    On a CPU the fused step rounds differently from the plain one, and gains little beside the model."""
    given = {name for name, value in arguments.items() if value is not None}
    open_to = inspect.signature(optimizer).parameters.keys() - given
    return {"fused": True} if device.type == "cuda" and {"fused", "foreach"} <= open_to else {}
