"""The processes that compute together: torchrun's environment, and the few collective calls that the project uses.

With one process every call changes nothing, so that callers need not know which case it is."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from utils.environment import environment_number
from utils.errors import ConfigError, Interrupted, UserError
from utils.first_report import is_first_report

TIME_LIMIT = timedelta(minutes=10)
"""How long a process waits in a collective call before it gives up."""

_RENDEZVOUS = ("RANK", "MASTER_ADDR", "MASTER_PORT")
"""What torch.distributed needs in the environment besides WORLD_SIZE."""

_SECONDS_BETWEEN_LOOKS = 0.05
_SECONDS_FOR_OTHERS = 2.0
"""How long a process that has lost another one waits to be stopped by torchrun, whose report then begins with the one
that failed."""

_store: dist.Store | None = None
_waits = itertools.count()  # in the same order in all processes


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
    """How many processes compute together."""
    return max(1, environment_number("WORLD_SIZE", 1))


def is_main_process() -> bool:
    """True in the one process that writes files and logs."""
    return rank() == 0


def share_of_work() -> tuple[int, int]:
    """The rank and the number of the processes that have joined: (0, 1) alone."""
    return (rank(), world_size()) if dist.is_initialized() else (0, 1)


# --- joining and leaving ---


@contextmanager
def together(device: torch.device) -> Iterator[None]:
    """Makes `device` the default GPU of this process, and joins torchrun's group, if there is one, while it is entered.

    Raises UserError where another process fails or is lost, which ends this one, too."""
    try:
        _start(device)
        yield
    except BaseException as error:
        if world_size() > 1 and not _has_lost_another(error):
            is_first_report()  # before the others see that this one is gone
        if world_size() > 1 and _has_lost_another(error):
            _wait_to_be_stopped()
            limit = f"{TIME_LIMIT.total_seconds() / 60:.0f} minutes"
            raise UserError(
                f"process {rank()} of {world_size()}: another process has ended, or did not answer for {limit}; "
                "what was saved remains, and --resume continues it"
            ) from error
        raise
    finally:
        _stop()


def _start(device: torch.device) -> None:
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)  # else what names no device goes to the first one, in all processes
    if world_size() > 1 and not dist.is_initialized():
        missing = [name for name in _RENDEZVOUS if not os.environ.get(name)]
        if missing:
            wrong = f"environment variable WORLD_SIZE = {world_size()} without {', '.join(missing)}"
            raise ConfigError(f"{wrong}: start the processes with torchrun, or unset it")
        backend, bound_to = ("nccl", device) if on_gpu else ("gloo", None)
        global _store
        shared, _, _ = next(dist.rendezvous("env://", timeout=TIME_LIMIT))
        # torchrun's store outlives an attempt; what the one before has left there would let this one wait for the dead.
        attempt = f"attempt {environment_number('TORCHELASTIC_RESTART_COUNT', 0)} of {world_size()}"
        _store = dist.PrefixStore(attempt, shared)
        dist.init_process_group(
            backend,
            store=_store,
            rank=rank(),
            world_size=world_size(),
            timeout=TIME_LIMIT,
            device_id=bound_to,
        )


def _stop() -> None:
    global _store
    _store = None
    if dist.is_initialized():
        dist.destroy_process_group()


def _has_lost_another(error: BaseException | None) -> bool:
    """Whether a collective call failed, as the others' part of it did not come. gloo raises no type of its own."""
    while error is not None:
        if isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error)):
            return True
        error = error.__cause__
    return False


def _wait_to_be_stopped() -> None:
    with suppress(Interrupted, KeyboardInterrupt):
        time.sleep(_SECONDS_FOR_OTHERS)


# --- collective calls: every process makes them, in the same order ---


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Sums `tensor` over the processes, in place, and returns it."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def any_process(*flags: bool) -> list[bool]:
    """Of each flag, whether it is true in any process."""
    if not dist.is_initialized():
        return list(flags)
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    return [number > 0 for number in all_reduce_sum(torch.tensor(flags, dtype=torch.int64, device=device)).tolist()]


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


def gather(value: Any) -> list[Any]:
    """Every process's `value` (plain data), in order of rank."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Waits until every process is here."""
    if dist.is_initialized():
        dist.barrier()


def refuse_difference(what: str, value: str) -> None:
    """Raises ConfigError, in every process, where `value` is not the same in all.

    what: follows "process 1 has another "; value: of one line"""
    values = gather(value)
    for number, other in enumerate(values):
        if other != values[0]:
            remedy = "all processes need the same files, config and trainer.save_dir"
            raise ConfigError(f"process {number} has another {what}: {other}, and process 0 {values[0]}; {remedy}")


# --- waiting for long work of another process, without a time limit ---


def text_of_main_process(text: str) -> str:
    """The main process's `text`, for which the others wait as long as it takes to come here."""
    if _store is None:
        return text
    key = f"text {next(_waits)}"
    if is_main_process():
        _store.set(key, text)
        return text
    _wait_for(key)
    return _store.get(key).decode()


@contextmanager
def first_of_each_machine() -> Iterator[None]:
    """Within it work is done that finds what another process of the machine has left on its disk: one process of each
    machine does it, then the others find it done. None leaves before all have come to the end."""
    if _store is None:
        yield
        return
    first, number = rank() - local_rank(), next(_waits)
    if rank() != first:
        _wait_for(f"done {number} by {first}")
    yield
    _store.set(f"done {number} by {rank()}", "")
    for other in range(world_size()):
        _wait_for(f"done {number} by {other}")


def _wait_for(key: str) -> None:
    """torchrun ends this process where the other one fails; else its store is gone with it."""
    assert _store is not None
    while not _store.check([key]):  # its own wait has a time limit, and torch warns of each that is over
        time.sleep(_SECONDS_BETWEEN_LOOKS)
