"""What a run's settings say of devices, beside what the machine has."""

from __future__ import annotations

import torch

from experiment.schema import RunSettings
from utils import distributed


def notes_of_devices(settings: RunSettings, device: torch.device) -> list[str]:
    """What a user would not expect of the device that the run computes on, a line each."""
    if settings.n_gpu > 0 and device.type == "cpu":
        return [f"n_gpu = {settings.n_gpu}, and there is no GPU here: training on the CPU"]
    if settings.n_gpu > 1 and distributed.world_size() == 1:
        return [
            f"n_gpu = {settings.n_gpu}: one GPU is used; for all: torchrun --nproc-per-node={settings.n_gpu} train.py"
        ]
    return []
