"""What a run computes in: the numbers' type and the images' layout, measured where only measuring tells."""

from __future__ import annotations

import copy
import itertools
import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from base.base_model import BaseModel
from base.base_trainer import TrainerSettings
from trainer.resume import ResumePoint
from utils import distributed
from utils.device import COMPUTE_TYPES, choose_compute_type, computes_bfloat16_natively
from utils.errors import CheckpointError

MEASURED_FROM = 20_000
"""Images that a run on a CPU must show in all for the measurement to pay."""

MEASURED_SECONDS = 5.0
"""After so long no further round is begun, but the first ones are always taken."""

MEASURED_ROUNDS = 3
"""Fewer do not tell what is slow from what was disturbed."""

MEASURED_BATCH = 16
"""Of fewer images the weights, which are cast once a step, count for more than they do in a run."""

MARGINS = {torch.bfloat16: 1.2, torch.float32: 1.0}
"""So many times as fast as float32 a type must be: that noise does not decide, and that lost digits bring something."""

LAYOUT_MARGINS = {True: 1.0, False: 1.1}
"""The same for images that are not laid out channels_last, against those that are."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Compute:
    """compute_type: of autocast, float32 where there is none; channels_last: how images and weights lie in memory."""

    compute_type: torch.dtype
    channels_last: bool

    @classmethod
    def unmeasured(cls, settings: TrainerSettings, device: torch.device) -> Compute:
        """What the settings say; where they say "auto": channels_last, and what `choose_compute_type` takes."""
        return cls(choose_compute_type(settings.precision, device), settings.channels_last is not False)

    @classmethod
    def from_config(cls, config: Any) -> Compute:
        """The inverse of `to_config`. Raises ValueError for anything else."""
        match config:
            case {"precision": str(name), "channels_last": bool(channels_last)} if name in COMPUTE_TYPES:
                return cls(COMPUTE_TYPES[name], channels_last)
        raise ValueError(f"not a choice of what to compute in: {config!r}")

    def to_config(self) -> dict[str, Any]:
        """Plain data, for the checkpoint."""
        return {"precision": str(self), "channels_last": self.channels_last}

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def __str__(self) -> str:
        return next(name for name, kind in COMPUTE_TYPES.items() if kind == self.compute_type)

    def title(self) -> str:
        """Such as "bfloat16 channels_last"."""
        return f"{self} {'channels_last' if self.channels_last else 'contiguous'}"


def choose_compute(
    settings: TrainerSettings,
    model: BaseModel,
    image_hw: tuple[int, int],
    device: torch.device,
    images_shown: int,
    resume: ResumePoint | None,
    other_folds: Iterable[ResumePoint] = (),
) -> Compute:
    """What the run computes in, the same in all processes.

    images_shown: by the whole run, over all processes; resume: of the run that goes on, which keeps to what it has
    begun with on this kind of device; None: a new run, or fold. A fold takes what the first of the `other_folds` of its
    run computes in that has chosen for this kind of device. Else, on a CPU that has instructions for bfloat16, a run of
    at least MEASURED_FROM images times what the settings leave open, with its own model. The model is left as it is,
    and so are torch's generators. Raises CheckpointError for a checkpoint's choice that is none.
    """
    if resume is not None:
        return kept_choices(resume.content, resume.path).get(device.type) or Compute.unmeasured(settings, device)
    chosen = None
    if distributed.is_main_process():  # another may find other times, and other folds, which grow meanwhile
        chosen = _choice_of(other_folds, device) or _new_choice(settings, model, image_hw, device, images_shown)
    text = distributed.broadcast_text(json.dumps(chosen and chosen.to_config()))
    return Compute.from_config(json.loads(text))


def kept_choices(content: Mapping[str, Any], path: Path) -> dict[str, Compute]:
    """What a run has computed in so far, by kind of device, from the content of the checkpoint at `path`.

    Raises CheckpointError."""
    kept = content.get("compute", {})  # which the first version did not write
    try:
        if isinstance(kept, dict) and all(isinstance(kind, str) for kind in kept):
            return {kind: Compute.from_config(choice) for kind, choice in kept.items()}
    except ValueError:
        pass
    raise CheckpointError(f"{path}: cannot be used: its compute is not what this program writes ({kept!r:.60})")


def _choice_of(folds: Iterable[ResumePoint], device: torch.device) -> Compute | None:
    choices = (kept_choices(fold.content, fold.path).get(device.type) for fold in folds)
    return next((choice for choice in choices if choice is not None), None)


def _new_choice(
    settings: TrainerSettings, model: BaseModel, image_hw: tuple[int, int], device: torch.device, images_shown: int
) -> Compute:
    """What is measured to be best, where measuring pays, and else what the settings say."""
    unmeasured = Compute.unmeasured(settings, device)
    types = [unmeasured.compute_type] + [torch.bfloat16] * (settings.precision == "auto")
    layouts = [unmeasured.channels_last] + [False] * (settings.channels_last == "auto")
    candidates = [Compute(*choice) for choice in itertools.product(types, layouts)]
    worth_it = images_shown >= MEASURED_FROM and len(candidates) > 1
    if device.type != "cpu" or not worth_it or not computes_bfloat16_natively():
        return unmeasured
    return _measured(candidates, model, image_hw)


def _measured(candidates: Sequence[Compute], model: BaseModel, image_hw: tuple[int, int]) -> Compute:
    """The fastest of the candidates, each at its best and held back by its margins; the first is the usual one.

    What else the machine does only ever makes a round slower."""
    began = time.perf_counter()
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        images = torch.randn(MEASURED_BATCH, 3, *image_hw)
        models = {
            each.channels_last: copy.deepcopy(model).train().to(memory_format=each.memory_format) for each in candidates
        }
        for each in candidates:  # libraries prepare themselves for a shape at its first time
            _seconds(each, models[each.channels_last], images)
        seconds: dict[Compute, list[float]] = {each: [] for each in candidates}
        while len(seconds[candidates[0]]) < MEASURED_ROUNDS or time.perf_counter() < began + MEASURED_SECONDS:
            for each, taken in seconds.items():  # in turn: what else the machine does slows all of them alike
                taken.append(_seconds(each, models[each.channels_last], images))
    rates = {each: MEASURED_BATCH / min(taken) for each, taken in seconds.items()}
    chosen = max(candidates, key=lambda each: rates[each] / _margin(each))
    told = ", ".join(f"{each.title()} {rate:.1f}" for each, rate in rates.items())
    logger.info("the run computes in %s; measured, in images/s: %s", chosen.title(), told)
    return chosen


def _margin(compute: Compute) -> float:
    return MARGINS.get(compute.compute_type, 1.0) * LAYOUT_MARGINS[compute.channels_last]


def _seconds(compute: Compute, model: BaseModel, images: torch.Tensor) -> float:
    """What one pass forward and back takes."""
    model.zero_grad(set_to_none=True)
    arranged = images.to(compute.compute_type, memory_format=compute.memory_format)
    began = time.perf_counter()
    with torch.autocast("cpu", compute.compute_type, enabled=compute.compute_type != torch.float32):
        outputs = model(arranged)
    torch.stack([output.float().mean() for output in outputs.values()]).sum().backward()
    return time.perf_counter() - began
