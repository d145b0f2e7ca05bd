"""Which device a process computes on."""

from __future__ import annotations

import torch

from utils import process_group
from utils.errors import ConfigError


def choose_device(name: str | None, n_gpu: int = 1) -> torch.device:
    """The device that `--device` names, or else this process's GPU if there is one and `n_gpu` is not 0, or the CPU.

    Raises ConfigError for a device that is not there."""
    if name is None:
        if n_gpu == 0 or not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", process_group.local_rank())
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"--device {name}: is not a device; name cpu, cuda or cuda:<number>") from None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError(f"--device {name}: there is no CUDA device here; use --device cpu, or leave it out")
        number = device.index if device.index is not None else process_group.local_rank()
        if number >= torch.cuda.device_count():
            raise ConfigError(f"--device {name}: there are {torch.cuda.device_count()} CUDA devices, numbered from 0")
        return torch.device("cuda", number)
    if device.type != "cpu":
        raise ConfigError(f"--device {name}: only cpu and cuda are supported")
    return device


def choose_compute_type(precision: str, device: torch.device) -> torch.dtype:
    """The type that the model computes in: "auto" is the card's own mixed precision, and float32 on a CPU."""
    if precision != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
