"""An optimizer's state beside its parameters: on their device, and laid out in memory as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def load_optimizer_state(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Loads what `state_dict` gave, on whatever device; which kernels it steps with, and how tensors lie in memory,
    remain its own."""
    groups = [
        {**group, **{key: own[key] for key in ("fused", "foreach") if key in own}}
        for group, own in zip(saved["param_groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict({**saved, "param_groups": groups})
    lay_out_as_parameters(optimizer)


def lay_out_as_parameters(optimizer: torch.optim.Optimizer) -> None:
    """What the state holds for each element of a parameter, in the order in memory that the parameter has now: the
    fused kernels on a GPU refuse another."""
    stepping = getattr(optimizer, "_base_optimizer", optimizer)  # timm's Lookahead has no state of its own
    for parameter, state in stepping.state.items():
        for name, value in state.items():
            if _lies_otherwise(value, parameter):
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _lies_otherwise(value: Any, parameter: Tensor) -> bool:
    """Whether it belongs to the parameter's elements, one by one, in another order in memory."""
    return isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride()
