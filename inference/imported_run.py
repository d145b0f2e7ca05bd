"""A run folder of ours from another program's weights: what test.py --resume takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from base.label_space import LabelSpace
from base.weights import load_weights
from data_loader.transforms import build_transforms
from inference.foreign_weights import Fitting
from model.model import build_without_weights
from utils.errors import CheckpointError


def imported_content(
    config: Mapping[str, Any],
    labels: LabelSpace,
    foreign: Mapping[str, Tensor],
    path: Path,
    renames: Sequence[tuple[str, str]] = (),
) -> tuple[dict[str, Any], list[str]]:
    """What a checkpoint of ours holds to answer with, made of the weights `foreign` that were read from `path` and a
    checked config of their model; and how they were matched, as lines for the log.

    Raises CheckpointError, a line for each weight that does not fit; ConfigError for a wrong rename."""
    model = build_without_weights(config["arch"], labels.num_classes)
    fitting = Fitting(model, labels, foreign, renames)
    if problems := fitting.problems():
        raise CheckpointError("\n".join(f"{path}: {problem}" for problem in problems))
    load_weights(model, fitting.weights, path)
    input_size = config["data_loader"].get("args", {}).get("input_size")
    transforms = build_transforms(config["transforms"], input_size, model.mean, model.std)
    content = {
        "model": model.state_dict(),
        "config": dict(config),
        "labels": labels.to_config(),
        "preprocessing": transforms.preprocessing.to_config(),
    }
    return content, fitting.notes
