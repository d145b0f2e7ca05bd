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
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **others: made.append((backend, others)))
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
    distributed.start(device)
    joined = (backend, {"timeout": distributed.TIME_LIMIT, "device_id": bound_to})
    assert calls == [SECOND_GPU] * (device == SECOND_GPU) + [joined] * (processes == "2")


@pytest.mark.parametrize("missing", [["RANK"], ["MASTER_ADDR", "MASTER_PORT"]])
def test_processes_that_nobody_started_together_are_refused(
    calls: list[Any], monkeypatch: pytest.MonkeyPatch, missing: list[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in missing:
        monkeypatch.delenv(name)
    with pytest.raises(ConfigError, match=rf"WORLD_SIZE = 2 without {', '.join(missing)}: .*torchrun"):
        distributed.start(CPU)
    assert calls == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_what_names_no_device_goes_to_the_processs_own() -> None:
    device = torch.device("cuda", torch.cuda.device_count() - 1)
    try:
        distributed.start(device)
        assert torch.zeros(1, device="cuda").device == device
    finally:
        torch.cuda.set_device(0)
