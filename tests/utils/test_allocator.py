"""What a process frees it keeps for its next allocation, until it returns it."""

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
from utils.allocator import keep_freed_memory, return_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 // 2**20

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
faults_again = faults() - before
blocks = [b"1" * 2**20 for _ in range(200)]
last = b"1" * 2**20  # above them, so that they are not the heap's end
del blocks
before = resident()
return_freed_memory()
print(faults_again, before - resident())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library than glibc")
@pytest.mark.parametrize("how", [(), ("keep",), ("keep", "fork")])
def test_freed_memory_is_kept_by_the_process_and_its_forks_until_it_is_returned(how: tuple[str, ...]) -> None:
    command = [sys.executable, "-c", PROGRAM, *how]
    done = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=True)
    page_faults, returned_mib = map(int, done.stdout.split())
    assert page_faults < 1_000 if how else page_faults > 50_000  # ten times 40 MiB in pages of 4 KiB are 102,400
    assert returned_mib > 150


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: object())
    keep_freed_memory()
    return_freed_memory()
