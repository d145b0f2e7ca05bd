"""The device's generators, and what a CPU can do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from utils.device import choose_compute_type, choose_device, seed_generators
from utils.errors import ConfigError


@pytest.mark.parametrize("seed", [0, 1, 2**32 + 5, 2**63 - 1])
def test_the_same_numbers_as_after_torchs_own_seeding(seed: int) -> None:
    torch.manual_seed(seed)
    expected = torch.rand(5), torch.randint(1000, (5,)), torch.bernoulli(torch.full((5,), 0.5))
    torch.manual_seed(7)
    seed_generators(seed, torch.device("cpu"))
    found = torch.rand(5), torch.randint(1000, (5,)), torch.bernoulli(torch.full((5,), 0.5))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpus_generator_too() -> None:
    device = torch.device("cuda", torch.cuda.device_count() - 1)
    torch.manual_seed(11)
    expected = torch.rand(5, device=device), torch.rand(5)
    torch.manual_seed(7)
    seed_generators(11, device)
    assert torch.equal(torch.rand(5, device=device), expected[0])
    assert torch.equal(torch.rand(5), expected[1])


def test_auto_is_bfloat16_on_a_cpu_that_has_instructions_for_it() -> None:
    described = Path("/proc/cpuinfo")
    if not described.exists():
        pytest.skip("no /proc/cpuinfo here")
    flags = next((line.split() for line in described.read_text().splitlines() if line.startswith("flags")), [])
    is_native = "avx512_bf16" in flags or "amx_tile" in flags
    assert choose_compute_type("auto", torch.device("cpu")) == (torch.bfloat16 if is_native else torch.float32)


@pytest.mark.parametrize(("has_bfloat16", "chosen"), [(True, torch.bfloat16), (False, torch.float16)])
def test_auto_on_a_gpu(monkeypatch: pytest.MonkeyPatch, has_bfloat16: bool, chosen: torch.dtype) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: has_bfloat16)
    assert choose_compute_type("auto", torch.device("cuda", 0)) == chosen


def test_a_process_more_than_there_are_gpus_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for rank in (0, 1):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        assert choose_device(None) == torch.device("cuda", rank)
    monkeypatch.setenv("LOCAL_RANK", "2")
    for name, words in ((None, "process 2 of this machine has no GPU: there are 2"), ("cuda", "there are 2 CUDA")):
        with pytest.raises(ConfigError, match=re.escape(words)):
            choose_device(name)
    for name, number in (("0", 0), ("1", 1), ("cuda:1", 1)):
        assert choose_device(name) == torch.device("cuda", number)
    assert choose_device(None, n_gpu=0) == choose_device("cpu") == torch.device("cpu")
