"""Stages of a model that are frozen in the first epochs, or for good."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import PositiveInt
from torch import nn

from base.base_model import BaseModel


@dataclass(frozen=True)
class Freezing:
    """The "freezing" section of a config: which stages of the backbone are not trained, and for how long.

    stages: "all" is the whole backbone, so that the heads alone are trained; a number is the first stages, counted from
    the images, the stem being one (`BaseModel.stages`): what is called "Top6" or "Top3" elsewhere is 6 or 3 here;
    epochs: all of the model is trained after so many epochs; null: never.

    A frozen stage is a fixed function of its input: its weights get no gradient, so that no optimizer moves them and no
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
            raise ValueError(f'stages = {self.stages}: {model.title()} has {known} stages; give no more, or "all"')

    def begin_epoch(self, model: BaseModel, epoch: int) -> bool:
        """Freezes and unfreezes what is due in `epoch`, counted from 1, whatever the epochs before it did.

        To be called after `model.train()`, also where a run is resumed within an epoch. Returns whether the parameters
        that are trained have changed: DistributedDataParallel, which depends on them, must be made anew."""
        stages = model.stages()
        frozen = len(stages) if self.stages == "all" else self.stages
        if self.epochs is not None and epoch > self.epochs:
            frozen = 0
        changed = False
        for number, names in enumerate(stages):
            is_trained = number >= frozen
            for parameter in map(model.get_parameter, names):
                changed |= parameter.requires_grad != is_trained
                parameter.requires_grad_(is_trained)
                if not is_trained:
                    parameter.grad = None
        if frozen:
            _put_frozen_in_eval_mode(model)
        return changed


def _put_frozen_in_eval_mode(module: nn.Module) -> None:
    parameters = list(module.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        module.eval()
        return
    for child in module.children():
        _put_frozen_in_eval_mode(child)
