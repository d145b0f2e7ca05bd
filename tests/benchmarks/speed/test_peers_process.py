"""The peers are measured in a process that has nothing of this one's settings."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import cv2
import pytest

from benchmarks.speed.peers_process import PeersProcess


def counting(first: int) -> Callable[[], Any]:
    counts = iter(range(first, 100))
    return lambda: (os.getpid(), cv2.getNumThreads(), next(counts))


def absent() -> Any:
    raise ImportError("No module named 'timm'")


def broken() -> Any:
    raise ValueError("made wrongly")


def failing() -> Callable[[], Any]:
    return lambda: 1 / 0


def dying() -> Callable[[], Any]:
    return lambda: os._exit(9)


def test_contenders_are_made_once_and_measured_there() -> None:
    before = cv2.getNumThreads()
    cv2.setNumThreads(0)
    try:
        makers: dict[str, Any] = {
            "from 3": partial(counting, 3),
            "from 7": partial(counting, 7),
            "absent": absent,
            "failing": failing,
        }
        with PeersProcess(makers) as peers:
            assert peers.missing == {"absent": "not installed (No module named 'timm')"}
            assert peers.contenders.keys() == {"from 3", "from 7", "failing"}
            found = [peers.contenders[name]() for name in ("from 3", "from 7", "from 3")]
            with pytest.raises(ZeroDivisionError):
                peers.contenders["failing"]()
            assert peers.contenders["from 7"]()[2] == 8
    finally:
        cv2.setNumThreads(before)
    assert [count for _, _, count in found] == [3, 7, 4]
    assert len({pid for pid, _, _ in found} - {os.getpid()}) == 1
    assert {threads for _, threads, _ in found} != {0 if before else 1}
    with pytest.raises((OSError, RuntimeError)):
        peers.contenders["from 3"]()


def test_errors_come_back() -> None:
    with pytest.raises(ValueError, match="made wrongly"):
        PeersProcess({"broken": broken})
    with PeersProcess({"dying": dying}) as peers, pytest.raises(RuntimeError, match="the peers' process has died"):
        peers.contenders["dying"]()
