"""How a process joins the others, with what it computes on."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from utils import distributed
from utils.errors import ConfigError, UserError
from utils.first_report import claim_report

CPU, SECOND_GPU = torch.device("cpu"), torch.device("cuda", 1)
RENDEZVOUS = {"RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is asked of torch, in order, which does nothing."""
    made: list[Any] = []
    monkeypatch.setattr(torch.cuda, "set_device", made.append)
    store = dist.HashStore()
    store.set("attempt 0 of 2/here 1", "")  # by the other process
    monkeypatch.setattr(dist, "rendezvous", lambda *_, **__: iter([(store, 0, 2)]))
    monkeypatch.setattr(dist, "init_process_group", lambda backend, store, **others: made.append((backend, others)))  # noqa: ARG005
    for name, value in RENDEZVOUS.items():
        monkeypatch.setenv(name, value)
    return made


@pytest.mark.parametrize("processes", ["1", "2"])
@pytest.mark.parametrize(("device", "backend", "bound_to"), [(SECOND_GPU, "nccl", SECOND_GPU), (CPU, "gloo", None)])
def test_a_gpu_is_the_processs_own_before_the_group_is_made(
    calls: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    device: torch.device,
    backend: str,
    bound_to: torch.device | None,
    processes: str,
) -> None:
    """Else every process would keep a context on the first one, and collectives would guess."""
    monkeypatch.setenv("WORLD_SIZE", processes)
    with distributed.together(device):
        pass
    numbers = {"rank": 0, "world_size": 2}
    joined = (backend, {**numbers, "timeout": distributed.TIME_LIMIT, "device_id": bound_to})
    assert calls == [SECOND_GPU] * (device == SECOND_GPU) + [joined] * (processes == "2")


@pytest.mark.parametrize("missing", [["RANK"], ["MASTER_ADDR", "MASTER_PORT"]])
def test_processes_that_nobody_started_together_are_refused(
    calls: list[Any], monkeypatch: pytest.MonkeyPatch, missing: list[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in missing:
        monkeypatch.delenv(name)
    refused = pytest.raises(ConfigError, match=rf"WORLD_SIZE = 2 without {', '.join(missing)}: .*torchrun")
    with refused, distributed.together(CPU):
        pass
    assert calls == []


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK = 2 with WORLD_SIZE = 2"),
        ({"RANK": "1"}, "RANK = 1 with no WORLD_SIZE"),
        ({"LOCAL_RANK": "4", "LOCAL_WORLD_SIZE": "4"}, "LOCAL_RANK = 4 with LOCAL_WORLD_SIZE = 4"),
        ({"RANK": "\N{SUPERSCRIPT TWO}", "WORLD_SIZE": "2"}, "RANK = "),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK = '-1'"),
        ({"WORLD_SIZE": "9" * 5000}, "WORLD_SIZE = "),
        ({"WORLD_SIZE": "2", "MASTER_PORT": "abc"}, "MASTER_PORT = 'abc'"),
        ({"WORLD_SIZE": "2", "MASTER_PORT": "65536"}, "MASTER_PORT = 65536"),
        ({"WORLD_SIZE": "2", "MASTER_ADDR": "no host"}, "MASTER_ADDR, MASTER_PORT = no host, 29500"),
    ],
)
def test_variables_that_make_no_sense_are_refused(
    variables: dict[str, str], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    meeting = {**RENDEZVOUS} if "WORLD_SIZE" in variables else {}
    for name, value in (meeting | variables).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as refused, distributed.together(CPU):
        pass
    assert named in str(refused.value)
    assert len(str(refused.value)) < 300
    assert "\n" not in str(refused.value)


def test_a_port_that_another_program_has_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("localhost", 0)) as other:
        port = other.getsockname()[1]
        for name, value in {**RENDEZVOUS, "WORLD_SIZE": "2", "MASTER_PORT": str(port)}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(ConfigError, match=rf"{port}: another program has this port"), distributed.together(CPU):
            pass


def test_others_that_do_not_come_are_waited_for_within_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "TIME_LIMIT", timedelta(seconds=0.3))
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    for rank in ("0", "1"):  # the one that opens the port, and one that looks for it
        for name, value in {**RENDEZVOUS, "WORLD_SIZE": "2", "MASTER_PORT": str(port), "RANK": rank}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(UserError, match="process") as refused, distributed.together(CPU):
            pass
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_is_answered_while_processes_meet(number: signal.Signals, exit_code: int) -> None:
    """Process 1 of 2, whose process 0 never comes."""
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    environment = {**RENDEZVOUS, "RANK": "1", "WORLD_SIZE": "2", "MASTER_PORT": str(port)}
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
        time.sleep(0.3)
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == exit_code
    assert errors.decode().splitlines() == [f"stopped by {number.name}"]


def test_a_process_that_waits_for_work_of_another_ends_where_that_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    store = dist.HashStore()
    monkeypatch.setattr(distributed, "_store", store)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    store.set("failed", "0")
    with pytest.raises(dist.DistError):
        distributed.text_of_main_process("")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_what_names_no_device_goes_to_the_processs_own() -> None:
    device = torch.device("cuda", torch.cuda.device_count() - 1)
    try:
        with distributed.together(device):
            assert torch.zeros(1, device="cuda").device == device
    finally:
        torch.cuda.set_device(0)


def test_one_process_of_each_machine_goes_first_and_none_leaves_before_all_are_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two machines of two processes, as threads; and a text for which the others wait."""
    own = threading.local()
    events: list[str] = []
    monkeypatch.setattr(distributed, "_store", dist.HashStore())
    monkeypatch.setattr(distributed, "_SECONDS_BETWEEN_LOOKS", 0.005)
    monkeypatch.setattr(distributed, "_waits", itertools.repeat("once"))
    monkeypatch.setattr(distributed, "rank", lambda: own.rank)
    monkeypatch.setattr(distributed, "local_rank", lambda: own.rank % 2)
    monkeypatch.setattr(distributed, "world_size", lambda: 4)

    def process(rank: int) -> str:
        own.rank = rank
        with distributed.first_of_each_machine():
            time.sleep(0.02 if rank % 2 == 0 else 0)
            events.append(f"works {rank}")
        events.append(f"leaves {rank}")
        time.sleep(0.02)
        return distributed.text_of_main_process(f"of {rank}")

    with ThreadPoolExecutor(4) as pool:
        assert [*pool.map(process, (3, 2, 1, 0))] == ["of 0"] * 4
    assert {each.split()[0] for each in events[:4]} == {"works"}
    for first, second in ((0, 1), (2, 3)):
        assert events.index(f"works {first}") < events.index(f"works {second}")


def test_processes_that_differ_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    distributed.refuse_difference("config", "a")
    monkeypatch.setattr(distributed, "gather", lambda _: ["a", "a", "b"])
    with pytest.raises(ConfigError, match=r"process 2 has another config: b, and process 0 a; .*trainer\.save_dir"):
        distributed.refuse_difference("config", "a")


def test_the_first_of_torchruns_processes_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each attempt has one report; whoever has it may ask again."""
    for attempt in ("attempt_0", "attempt_1"):
        for process, expected in ((11, True), (12, False), (11, True)):
            monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / attempt / str(process) / "error.json"))
            (tmp_path / attempt).mkdir(exist_ok=True)
            monkeypatch.setattr(os, "getpid", lambda process=process: process)
            assert claim_report() == expected
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE")
    assert claim_report()
