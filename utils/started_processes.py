"""What torchrun, or a cluster's starter, tells each of the processes that compute together, in its environment. It is
read before torch is imported."""

from __future__ import annotations

import os
from typing import NamedTuple

from utils.environment import environment_default, environment_number
from utils.errors import ConfigError

STARTED_BY = "start the processes with torchrun, or unset it"
_LARGEST_PORT = 65535


class StartedProcess(NamedTuple):
    """One of the processes that were started together; the defaults are those of one that was started alone.

    rank: its number
    world_size: how many there are
    local_rank: its number on its machine, which is that of its GPU
    local_world_size: how many there are on its machine
    address: of the machine on which they meet; "" alone
    port: at which they meet there; 0 alone
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    address: str = ""
    port: int = 0


def this_process() -> StartedProcess:
    """What RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT say; the last two where there
    are several processes.

    Raises ConfigError where one is missing or is no number, or they contradict each other."""
    process = StartedProcess(
        environment_number("RANK", 0),
        environment_number("WORLD_SIZE", 1),
        environment_number("LOCAL_RANK", 0),
        environment_number("LOCAL_WORLD_SIZE", 1),
    )
    _refuse_contradictions(process)
    if process.world_size == 1:
        return process
    needed = ("RANK", "MASTER_ADDR", "MASTER_PORT")
    if missing := [name for name in needed if not _is_set(name)]:
        wrong = f"environment variable WORLD_SIZE = {process.world_size} without {', '.join(missing)}"
        raise ConfigError(f"{wrong}: {STARTED_BY}")
    port = environment_number("MASTER_PORT", 0)
    if not 0 < port <= _LARGEST_PORT:
        raise ConfigError(f"environment variable MASTER_PORT = {port} is no port; name one of 1 to {_LARGEST_PORT}")
    return process._replace(address=os.environ["MASTER_ADDR"].strip(), port=port)


def _refuse_contradictions(process: StartedProcess) -> None:
    knows_rank, knows_local_size = _is_set("RANK"), _is_set("LOCAL_WORLD_SIZE")  # not every cluster sets all
    for name, other, is_contradiction in (
        ("RANK", "WORLD_SIZE", process.rank >= process.world_size),
        ("LOCAL_RANK", "LOCAL_WORLD_SIZE", knows_local_size and process.local_rank >= process.local_world_size),
        ("LOCAL_RANK", "RANK", knows_rank and process.local_rank > process.rank),
        ("LOCAL_WORLD_SIZE", "WORLD_SIZE", process.local_world_size > process.world_size),
    ):
        if is_contradiction:
            number, limit = (getattr(process, each.lower()) for each in (name, other))
            without = f"{other} = {limit}" if _is_set(other) else f"no {other}"
            raise ConfigError(f"environment variable {name} = {number} with {without}: {STARTED_BY}")


def _is_set(name: str) -> bool:
    return environment_default(name) is not None
