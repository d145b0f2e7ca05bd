"""The models that answer together: what --resume, --checkpoint and --weights come to."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from inference.predictor import Predictor, find_checkpoint
from inference.tta import Tta
from utils.errors import CheckpointError, ConfigError
from utils.run_folders import fold_name, fold_number, folds_in

logger = logging.getLogger(__name__)

LONGEST_TITLE = 150

LEAST_WEIGHT, GREATEST_WEIGHT = 1e-9, 1e9
"""Of --weights: their sums and shares are then ordinary numbers."""


@dataclass(frozen=True)
class EnsembleMember:
    """One model: its checkpoint, its weight in the vote, and the run of folds that it was found in, if it was."""

    path: Path
    predictor: Predictor
    weight: float
    run_of_folds: Path | None = None

    def describe(self) -> dict[str, Any]:
        """What the file beside a submission has of it: plain data."""
        return {"checkpoint": str(self.path), "run": self.predictor.run_name, "weight": self.weight}

    @property
    def title(self) -> str:
        """<name>_<run>, of a fold that was named alone with the fold. A checkpoint made by others may say anything."""
        run = self.run_of_folds.resolve().name if self.run_of_folds else self.predictor.run_name
        folder = self.path.resolve().parent.name
        if self.run_of_folds is None and fold_number(folder) is not None and not run.endswith(folder):
            run = f"{run}-{folder}"
        return re.sub(r"[/\\\x00]", "_", f"{self.predictor.config['name']}_{run}").lstrip(".")


def load_members(
    named: Sequence[Path],
    checkpoint: str,
    weights: Sequence[float] | None,
    device: torch.device,
    tta: Tta | None = None,
) -> list[EnsembleMember]:
    """The models of run folders and checkpoint files; a run of folds stands for all its folds.

    checkpoint: which one of a run folder, see `find_checkpoint`.
    weights: one for each of `named` (None: equal ones); that of a run of folds is divided among its folds.
    tta: see Predictor.

    Raises ConfigError, CheckpointError."""
    members = []
    for path, weight in zip(named, checked_weights(weights, len(named)), strict=True):
        folds = begun_folds(path)
        if not folds:
            file = find_checkpoint(path, checkpoint)
            members.append(EnsembleMember(file, Predictor.from_checkpoint(file, device, tta), weight))
            continue
        files = [find_checkpoint(folder, checkpoint) for folder in folds.values()]
        of_run = [
            EnsembleMember(file, Predictor.from_checkpoint(file, device, tta), weight / len(files), path)
            for file in files
        ]
        _warn_of_missing_folds(path, set(folds), of_run[0].predictor)
        members += of_run
    return members


def title_of(members: Sequence[EnsembleMember]) -> str:
    """What the answer of all is called: the titles of what was named, joined."""
    titles = list(dict.fromkeys(member.title for member in members))
    joined = "+".join(titles)
    return joined if len(joined) <= LONGEST_TITLE else f"{titles[0]}+{len(titles) - 1}_more"


def checked_weights(weights: Sequence[float] | None, count: int) -> list[float]:
    """The weights of --weights, or equal ones. Raises ConfigError."""
    if weights is None:
        return [1.0] * count
    given = " ".join(f"{weight:g}" for weight in weights)
    if len(weights) != count:
        raise ConfigError(f"--weights {given}: names {len(weights)}, and --resume {count}; give one for each")
    if not all(weight > 0 and math.isfinite(weight) for weight in weights):
        raise ConfigError(f"--weights {given}: every weight must be above 0; leave out the model that is not to count")
    if not all(LEAST_WEIGHT <= weight <= GREATEST_WEIGHT for weight in weights):
        raise ConfigError(
            f"--weights {given}: every weight must be from {LEAST_WEIGHT:g} to {GREATEST_WEIGHT:g}; only their ratios "
            "count"
        )
    return list(weights)


def begun_folds(path: Path) -> dict[int, Path]:
    """The folds of a run that hold a checkpoint; none where `path` is no run of folds. Raises CheckpointError."""
    folds = folds_in(path) if path.is_dir() else {}
    begun = {number: folder for number, folder in folds.items() if any(folder.glob("*.pth"))}
    if folds and not begun:
        raise CheckpointError(f"{path}: none of its {len(folds)} folds has a checkpoint yet")
    return begun


def _warn_of_missing_folds(path: Path, existing: set[int], predictor: Predictor) -> None:
    number = predictor.config.get("split", {"args": {}})["args"].get("folds", max(existing) + 1)
    missing = [fold_name(fold) for fold in range(number) if fold not in existing]
    if missing:
        logger.warning(
            "%s: %s of its %d folds %s no checkpoint yet; the answer is that of the others",
            path,
            ", ".join(missing),
            number,
            "has" if len(missing) == 1 else "have",
        )
