"""Which device a process computes on."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

from utils import distributed
from utils.errors import ConfigError

COMPUTE_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(name: str | None, n_gpu: int = 1) -> torch.device:
    """The device that `--device` names, or else this process's GPU if there is one and `n_gpu` is not 0, or the CPU.

    name: cpu, cuda, cuda:1, or 1 for the same

    Raises ConfigError for a device that is not there."""
    if name is None:
        if n_gpu == 0 or not torch.cuda.is_available():
            return torch.device("cpu")
        if distributed.local_rank() >= torch.cuda.device_count():
            wrong = (
                f"process {distributed.local_rank()} of this machine has no GPU: there are {torch.cuda.device_count()}"
            )
            raise ConfigError(f"{wrong}; start as many processes (torchrun --nproc-per-node), or use --device cpu")
        return torch.device("cuda", distributed.local_rank())
    numbers = name.split(",")
    if len(numbers) > 1 and all(number.strip().isdecimal() for number in numbers):
        remedy = f"CUDA_VISIBLE_DEVICES={name} torchrun --nproc-per-node={len(numbers)} train.py, without --device"
        raise ConfigError(f"--device {name}: a process computes on one GPU; for these: {remedy}")
    try:
        device = torch.device(f"cuda:{name}" if name.isdecimal() else name)
    except RuntimeError:
        raise ConfigError(f"--device {name}: is not a device; name cpu, cuda or cuda:<number>") from None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError(f"--device {name}: there is no CUDA device here; use --device cpu, or leave it out")
        number = device.index if device.index is not None else distributed.local_rank()
        if number >= torch.cuda.device_count():
            raise ConfigError(f"--device {name}: there are {torch.cuda.device_count()} CUDA devices, numbered from 0")
        return torch.device("cuda", number)
    if device.type != "cpu":
        raise ConfigError(f"--device {name}: only cpu and cuda are supported")
    return device


def choose_compute_type(precision: str, device: torch.device) -> torch.dtype:
    """The type of autocast.

    precision: a name of COMPUTE_TYPES, or "auto": bfloat16 where the hardware has instructions for it, else float16 on
        a GPU and float32 (no autocast) on a CPU"""
    if precision != "auto":
        return COMPUTE_TYPES[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    has_bfloat16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if has_bfloat16 else torch.float32


def describe_device(device: torch.device) -> str:
    """What it is, such as "NVIDIA H200"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_model()


def cpu_model() -> str:
    """The processor's name, as far as the system tells it."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def seed_generators(seed: int, device: torch.device) -> None:
    """Seeds the CPU's generator and the device's: `torch.manual_seed`, which takes the time of a small step's forward
    pass where a GPU could be used and is not."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
