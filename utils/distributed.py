"""The processes that train together: torchrun's environment, and the few collective calls that the project uses.

With one process every call changes nothing, so that callers need not know which case it is."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import timedelta

import torch
import torch.distributed as dist

from utils.environment import environment_number
from utils.errors import ConfigError

TIME_LIMIT = timedelta(minutes=10)
"""How long a process waits for the others before it gives up."""

_RENDEZVOUS = ("RANK", "MASTER_ADDR", "MASTER_PORT")
"""What torch.distributed needs in the environment besides WORLD_SIZE."""


def rank() -> int:
    """This process's number, 0 to world_size() - 1."""
    return environment_number("RANK", 0)


def local_rank() -> int:
    """This process's number on its machine: the number of its GPU."""
    return environment_number("LOCAL_RANK", 0)


def local_world_size() -> int:
    """How many of the processes run on this machine."""
    return environment_number("LOCAL_WORLD_SIZE", 1)


def world_size() -> int:
    """How many processes train together."""
    return max(1, environment_number("WORLD_SIZE", 1))


def is_main_process() -> bool:
    """True in the one process that writes files and logs."""
    return rank() == 0


def start(device: torch.device) -> None:
    """Makes `device` the default GPU of this process, and joins torchrun's group, if there is one."""
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)  # else what names no device goes to the first one, in all processes
    if world_size() > 1 and not dist.is_initialized():
        missing = [name for name in _RENDEZVOUS if not os.environ.get(name)]
        if missing:
            wrong = f"environment variable WORLD_SIZE = {world_size()} without {', '.join(missing)}"
            raise ConfigError(f"{wrong}: start the processes with torchrun, or unset it")
        backend, bound_to = ("nccl", device) if on_gpu else ("gloo", None)
        dist.init_process_group(backend, timeout=TIME_LIMIT, device_id=bound_to)


def stop() -> None:
    """Leaves the group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Sums `tensor` over the processes, in place, and returns it."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Averages gradients over the processes, in place: of the parameters outside DistributedDataParallel."""
    if dist.is_initialized():
        for parameter in parameters:
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            dist.all_reduce(gradient)
            parameter.grad = gradient / world_size()


def share_buffers(module: torch.nn.Module) -> None:
    """Copies the main process's buffers (running means and variances) to all, in place."""
    if dist.is_initialized():
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)


def broadcast_text(text: str) -> str:
    """The main process's `text`."""
    if not dist.is_initialized():
        return text
    texts = [text]
    dist.broadcast_object_list(texts, src=0)
    return texts[0]


def gather(value: object) -> list[object]:
    """Every process's `value` (plain data), in order of rank."""
    if not dist.is_initialized():
        return [value]
    values: list[object] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Waits until every process is here."""
    if dist.is_initialized():
        dist.barrier()
