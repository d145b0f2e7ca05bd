"""What a measurement depends on beside the code: the machine, and the versions of what does the work."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch

from experiment.run_record import installed_versions
from utils.device import cpu_model
from utils.threads import number_of_cores

PROJECT = Path(__file__).parents[1]
PACKAGES = (
    "torch", "torchvision", "timm", "albumentations", "opencv-python-headless", "numpy", "pillow", "scikit-learn",
)  # fmt: skip


def describe_machine() -> dict[str, Any]:
    """CPU model, cores of this process, memory in GiB, the GPU's name and memory (None where there is none), the name
    of the system. Nothing that tells one machine of a kind from another."""
    gpu = None
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        gpu = {"name": properties.name, "memory_gib": round(properties.total_memory / 2**30, 1)}
    return {
        "cpu": cpu_model(),
        "cores": number_of_cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": gpu,
        "system": platform.system(),
    }


def describe_versions() -> dict[str, str]:
    """Of Python and the packages that do the work; those that are not installed are left out."""
    return installed_versions(PACKAGES)


def file_stem(machine: dict[str, Any]) -> str:
    """A name for the machine's results, such as amd-epyc-2-cores."""
    words = [machine["cpu"], f"{machine['cores']} cores", machine["gpu"]["name"] if machine["gpu"] else ""]
    return re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower()).strip("-")


def commit() -> str | None:
    """The commit that the project is at, "+" behind it where files differ from it, but for those that measuring itself
    writes; None outside a repository."""
    revision = _git("rev-parse", "--short=12", "HEAD")
    if revision is None:
        return None
    return (
        f"{revision}+"
        if _git("status", "--porcelain", "--", ".", ":!benchmarks/results", ":!benchmarks/README.md")
        else revision
    )


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=PROJECT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
