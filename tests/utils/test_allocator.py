"""What a process frees it takes again, and its pages are not asked for anew."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from utils.allocator import keep_freed_memory, return_freed_memory

PROJECT = Path(__file__).parents[2]
PROGRAM = """
import os, resource, sys
from utils.allocator import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def work():
    for _ in range(10):
        for mib in (1, 40):
            b"1" * (mib * 2**20)

if "keep" in sys.argv:
    keep_freed_memory()
if "fork" in sys.argv and (child := os.fork()):
    os.waitpid(child, 0)
    sys.exit()
work()
before = faults()
work()
print(faults() - before)
"""


def page_faults(*how: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *how], cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library than glibc")
@pytest.mark.parametrize("how", [("keep",), ("keep", "fork")])
def test_freed_memory_is_kept_by_the_process_and_its_forks(how: tuple[str, ...]) -> None:
    assert page_faults() > 50_000  # ten times 40 MiB in pages of 4 KiB are 102,400
    assert page_faults(*how) < 1_000


RESIDENT = """
from utils.allocator import keep_freed_memory, return_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 // 2**20

keep_freed_memory()
kept = [b"1" * 2**20 for _ in range(200)]
last = b"1" * 2**20  # above them, so that they are not the heap's end
del kept
before = resident()
return_freed_memory()
print(before - resident())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library than glibc")
def test_what_is_kept_can_be_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", RESIDENT], cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=True)
    assert int(done.stdout) > 150  # MiB


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: object())
    keep_freed_memory()
    return_freed_memory()
