"""Where processes that were started together meet: the store at MASTER_ADDR and MASTER_PORT, in which they find each
other. Each wait has a limit, and answers signals."""

from __future__ import annotations

import os
import queue
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar, cast

import torch.distributed as dist

from utils.errors import WAITS_OUTSIDE_PYTHON, ConfigError
from utils.started_processes import this_process
from utils.wording import counted, first_line

Result = TypeVar("Result")

TIME_LIMIT = timedelta(minutes=10)
"""How long a process waits for the others to come, and in a collective call, before it gives up."""

ANSWER_LIMIT = timedelta(minutes=1)
"""How long it waits for the address to be known at which they meet, which a cluster may enter late, and for an answer
of what has the port."""

_PORT_IS_TAKEN = "EADDRINUSE"
"""In the message of torch's error, which has no number."""

_SECONDS_TO_CONNECT = 10.0
SECONDS_BETWEEN_LOOKS = 0.05


def open_store() -> dist.Store:
    """The store at MASTER_ADDR and MASTER_PORT, which process 0 opens, or torchrun has."""
    process = this_process()
    is_host = process.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    _find(process.address, process.port, is_host)

    def construct() -> dist.Store:
        number = process.world_size
        return dist.TCPStore(process.address, process.port, number, is_host, ANSWER_LIMIT, wait_for_workers=False)

    try:
        store = in_a_thread(construct, ANSWER_LIMIT)
    except RuntimeError as error:
        wrong, remedy = first_line(error), "name the machine of process 0, and a free port"
        if _PORT_IS_TAKEN in str(error):
            wrong = "another program has this port, or another process with RANK = 0"
            remedy = "name another (torchrun --master-port)"
        raise refusal(f"{wrong}; {remedy}") from None
    store.set_timeout(TIME_LIMIT)
    return store


def _find(address: str, port: int, is_host: bool) -> None:
    """Waits until the address is known, and somebody answers at the port unless this process is to open it. torch would
    wait, too, but it prints a stack for each attempt."""

    def look() -> None:
        if is_host:
            socket.getaddrinfo(address, port)
        else:
            socket.create_connection((address, port), _SECONDS_TO_CONNECT).close()

    begin = time.monotonic()
    while True:
        try:
            return in_a_thread(look, ANSWER_LIMIT)
        except (OSError, UnicodeError, dist.DistError) as error:
            is_unknown = isinstance(error, (socket.gaierror, UnicodeError))
            limit = ANSWER_LIMIT if is_unknown else TIME_LIMIT
            if time.monotonic() - begin >= limit.total_seconds():
                wrong, remedy = "process 0 does not answer there", "start it"
                if is_unknown:
                    wrong, remedy = "the address is not known", "name the machine of process 0"
                raise refusal(f"{wrong} ({error}); {remedy} within {minutes(limit)}") from None
        time.sleep(SECONDS_BETWEEN_LOOKS)


def refusal(text: str) -> ConfigError:
    """The error of processes that cannot meet. text: why, and the remedy"""
    where = f"{this_process().address}, {this_process().port}"
    return ConfigError(f"environment variables MASTER_ADDR, MASTER_PORT = {where}: {text}")


def minutes(limit: timedelta) -> str:
    """`10 minutes`."""
    return counted(round(limit.total_seconds() / 60), "minute")


def in_a_thread(call: Callable[[], Result], limit: timedelta) -> Result:
    """What it returns or raises: while a call waits outside Python, the main thread answers no signal.

    Raises DistError where it has not returned within the limit."""
    outcome: queue.SimpleQueue[tuple[Result | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            outcome.put((call(), None))
        except BaseException as error:
            outcome.put((None, error))

    threading.Thread(target=run, daemon=True, name=WAITS_OUTSIDE_PYTHON).start()
    try:
        result, error = outcome.get(timeout=limit.total_seconds())
    except queue.Empty:
        raise dist.DistError(f"no answer within {minutes(limit)}") from None
    if error is not None:
        raise error
    return cast("Result", result)
