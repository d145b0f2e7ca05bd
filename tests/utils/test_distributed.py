"""How a process joins the others, with what it computes on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist

from utils import distributed
from utils.errors import ConfigError

CPU, SECOND_GPU = torch.device("cpu"), torch.device("cuda", 1)
RENDEZVOUS = {"RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is asked of torch, in order, which does nothing."""
    made: list[Any] = []
    monkeypatch.setattr(torch.cuda, "set_device", made.append)
    store = dist.HashStore()
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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_what_names_no_device_goes_to_the_processs_own() -> None:
    device = torch.device("cuda", torch.cuda.device_count() - 1)
    try:
        with distributed.together(device):
            assert torch.zeros(1, device="cuda").device == device
    finally:
        torch.cuda.set_device(0)
