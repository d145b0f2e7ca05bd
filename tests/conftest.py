"""What every test may rely on."""

from __future__ import annotations

import os

from utils.environment import VARIABLES


def pytest_configure() -> None:
    """The suite, and whatever it starts, sees none of the variables that a platform may have set around it."""
    for name in VARIABLES:
        os.environ.pop(name, None)
