"""What every test may rely on."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from utils.allocator import return_freed_memory
from utils.environment import VARIABLES

# One thread: several cost more than they bring on images of 32 pixels, and tests run side by side. It is set here, for
# torch and numpy's library read it when they are imported, which a folder's own conftest does.
os.environ["OMP_NUM_THREADS"] = "1"


def pytest_configure() -> None:
    """The suite, and whatever it starts, sees none of the variables that a platform may have set around it."""
    for name in VARIABLES:
        os.environ.pop(name, None)
    import cv2

    cv2.setNumThreads(1)


@pytest.fixture(autouse=True, scope="module")
def _freed_memory_is_returned() -> Iterator[None]:
    """train.py makes its process keep what it frees, and a test of large images frees gigabytes: a fork copies their
    page tables."""
    yield
    return_freed_memory()
