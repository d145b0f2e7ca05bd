"""The optimizers that a config may name, torch's and timm's, and their parameter groups.

Where both libraries have a name it is torch's, but for Muon, which torch has for matrices only. Left out are optimizers
that need more than one plain step a batch (LBFGS, Adahessian, SparseAdam, Rprop, ASGD) or draw random numbers (Kron).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveInt
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

__all__ = [  # noqa: RUF022 - torch's come first
    "SGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop",
    "AdaBelief", "AdafactorBigVision", "AdamP", "Adan", "Adopt", "LaProp", "Lamb", "Lars", "Lion", "MADGRAD", "Mars",
    "Muon", "NAdamW", "NvNovoGrad", "RMSpropTF", "SGDP", "SGDW",
]  # fmt: skip

PROGRAMS_ARGUMENTS = ("params", "capturable", "differentiable", "maximize", "adamw_lr", "verbose")
"""Arguments that a config may not set."""


def lookahead(optimizer: Optimizer, alpha: Annotated[float, Field(gt=0, le=1)] = 0.5, k: PositiveInt = 6) -> Lookahead:
    """timm's Lookahead (Zhang et al. 2019): every k updates the weights become slow_weights + alpha * (weights -
    slow_weights), which are the new slow weights. The first slow weights are those after k updates.

    alpha: step size of the slow weights
    k: updates between two steps of the slow weights
    """
    return Lookahead(optimizer, alpha, k)


@dataclass(frozen=True)
class OptimizerSettings:
    """Settings of an optimizer beside its type and args.

    decay_norms_and_biases: false turns weight decay off for norms, biases and other parameters of one dimension, and
        for those that the model itself exempts
    layer_decay: the learning rate of each stage of the backbone is this times that of the stage above it, the last
        stage's this times lr; null: all learn with lr
    """

    decay_norms_and_biases: bool = True
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = None


def build_optimizer(
    make: Callable[[list[dict[str, Any]]], Optimizer],
    model: BaseModel,
    of_criterion: Iterable[Parameter] = (),
    settings: OptimizerSettings | None = None,
) -> Optimizer:
    """The optimizer of all of a model's parameters, frozen ones included.

    make: from torch's parameter groups to the optimizer
    of_criterion: its parameters, which learn with the full rate and do not decay

    Raises ValueError for a layer_decay where the model has no stages."""
    settings = settings or OptimizerSettings()
    groups = parameter_groups(model, settings.decay_norms_and_biases, settings.layer_decay)
    if own := list(of_criterion):
        groups.append({"params": own, "weight_decay": 0.0})
    optimizer = make(groups)
    for group in optimizer.param_groups:
        group["lr"] *= group.get("lr_scale", 1.0)
    return optimizer


def parameter_groups(
    model: BaseModel, decay_norms_and_biases: bool = True, layer_decay: float | None = None
) -> list[dict[str, Any]]:
    """The model's parameters in torch's groups, with "weight_decay": 0 for those that do not decay.

    With layer_decay they have "lr_scale", the factor of the learning rate, which `build_optimizer` applies."""
    scales = {} if layer_decay is None else rate_scales(model, layer_decay)
    undecayed = set() if decay_norms_and_biases else _without_decay(model)
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
    """By parameter, layer_decay for the last stage, its square for the one before, ...  (BEiT, Bao et al. 2021).

    What is in no stage has the full rate. Raises ValueError if the model has no stages."""
    stages = model.stages()
    if not stages:
        raise ValueError(f"layer_decay = {layer_decay}: {model.title()} has no stages; leave it out")
    return {name: layer_decay**number for number, names in enumerate(reversed(stages), start=1) for name in names}


def _without_decay(model: nn.Module) -> set[str]:
    """Norms' parameters, biases, and those in the `no_weight_decay()` of timm's models, names which may contain *."""
    exempt = []
    for prefix, module in model.named_modules():
        listed: Callable[[], Iterable[str]] = getattr(module, "no_weight_decay", tuple)
        exempt += [f"{prefix}.{name}" if prefix else name for name in listed()]
    return {
        name
        for name, parameter in model.named_parameters()
        if parameter.ndim <= 1 or name.endswith(".bias") or any(fnmatchcase(name, pattern) for pattern in exempt)
    }


def dry_run(make: Callable[[list[Parameter]], Optimizer]) -> None:
    """Makes an optimizer of a matrix and a vector, and takes a step with it: some check arguments only then.

    Raises ValueError for a number out of its range, which some of timm's accept, and what the library raises."""
    parameters = [Parameter(torch.zeros(4, 4)), Parameter(torch.zeros(4))]
    optimizer = make(parameters)
    for name, value in optimizer.param_groups[0].items():
        numbers = [each for each in (value if isinstance(value, list | tuple) else [value]) if _is_number(each)]
        if name in ("lr", "weight_decay", "eps") and any(number < 0 for number in numbers):
            raise ValueError(f"{name} = {value} must be at least 0")
        if name in ("momentum", "betas", "betas_1d") and any(not 0 <= number < 1 for number in numbers):
            raise ValueError(f"{name} = {value} must be at least 0 and below 1")
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def fused_argument(
    optimizer: Callable[..., Optimizer], arguments: Mapping[str, Any], device: torch.device
) -> dict[str, bool]:
    """{"fused": True}, one kernel for all parameters, on a GPU if the optimizer has it and `arguments` leave it open;
    else {}. On a CPU the fused step rounds differently, and gains little."""
    left_open = inspect.signature(optimizer).parameters.keys() - {
        name for name, value in arguments.items() if value is not None
    }
    return {"fused": True} if device.type == "cuda" and {"fused", "foreach"} <= left_open else {}
