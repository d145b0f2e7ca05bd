"""The processes that compute together: torchrun's environment, and the few collective calls that the project uses.

With one process every call changes nothing, so that callers need not know which case it is. Several have joined
(`together`) before they call."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from utils import rendezvous
from utils.environment import environment_number
from utils.errors import ConfigError, Interrupted, UserError
from utils.first_report import claim_report
from utils.started_processes import this_process
from utils.wording import first_line

WORK_LIMIT = timedelta(hours=12)
"""How long a process waits for what another process does alone, such as building a cache."""

_FAILED = "failed"
"""The key of the store that a process sets as it ends with an error."""

_OF_GLOO = re.compile(r"\[\S*/gloo/\S+:\d+\] |Gloo |Application timeout caused pair closure")
"""How the messages begin of the errors that gloo raises, as a RuntimeError."""

_SOURCE = re.compile(r"^\[\S+:\d+\] ")
_SECONDS_FOR_OTHERS = 2.0
"""How long a process that has lost another one waits to be stopped by torchrun, whose report then begins with the one
that failed."""

_LOOKS_FOR_A_FAILURE = 10

_store: dist.Store | None = None
_waits = itertools.count()  # in the same order in all processes


def rank() -> int:
    """This process's number, 0 to world_size() - 1."""
    return this_process().rank


def local_rank() -> int:
    """This process's number on its machine: the number of its GPU."""
    return this_process().local_rank


def local_world_size() -> int:
    """How many of the processes run on this machine."""
    return this_process().local_world_size


def world_size() -> int:
    """How many processes compute together."""
    return this_process().world_size


def is_main_process() -> bool:
    """True in the one process that writes files and logs."""
    return rank() == 0


# --- joining and leaving ---


@contextmanager
def together(device: torch.device) -> Iterator[None]:
    """Makes `device` the default GPU of this process, and joins torchrun's group, if there is one, while it is entered.

    Raises ConfigError where the processes cannot meet; UserError where another process fails or is lost, which ends
    this one, too."""
    try:
        _start(device)
        yield
    except BaseException as error:
        if world_size() > 1:
            if _has_lost_another(error):
                _wait_to_be_stopped()
                raise UserError(
                    f"process {rank()} of {world_size()}: another process has ended, or does not answer "
                    f"({_symptom(error)}); what was saved remains, and --resume continues it"
                ) from error
            claim_report()  # before the others see that this one is gone
            _tell_of_failure()
        raise
    finally:
        _stop()


def _start(device: torch.device) -> None:
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)  # else what names no device goes to the first one, in all processes
    if world_size() == 1:
        return
    global _store
    _store = _own_store()
    for other in range(world_size()):
        try:
            _wait_for(f"here {other}", rendezvous.TIME_LIMIT)
        except dist.DistStoreError:
            limit = rendezvous.minutes(rendezvous.TIME_LIMIT)
            text = f"process {other} of {world_size()} has not come there; start all within {limit}"
            raise rendezvous.refusal(text) from None

    def join() -> None:
        if on_gpu:
            torch.cuda.set_device(device)  # of this thread
        dist.init_process_group(
            "nccl" if on_gpu else "gloo",
            store=_shared().clone(),  # its own connection, which it has to itself while it waits
            rank=rank(),
            world_size=world_size(),
            timeout=rendezvous.TIME_LIMIT,
            device_id=device if on_gpu else None,
        )

    rendezvous.in_a_thread(join, rendezvous.TIME_LIMIT)


def _own_store() -> dist.Store:
    """The part of the store that this attempt of these processes has. Raises ConfigError where it is not this one's."""
    # torchrun's store outlives an attempt; what the one before has left there would let this one wait for the dead.
    attempt = f"attempt {environment_number('TORCHELASTIC_RESTART_COUNT', 0)} of {world_size()}"
    store = dist.PrefixStore(attempt, rendezvous.open_store())
    if store.add(f"here {rank()}", 1) > 1:
        remedy = "give each process its own RANK, and each run its own port"
        raise rendezvous.refusal(f"another process with RANK = {rank()} is there; {remedy}")
    return store


def _tell_of_failure() -> None:
    """Lets the others know that this process ends, who may wait for it without torch."""
    if _store is not None:
        with suppress(dist.DistError, RuntimeError):
            _store.set(_FAILED, str(rank()))
        if is_main_process():  # the store ends with it: torch would print a stack in each process that asks
            time.sleep(_LOOKS_FOR_A_FAILURE * rendezvous.SECONDS_BETWEEN_LOOKS)


def _stop() -> None:
    global _store
    if dist.is_initialized():
        dist.destroy_process_group()
        _store = None  # else a thread may wait in it, which would print a stack


def _has_lost_another(error: BaseException | None) -> bool:
    """Whether a collective call failed, as the others' part of it did not come. gloo raises no type of its own."""
    while error is not None:
        if isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and _OF_GLOO.match(str(error))):
            return True
        error = error.__cause__
    return False


def _symptom(error: BaseException) -> str:
    """The first sentence of a group's error, without the place in torch's source."""
    return _SOURCE.sub("", first_line(error)).split(". ")[0]


def _wait_to_be_stopped() -> None:
    with suppress(Interrupted, KeyboardInterrupt):
        time.sleep(_SECONDS_FOR_OTHERS)


# --- collective calls: every process makes them, in the same order ---


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Sums `tensor` over the processes, in place, and returns it."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def any_process(*flags: bool) -> list[bool]:
    """Of each flag, whether it is true in any process."""
    if world_size() == 1:
        return list(flags)
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    return [number > 0 for number in all_reduce_sum(torch.tensor(flags, dtype=torch.int64, device=device)).tolist()]


def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Averages gradients over the processes, in place: of the parameters outside DistributedDataParallel."""
    if world_size() > 1:
        for parameter in parameters:
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            dist.all_reduce(gradient)
            parameter.grad = gradient / world_size()


def share_buffers(module: torch.nn.Module) -> None:
    """Copies the main process's buffers (running means and variances) to all, in place."""
    if world_size() > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)


def gather(value: Any) -> list[Any]:
    """Every process's `value` (plain data), in order of rank."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Waits until every process is here."""
    if world_size() > 1:
        dist.barrier()


def refuse_difference(what: str, value: str) -> None:
    """Raises ConfigError, in every process, where `value` is not the same in all.

    what: follows "process 1 has another "; value: of one line"""
    values = gather(value)
    for number, other in enumerate(values):
        if other != values[0]:
            remedy = "all processes need the same files, config and trainer.save_dir"
            raise ConfigError(f"process {number} has another {what}: {other}, and process 0 {values[0]}; {remedy}")


# --- waiting for long work of another process ---


def text_of_main_process(text: str) -> str:
    """The main process's `text`, for which the others wait up to WORK_LIMIT."""
    if world_size() == 1:
        return text
    store, key = _shared(), f"text {next(_waits)}"
    if is_main_process():
        store.set(key, text)
        return text
    _wait_for(key)
    return store.get(key).decode()


@contextmanager
def first_of_each_machine() -> Iterator[None]:
    """Within it work is done that finds what another process of the machine has left on its disk: one process of each
    machine does it, then the others find it done. None leaves before all have come to the end."""
    if world_size() == 1:
        yield
        return
    store, first, number = _shared(), rank() - local_rank(), next(_waits)
    if rank() != first:
        _wait_for(f"done {number} by {first}")
    yield
    store.set(f"done {number} by {rank()}", "")
    for other in range(world_size()):
        _wait_for(f"done {number} by {other}")


def _wait_for(key: str, limit: timedelta = WORK_LIMIT) -> None:
    """Until another process has set it. Raises DistError where one has failed; DistStoreError, which is one, where the
    limit is over."""
    store, end = _shared(), time.monotonic() + limit.total_seconds()
    while not store.check([key]):  # its own wait answers no signal, and torch warns of each that is over
        if store.check([_FAILED]):
            raise dist.DistError(f"process {store.get(_FAILED).decode()} has failed")
        if time.monotonic() > end:
            raise dist.DistStoreError(f"nothing was heard of {key!r} within {rendezvous.minutes(limit)}")
        time.sleep(rendezvous.SECONDS_BETWEEN_LOOKS)


def _shared() -> dist.Store:
    if _store is None:
        raise RuntimeError("the processes have not joined: see `together`")
    return _store
