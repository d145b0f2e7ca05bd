"""Averages of the weights over a run, which often predict better than the last weights."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch.optim.swa_utils import AveragedModel

from base.base_model import BaseModel

__all__ = ["ExponentialMovingAverage", "StochasticWeightAveraging"]

Uses = Annotated[list[Literal["validation", "answers"]], Field(min_length=1)]
BOTH: Uses = ["validation", "answers"]


class WeightAveraging(ABC):
    """Keeps a second model, the average, beside the one that trains. Running statistics are averaged with the weights.

    used_for: "validation" (the average is validated, so the monitor and the best checkpoints follow it), "answers" (it
        is what test.py loads from the checkpoints), or both
    """

    def __init__(self, used_for: Uses = BOTH) -> None:
        self.used_for = tuple(used_for)

    @abstractmethod
    def begin(self, model: BaseModel) -> None:
        """Called once, with the model as it is before the run trains it or is resumed."""

    @property
    @abstractmethod
    def average(self) -> BaseModel | None:
        """The averaged model; None while there is nothing to average yet."""

    def after_update(self, updates: int) -> None:  # noqa: B027
        """Called after each update of the weights; updates: their number in the whole run, from 1."""

    def after_epoch(self, epoch: int) -> None:  # noqa: B027
        """Called after an epoch's last update, before the validation; epoch: from 1."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """The average as plain data."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what `state_dict` gave."""


class ExponentialMovingAverage(WeightAveraging):
    """average <- d * average + (1 - d) * weights after every update but the first, whose weights begin it: timm's
    ModelEmaV3, bit for bit, in two calls an update where that goes through the model's modules.

    decay: d, what is kept of the average at each update
    warmup: d rises towards `decay`, after the update number u as 1 - (1 + (u - 1) / warmup_gamma) ** -(2/3), so that
        the first weights are soon forgotten
    warmup_gamma: the updates that this takes
    """

    def __init__(
        self,
        decay: Annotated[float, Field(gt=0, lt=1)] = 0.999,
        warmup: bool = True,
        warmup_gamma: PositiveFloat = 1.0,
        used_for: Uses = BOTH,
    ) -> None:
        super().__init__(used_for)
        self.decay, self.warmup, self.warmup_gamma = decay, warmup, warmup_gamma

    def begin(self, model: BaseModel) -> None:
        self._average = copy.deepcopy(model).eval().requires_grad_(False)
        # Training changes these tensors in place and never replaces them.
        averages, tensors = self._average.state_dict(), model.state_dict()
        self._counts = {name: tensor for name, tensor in tensors.items() if not tensor.is_floating_point()}
        averaged = [name for name in tensors if name not in self._counts]
        self._averages, self._weights = [averages[name] for name in averaged], [tensors[name] for name in averaged]

    @property
    def average(self) -> BaseModel:
        return self._average

    @torch.no_grad()
    def after_update(self, updates: int) -> None:
        torch._foreach_lerp_(self._averages, self._weights, 1 - self._decay_after(updates))

    def _decay_after(self, updates: int) -> float:
        if updates <= 1:
            return 0.0
        return min(1 - (1 + (updates - 1) / self.warmup_gamma) ** (-2 / 3), self.decay) if self.warmup else self.decay

    def state_dict(self) -> dict[str, Any]:
        return {"average": self.average.state_dict() | self._counts}  # of batches, by norms: the model's

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.average.load_state_dict(state["average"])


class StochasticWeightAveraging(WeightAveraging):
    """The plain mean of the weights at the ends of the epochs from `from_epoch` on (Izmailov et al. 2018).

    It needs a learning rate that stays high in these epochs. The running statistics are averaged like the weights,
    where the paper passes over the training data once more.

    from_epoch: the first epoch whose weights count
    """

    def __init__(self, from_epoch: PositiveInt, used_for: Uses = BOTH) -> None:
        super().__init__(used_for)
        self.from_epoch = from_epoch

    def begin(self, model: BaseModel) -> None:
        self._model = model
        self._average = AveragedModel(model, use_buffers=True).requires_grad_(False).eval()
        self._last_epoch = 0  # whose weights are in the average

    @property
    def average(self) -> BaseModel | None:
        module = self._average.module
        assert isinstance(module, BaseModel)
        return module if self._average.n_averaged > 0 else None

    def after_epoch(self, epoch: int) -> None:
        if epoch >= self.from_epoch and epoch > self._last_epoch:  # a run stopped in its validation comes here again
            with torch.no_grad():
                self._average.update_parameters(self._model)
            self._last_epoch = epoch

    def state_dict(self) -> dict[str, Any]:
        average, count = self._average.module.state_dict(), int(self._average.n_averaged)
        return {"average": average, "count": count, "last_epoch": self._last_epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._average.module.load_state_dict(state["average"])
        self._average.n_averaged.fill_(state["count"])
        self._last_epoch = state.get("last_epoch", 0)  # earlier versions did not keep it
