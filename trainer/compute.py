"""The precision and the memory layout of a run: chosen when it starts on a kind of device, and kept when it resumes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import StrictBool, TypeAdapter, ValidationError

from base.base_trainer import TrainerSettings
from utils.device import COMPUTE_TYPES, choose_compute_type
from utils.errors import CheckpointError


@dataclass(frozen=True)
class Compute:
    """What a run computes in on one kind of device.

    precision: the type of autocast; "float32": none
    channels_last: images and weights are (H, W, C) in memory
    """

    precision: Literal["float32", "bfloat16", "float16"]
    channels_last: StrictBool

    @property
    def dtype(self) -> torch.dtype:
        return COMPUTE_TYPES[self.precision]

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format


def choose_compute(settings: TrainerSettings, device: torch.device) -> Compute:
    """What a new run computes in on that device."""
    dtype = choose_compute_type(settings.precision, device)
    names: dict[torch.dtype, Any] = {each: name for name, each in COMPUTE_TYPES.items()}
    return Compute(names[dtype], settings.channels_last is not False)


def kept_computes(content: Mapping[str, Any], path: Path) -> dict[str, Compute]:
    """By kind of device ("cpu", "cuda"), what the run of the checkpoint at `path` has computed in.

    Raises CheckpointError."""
    kept = content.get("compute", {})  # absent from the checkpoints of the first version
    try:
        return TypeAdapter(dict[str, Compute]).validate_python(kept)
    except ValidationError:
        raise CheckpointError(f"{path}: compute = {kept!r:.60} is not what this program writes") from None
