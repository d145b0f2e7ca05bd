"""How a model's parameters are grouped for an optimizer: by their stage's learning rate, and by whether they decay."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from base.base_model import BaseModel


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
