"""The environment of a process that is one of several."""

from __future__ import annotations

import pytest

MEETING = {"RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


def start_as(monkeypatch: pytest.MonkeyPatch, rank: int, port: int = 29500, world_size: int = 2) -> None:
    """Makes this process one of several."""
    for name, value in {**MEETING, "RANK": rank, "WORLD_SIZE": world_size, "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))
