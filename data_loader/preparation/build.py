"""The preparation that a checkpoint carries, built again."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_loader.preparation.background import BackgroundRemoval
from data_loader.preparation.faces import FaceCrop, RegionCrop
from data_loader.preparation.preparation import Preparation
from utils.config.sections import TypedList, TypedSection
from utils.errors import CheckpointError, ConfigError, InvalidConfig

logger = logging.getLogger(__name__)

STEPS = {step.__name__: step for step in (BackgroundRemoval, FaceCrop, RegionCrop)}
PREPARATION = TypedList(TypedSection(STEPS))
"""A config's `preparation`."""


def saved_preparation(
    saved: Sequence[Mapping[str, Any]], origin: Path, resumed: Sequence[Mapping[str, Any]] = ()
) -> Preparation | None:
    """What `Preparation.to_config` was made of; None: without steps.

    origin: the checkpoint's file. A weights file may lie beside it, too
    resumed: the steps in the config that its run was last resumed with, which may say where the files are now

    Raises ValueError where it is not of this version's form; ConfigError where a package or a file is missing;
    CheckpointError where a network is another one."""
    specs: list[Any] = []
    for number, step in enumerate(saved):
        args = dict(step["args"])
        if file := args.get("weights_file"):
            moved = [each["args"].get("weights_file") or "" for each in resumed[number : number + 1]]
            files = [origin.parent / Path(file).name, Path(file), *map(Path, moved)]
            args["weights_file"] = str(next((each for each in files if each.is_file()), file))
        specs.append({"type": step["type"], "args": args})
    if problems := PREPARATION.problems(specs, ("preparation",)):
        raise InvalidConfig(problems)
    try:
        preparation = Preparation(PREPARATION.build(PREPARATION.with_defaults(specs), ("preparation",), {}))
    except InvalidConfig as error:
        hint = f"; a weights file may lie beside {origin.name}, too"
        lines = [f"{origin}: {each}{hint if 'weights_file' in each.key_path else ''}" for each in error.problems]
        raise ConfigError("\n".join(lines), error.problems) from None
    refuse_other_networks(saved, preparation, origin)
    return preparation if preparation.steps else None


def refuse_other_networks(saved: Sequence[Mapping[str, Any]], preparation: Preparation, origin: Path) -> None:
    """Raises CheckpointError where a step's network has other weights than the checkpoint's; other versions of the
    libraries that run it are a warning.

    saved: the same steps as those of `preparation`, as the checkpoint carries them"""
    for number, (before, step) in enumerate(zip(saved, preparation.steps, strict=True)):
        network, own = before["network"], step.network.key
        name = f"preparation.{number} ({type(step).__name__}): {step.network_name}"
        if network.get("weights") != own.get("weights"):
            wrong = "is not the network that the model was trained with: its content is another"
            raise CheckpointError(f"{origin}: {name} {wrong}; put that one there")
        if (versions := network.get("versions")) != own.get("versions"):
            logger.warning("%s: %s ran with %s, and runs with %s here", origin, name, versions, own.get("versions"))
