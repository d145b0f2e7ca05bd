"""How a process joins the others, with what it computes on."""

from __future__ import annotations

import itertools
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.utils.started import start_as
from utils import distributed, rendezvous
from utils.errors import ConfigError, UserError
from utils.first_report import claim_report

CPU, SECOND_GPU = torch.device("cpu"), torch.device("cuda", 1)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is asked of torch, in order, which does nothing."""
    made: list[Any] = []
    monkeypatch.setattr(torch.cuda, "set_device", made.append)
    store = dist.HashStore()
    store.set("attempt 0 of 2/here 1", "")  # by the other process
    monkeypatch.setattr(dist, "TCPStore", lambda *_, **__: store)
    monkeypatch.setattr(dist, "init_process_group", lambda backend, store, **others: made.append((backend, others)))  # noqa: ARG005
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
    start_as(monkeypatch, 0, world_size=int(processes))
    with distributed.together(device):
        pass
    numbers = {"rank": 0, "world_size": 2}
    joined = (backend, {**numbers, "timeout": rendezvous.TIME_LIMIT, "device_id": bound_to})
    chosen = [SECOND_GPU] * (device == SECOND_GPU)
    assert calls == (chosen if processes == "1" else [*chosen, *chosen, joined])  # one of each thread


@pytest.mark.parametrize(
    ("message", "is_lost"),
    [
        ("[/third_party/gloo/gloo/transport/tcp/pair.cc:561] Connection closed by peer [::1]:9. GLHF!", True),
        ("Application timeout caused pair closure", True),
        ("igloo.jpg: cannot be read", False),
    ],
)
def test_only_the_groups_own_errors_are_told_as_the_loss_of_another_process(
    calls: list[Any], monkeypatch: pytest.MonkeyPatch, message: str, is_lost: bool
) -> None:
    """The first two are those that torch 2.15 raised where a process was killed, or did not answer."""
    monkeypatch.setattr(distributed, "_SECONDS_FOR_OTHERS", 0)
    start_as(monkeypatch, 0)
    with pytest.raises(UserError if is_lost else RuntimeError) as raised, distributed.together(CPU):
        raise RuntimeError(message)
    assert len(calls) == 1
    symptom = message.removeprefix("[/third_party/gloo/gloo/transport/tcp/pair.cc:561] ").removesuffix(". GLHF!")
    assert symptom in str(raised.value)


def test_a_process_that_waits_for_work_of_another_ends_where_that_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    store = dist.HashStore()
    monkeypatch.setattr(distributed, "_store", store)
    start_as(monkeypatch, 1)
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
    monkeypatch.setattr(rendezvous, "SECONDS_BETWEEN_LOOKS", 0.005)
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
