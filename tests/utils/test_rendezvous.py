"""How processes that were started together meet, or say why they cannot."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from tests.utils.started import MEETING, start_as
from utils import distributed, rendezvous
from utils.errors import ConfigError, DataError

CPU = torch.device("cpu")


def free_port() -> int:
    with socket.create_server(("localhost", 0)) as free:
        return int(free.getsockname()[1])


def test_an_address_that_is_not_known_is_waited_for_within_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "ANSWER_LIMIT", timedelta(seconds=0.2))
    for rank in (0, 1):
        start_as(monkeypatch, rank)
        monkeypatch.setenv("MASTER_ADDR", "no host")
        with pytest.raises(ConfigError, match=r"no host, 29500: .*not known"), distributed.together(CPU):
            pass


def test_a_port_that_another_program_has_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Process 0 cannot open it; to process 1 it never answers."""
    monkeypatch.setattr(rendezvous, "ANSWER_LIMIT", timedelta(seconds=0.3))
    with socket.create_server(("localhost", 0)) as other:
        port = other.getsockname()[1]
        for rank, wrong in ((0, "another program has this port"), (1, "no answer")):
            start_as(monkeypatch, rank, port)
            with pytest.raises(ConfigError, match=f"localhost, {port}: {wrong}.*; name "), distributed.together(CPU):
                pass


@pytest.mark.parametrize(("rank", "missing"), [(0, "process 1 of 2"), (1, "process 0")])
def test_others_that_do_not_come_are_waited_for_within_a_limit(
    monkeypatch: pytest.MonkeyPatch, rank: int, missing: str
) -> None:
    """By the one that opens the port, and one that looks for it."""
    monkeypatch.setattr(rendezvous, "TIME_LIMIT", timedelta(seconds=0.3))
    start_as(monkeypatch, rank, port := free_port())
    with pytest.raises(ConfigError, match=f"localhost, {port}: {missing} ") as refused, distributed.together(CPU):
        pass
    assert "\n" not in str(refused.value)


def test_a_second_process_of_one_rank_is_refused_and_the_first_does_not_hear_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may be one of another run with the same port."""
    port = free_port()
    first = dist.TCPStore("localhost", port, 2, is_master=True, wait_for_workers=False)
    first.add("attempt 0 of 2/here 1", 1)
    start_as(monkeypatch, 1, port)
    with pytest.raises(ConfigError, match=f"localhost, {port}: .*RANK = 1"), distributed.together(CPU):
        pass
    assert not first.check(["attempt 0 of 2/failed"])


def test_the_others_hear_that_process_0_fails_though_the_store_ends_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """They may be waiting for its work, as a thread is here."""
    start_as(monkeypatch, 0, port := free_port())
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **__: None)

    def wait_for_failure() -> str:
        store = dist.PrefixStore("attempt 0 of 2", dist.TCPStore("localhost", port, 2))
        store.add("here 1", 1)
        while not store.check(["failed"]):
            time.sleep(rendezvous.SECONDS_BETWEEN_LOOKS)
        return str(store.get("failed").decode())

    with ThreadPoolExecutor(1) as other:
        heard = other.submit(wait_for_failure)
        with pytest.raises(DataError), distributed.together(CPU):
            raise DataError("x.csv: bad")
        assert heard.result(timeout=10) == "0"


@pytest.mark.parametrize(("rank", "number", "exit_code"), [(1, signal.SIGTERM, 75), (0, signal.SIGINT, 130)])
def test_a_signal_is_answered_while_processes_meet(rank: int, number: signal.Signals, exit_code: int) -> None:
    """By process 1, whose process 0 never comes; and by process 0 as it joins another that has come, and is silent."""
    environment = {**MEETING, "RANK": str(rank), "WORLD_SIZE": "2", "MASTER_PORT": str(port := free_port())}
    program = (
        "import torch; from utils import distributed; from utils.errors import run_and_exit\n"
        "def command():\n"
        "    print('meets', flush=True)\n"
        "    with distributed.together(torch.device('cpu')): pass\n"
        "run_and_exit(command)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"meets\n"
        if rank == 0:
            other = dist.PrefixStore("attempt 0 of 2", dist.TCPStore("localhost", port, 2, wait_for_workers=False))
            other.add("here 1", 1)
        time.sleep(0.5)
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == exit_code
    assert errors.decode().splitlines() == [f"stopped by {number.name}"]
