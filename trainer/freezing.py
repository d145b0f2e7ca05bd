"""Stages of a model that are frozen in the first epochs, or for good."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from base.base_model import BaseModel
from utils.config.signatures import PositiveInt


@dataclass(frozen=True)
class Freezing:
    """The "freezing" section of a config: which stages of the backbone are not trained, and for how long.

    stages: "all" is the whole backbone, so that the heads alone are trained; a number is the first stages, counted from
    the images, the stem being one (`BaseModel.stages`): what is called "Top6" or "Top3" elsewhere is 6 or 3 here;
    epochs: all of the model is trained after so many epochs; null: never.

    A frozen part is a fixed function of its input: its weights get no gradient, so that no optimizer moves them and no
    weight decay shrinks them; its running statistics stay; its dropout and stochastic depth are off.
    """

    stages: PositiveInt | Literal["all"]
    epochs: PositiveInt | None = None

    def check(self, model: BaseModel) -> None:
        """Raises ValueError if the model has fewer stages. A model on the meta device will do."""
        known = len(model.stages())
        if known == 0:
            raise ValueError(f"stages = {self.stages}: {model.title()} has no stages; leave out freezing")
        if self.stages != "all" and self.stages > known:
            raise ValueError(
                f'stages = {self.stages}: {model.title()} has {known} stage{"s" * (known > 1)}; give no more, or "all"'
            )

    def begin_epoch(self, model: BaseModel, epoch: int) -> bool:
        """Freezes and unfreezes what is due in `epoch`, counted from 1, whatever the epochs before it did.

        To be called after `model.train()`, also where a run is resumed within an epoch. Returns whether other
        parameters are trained now than before the call: what depends on them (DistributedDataParallel) is made anew.
        Raises ValueError if the model has fewer stages."""
        self.check(model)
        stages = model.stages()
        frozen = len(stages) if self.stages == "all" else self.stages
        if self.epochs is not None and epoch > self.epochs:
            frozen = 0
        parameters = dict(model.named_parameters())
        changed = False
        for number, names in enumerate(stages):
            learns = number >= frozen
            for parameter in (parameters[name] for name in names):
                changed |= parameter.requires_grad != learns
                parameter.requires_grad_(learns)
                if not learns:
                    parameter.grad = None
        if frozen:
            _put_frozen_in_eval_mode(model)
        return changed


def _put_frozen_in_eval_mode(module: nn.Module) -> None:
    """Of every part of `module` that has parameters, none of which learns."""
    parameters = list(module.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        module.eval()
        return
    for child in module.children():
        _put_frozen_in_eval_mode(child)
