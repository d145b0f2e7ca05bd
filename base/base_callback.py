"""The contract of a callback: what is done before and after each update of the weights, and at the end of an epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from base.base_model import BaseModel


@dataclass(frozen=True)
class Update:
    """One update of the weights, with its gradients in `parameter.grad`.

    model: that is trained
    criterion: the losses, which may have parameters of their own
    number: of the update in the whole run, from 1
    epoch: from 1
    gradient_scale: a scalar by which the gradients are too large, for float16; 1 otherwise
    add_gradients: adds the gradients of the same images at the weights as they are now, with the same dropout
    """

    model: BaseModel
    criterion: nn.Module
    number: int
    epoch: int
    gradient_scale: Tensor
    add_gradients: Callable[[], object]


class BaseCallback:
    """Does something around the updates of a run. A subclass overrides what it needs; its constructor takes the
    arguments of JSON.

    A callback's random numbers must follow from `update.number`, and all else that it remembers must be in
    `state_dict`, or a resumed run is another one. Of several processes each calls its own; the main one's state is
    saved.
    """

    metrics: ClassVar[Mapping[str, Literal["min", "max"]]] = {}
    """By name, such as "train/gradient_norm", the numbers that `end_epoch` gives and which way they get better: what a
    monitor may watch."""

    def before_update(self, update: Update) -> None:
        """Called when the gradients are there, before they are clipped and the optimizer steps; may change them."""

    def after_update(self, update: Update) -> None:
        """Called when the weights have changed; the gradients are gone."""

    def end_epoch(self, epoch: int, metrics: Mapping[str, float]) -> Mapping[str, float]:  # noqa: ARG002
        """Called after the validation, with all numbers of the epoch; returns further ones, which are logged with them
        and may be watched."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What it remembers, as plain data: numbers, texts, tensors, lists and dicts of them."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what `state_dict` gave."""
