"""What torchrun, or a cluster's starter, tells each of the processes that compute together, in its environment. It is
read before torch is imported."""

from __future__ import annotations

import os
from typing import NamedTuple

from utils.environment import environment_number
from utils.errors import ConfigError

STARTED_BY = "start the processes with torchrun, or unset it"
_LARGEST_PORT = 65535


class StartedProcess(NamedTuple):
    """One of the processes that were started together; the defaults are those of one that was started alone.

    rank: its number
    world_size: how many there are
    local_rank: its number on its machine, which is that of its GPU
    local_world_size: how many there are on its machine
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1


def this_process() -> StartedProcess:
    """What RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE say.

    Raises ConfigError where they are no numbers, or contradict each other."""
    process = StartedProcess(
        environment_number("RANK", 0),
        max(1, environment_number("WORLD_SIZE", 1)),
        environment_number("LOCAL_RANK", 0),
        max(1, environment_number("LOCAL_WORLD_SIZE", 1)),
    )
    for name, number, of_name, of_all in (
        ("RANK", process.rank, "WORLD_SIZE", process.world_size),
        ("LOCAL_RANK", process.local_rank, "LOCAL_WORLD_SIZE", process.local_world_size),
    ):
        # A cluster may number a machine's processes without saying how many they are.
        if number >= of_all and (name == "RANK" or os.environ.get(of_name)):
            without = f"{of_name} = {of_all}" if os.environ.get(of_name) else f"no {of_name}"
            raise ConfigError(f"environment variable {name} = {number} with {without}: {STARTED_BY}")
    return process


def meeting_point() -> tuple[str, int]:
    """The address and the port at which the processes meet, MASTER_ADDR and MASTER_PORT.

    Raises ConfigError where something is missing, or is no port."""
    needed = ("RANK", "MASTER_ADDR", "MASTER_PORT")
    if missing := [name for name in needed if not os.environ.get(name)]:
        wrong = f"environment variable WORLD_SIZE = {this_process().world_size} without {', '.join(missing)}"
        raise ConfigError(f"{wrong}: {STARTED_BY}")
    port = environment_number("MASTER_PORT", 0)
    if not 0 < port <= _LARGEST_PORT:
        raise ConfigError(f"environment variable MASTER_PORT = {port} is no port, 1 to {_LARGEST_PORT}")
    return os.environ["MASTER_ADDR"], port
