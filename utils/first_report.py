"""Of the processes that torchrun started on a machine, the first that fails says why; the others end without a word."""

from __future__ import annotations

import os
from pathlib import Path


def claim_report() -> bool:
    """Claims the report of the error that ends the processes. Returns whether this process has it: the first that asks,
    and one that torchrun did not start.

    Each attempt of torchrun has a folder, in which each process has one of its own."""
    error_file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not error_file:
        return True
    claim, own = Path(error_file).parents[1] / "reported", str(os.getpid())
    try:
        with claim.open("x") as file:
            file.write(own)
        return True
    except FileExistsError:
        return claim.read_text() == own
    except OSError:
        return True
