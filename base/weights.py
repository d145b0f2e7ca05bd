"""Loads the weights of a checkpoint into a model: every tensor, of the right shape, finite."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from utils.errors import CheckpointError

logger = logging.getLogger(__name__)

_WRAPPERS = ("module.", "_orig_mod.")


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Loads `weights`, read from the checkpoint `path`, into `model`. Half-precision weights cause a warning.

    Raises CheckpointError naming the layers that are missing, unknown, of another shape or type, or not finite; the
    model is then unchanged."""
    expected = model.state_dict()
    if not isinstance(weights, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in weights.items()
    ):
        raise CheckpointError(f"{path}: has something else in place of its weights; use an earlier checkpoint")
    weights = without_wrappers(weights)
    misfit = f"{path}: does not fit the model"
    lacking, unknown = expected.keys() - weights.keys(), weights.keys() - expected.keys()
    if lacking or unknown:
        raise CheckpointError(f"{misfit}: it lacks {_few(lacking)}, and has {_few(unknown)} that the model lacks")
    pairs = {name: (weights[name], tensor) for name, tensor in expected.items()}
    wrong = [
        f"{name} has shape {tuple(ours.shape)}, and the model's has {tuple(theirs.shape)}"
        for name, (ours, theirs) in pairs.items()
        if ours.shape != theirs.shape
    ]
    if wrong:
        raise CheckpointError(f"{misfit} (another number of classes?): {'; '.join(wrong[:3])}")
    odd = {name for name, (ours, theirs) in pairs.items() if _kind(ours) != _kind(theirs)}
    if odd:
        raise CheckpointError(f"{misfit}: {_few(odd)} of another type or layout than the model's")
    # In the model's own precision: what float64 holds may be infinite there.
    bad = {name for name, (ours, theirs) in pairs.items() if not ours.to(theirs.dtype).isfinite().all()}
    if bad:
        raise CheckpointError(f"{path}: the weights of {_few(bad)} are not finite; use an earlier checkpoint")
    if any(tensor.dtype in (torch.float16, torch.bfloat16) for tensor in weights.values()):
        logger.warning("%s: has half-precision weights; they are used in float32, no finer than they are", path)
    model.load_state_dict(weights)


def _kind(tensor: Tensor) -> tuple[object, ...]:
    """What must be the same for a tensor to be copied into another."""
    number = (tensor.is_floating_point(), tensor.is_complex(), tensor.is_quantized, tensor.dtype == torch.bool)
    return (*number, tensor.is_meta, tensor.layout)


def without_wrappers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights without the prefixes of DataParallel, DistributedDataParallel and torch.compile."""
    unwrapped = dict(weights)
    while prefix := next((p for p in _WRAPPERS if unwrapped and all(name.startswith(p) for name in unwrapped)), ""):
        unwrapped = {name.removeprefix(prefix): tensor for name, tensor in unwrapped.items()}
    return unwrapped


def _few(names: set[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - 3} more" if len(ordered) > 3 else ""
    return (", ".join(ordered[:3]) + more) or "nothing"
