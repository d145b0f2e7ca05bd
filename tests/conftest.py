"""What every test may rely on."""

from __future__ import annotations

import os

from utils.environment import VARIABLES


def pytest_configure() -> None:
    """The suite, and whatever it starts, sees none of the variables that a platform may have set around it, and
    computes in one thread: several cost more than they bring on images of 32 pixels, and tests run side by side."""
    for name in VARIABLES:
        os.environ.pop(name, None)
    os.environ["OMP_NUM_THREADS"] = "1"  # of torch and of numpy's library, which are imported after this
    import cv2

    cv2.setNumThreads(1)
