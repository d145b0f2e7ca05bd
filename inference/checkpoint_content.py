"""What a checkpoint must hold for test.py to use it, beyond what its model, label space and preprocessing refuse."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.errors import CheckpointError

_NEEDED: dict[str, type] = {"config": dict, "config.name": str, "config.arch": dict, "run_name": str}
_NEEDED |= {"completed_epochs": int}

_WHERE_IT_IS: dict[str, type | tuple[type, ...]] = {
    "config.trainer": dict,
    "config.trainer.save_dir": str,
    "config.info_dir": (str, type(None)),
    "config.submit_dir": str,
    "config.label_fixes": (str, type(None)),
    "config.seed": int,
    "config.views": (dict, type(None)),
    "config.data": list,
    "config.split": dict,
    "config.split.args": dict,
    "config.data_loader": dict,
    "config.data_loader.args": dict,
    "config.data_loader.args.batch_size": int,
    "config.data_loader.args.valid_batch_size": (int, type(None)),
    "config.data_loader.args.num_workers": (int, str),
    "config.data_loader.args.cache": str,
    "config.data_loader.args.cache_budget_gib": (int, float),
    "config.data_loader.args.on_bad_image": str,
}
"""What else is read of a config, and may be left out."""


def check_content(content: Mapping[str, Any], path: Path) -> None:
    """Raises CheckpointError for a checkpoint, read from `path`, that lacks what every one of this program has, or
    holds something of another kind in its place: its checksum tells that it is whole, not who made it."""
    for key_path, kind in (_NEEDED | _WHERE_IT_IS).items():
        *steps, last = key_path.split(".")
        part: Any = content
        for step in steps:
            part = part.get(step, {})
        if last in part and not isinstance(part[last], kind):
            raise CheckpointError(f"{path}: cannot be used: its {key_path} is of another kind ({part[last]!r:.60})")
        if last not in part and key_path in _NEEDED:
            raise CheckpointError(f"{path}: lacks {key_path!r}, which every checkpoint of this program has")
    for number, source in enumerate(content["config"].get("data", [])):
        arguments = source.get("args", {}) if isinstance(source, dict) else None
        if not isinstance(arguments, dict) or not all(
            isinstance(arguments.get(key, ""), str | None) for key in ("path", "root")
        ):
            raise CheckpointError(
                f"{path}: cannot be used: its config.data.{number} is of another kind ({source!r:.60})"
            )
