"""The loading of a checkpoint's weights into a model: every tensor, of the right shape, finite."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from utils.errors import CheckpointError

logger = logging.getLogger(__name__)

WRAPPERS = ("module.", "_orig_mod.")


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Loads `weights`, read from the checkpoint `path`, into `model`.

    Raises CheckpointError naming the layers that are missing, unknown, of another shape, of another kind of numbers, or
    not finite, and leaves the model as it was. Weights in half precision are taken, with a warning. What torch's
    wrappers put before every name is taken off."""
    expected = model.state_dict()
    if not isinstance(weights, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in weights.items()
    ):
        raise CheckpointError(f"{path}: holds no weights by name where they should be; use an earlier checkpoint")
    weights = without_wrappers(weights)
    lacking, unknown = expected.keys() - weights.keys(), weights.keys() - expected.keys()
    if lacking or unknown:
        raise CheckpointError(
            f"{path}: does not fit the model: it lacks {_few(lacking)}, and has {_few(unknown)} that the model lacks"
        )
    wrong = [
        f"{name} has shape {tuple(weights[name].shape)}, and the model's has {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if weights[name].shape != tensor.shape
    ]
    if wrong:
        raise CheckpointError(f"{path}: does not fit the model (another number of classes?): {'; '.join(wrong[:3])}")
    odd = [
        f"{name} is {_kind(weights[name])}, and the model's is {_kind(tensor)}"
        for name, tensor in expected.items()
        if _kind(weights[name]) != _kind(tensor)
    ]
    if odd:
        raise CheckpointError(f"{path}: does not fit the model: {'; '.join(odd[:3])}")
    # In the model's own precision: what float64 holds may be infinite there.
    bad = {name for name, tensor in expected.items() if not weights[name].to(tensor.dtype).isfinite().all()}
    if bad:
        raise CheckpointError(f"{path}: the weights of {_few(bad)} are not finite; use an earlier checkpoint")
    if any(tensor.dtype in (torch.float16, torch.bfloat16) for tensor in weights.values()):
        logger.warning("%s: holds half-precision weights; they are used in float32, no finer than they are", path)
    model.load_state_dict(weights)


def _kind(tensor: Tensor) -> str:
    """What decides whether a tensor can stand for another: its numbers, and whether they are there, one by one."""
    if tensor.is_meta:
        return "a tensor without its numbers (device meta)"
    if tensor.layout != torch.strided:
        return f"sparse ({tensor.layout})"
    if tensor.is_quantized or tensor.is_complex() or tensor.dtype == torch.bool:
        return str(tensor.dtype)
    return "of floating-point numbers" if tensor.is_floating_point() else "of whole numbers"


def without_wrappers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights without the prefixes that DataParallel, DistributedDataParallel and torch.compile give to all."""
    unwrapped = dict(weights)
    while prefix := next((p for p in WRAPPERS if unwrapped and all(name.startswith(p) for name in unwrapped)), ""):
        unwrapped = {name.removeprefix(prefix): tensor for name, tensor in unwrapped.items()}
    return unwrapped


def _few(names: set[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - 3} more" if len(ordered) > 3 else ""
    return (", ".join(ordered[:3]) + more) or "nothing"
