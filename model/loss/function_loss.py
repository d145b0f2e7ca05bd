"""A plug-in's plain function as the loss of a head."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from base.metrics import num_positional
from model.loss.head_loss import HeadLoss
from utils.config.plugins import Component, described_failure, subclasses

Function = Callable[..., Tensor]


class FunctionLoss(HeadLoss):
    """A function of (output, target): the logits (B, C) of the samples whose label is known, and their classes (B,).

    It gives their mean, or the loss of each (B,). Where it gives a mean, an update of several batches has the mean over
    all its samples, as one large batch has. Class weights are the function's own matter.

    function: with its further arguments
    """

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def per_sample(self, logits: Tensor, target: Tensor) -> Tensor:
        losses = self.function(logits, target)
        return losses if losses.shape == target.shape else losses.expand(target.shape)

    def total(self, logits: Tensor, target: Tensor, known: Tensor, weights: Tensor | None = None) -> Tensor:
        # A mean cannot be masked or weighted, so the samples of each weight are apart, and this waits for the device.
        of_weights = [(1.0, known)]
        if weights is not None:
            of_weights = [(weight, known & (weights == weight)) for weight in weights.unique().tolist()]
        parts = [
            weight * self.per_sample(logits[rows], target[rows]).sum()
            for weight, mask in of_weights
            if len(rows := mask.nonzero().squeeze(1))
        ]
        return torch.stack(parts).sum() if parts else logits.sum() * 0

    def check_num_classes(self, num_classes: int, class_names: Any = ()) -> None:  # noqa: ARG002
        """Raises ValueError where the function does not give a loss of a batch that can be followed."""
        logits = torch.linspace(-1, 1, 4 * num_classes).view(4, num_classes).requires_grad_()
        try:
            losses = self.function(logits, torch.arange(4) % num_classes)
        except Exception as error:
            raise ValueError(f"fails on a batch{described_failure(error)}") from error
        if not isinstance(losses, Tensor) or losses.shape not in ((), (4,)) or not losses.requires_grad:
            wrong = "must give the mean loss of a batch, or the loss of each sample, as a tensor of its output"
            raise ValueError(f"{wrong}; of 4 samples it gives {_described(losses)}")

    def falls_without_bound(self, num_classes: int) -> bool:
        """Whether logits that are ever surer of the truth make it ever smaller, as those of `nll_loss`, which expects
        log-probabilities."""
        try:
            return float(self.function(1e4 * torch.eye(num_classes), torch.arange(num_classes)).mean()) < -1e3
        except Exception:  # which `check_num_classes` reports
            return False


def _described(given: Any) -> str:
    if not isinstance(given, Tensor):
        return f"{given!r:.60} ({type(given).__name__})"
    return f"a tensor of shape {tuple(given.shape)}{'' if given.requires_grad else ', which no gradient follows'}"


@functools.cache
def as_head_loss(found: Any) -> Component | None:
    """A plug-in's class or function, where it can be the loss of a head."""
    if not inspect.isfunction(found):
        return subclasses(HeadLoss)(found)
    if num_positional(found) < 2:
        return None

    def make(**arguments: Any) -> FunctionLoss:
        return FunctionLoss(functools.partial(found, **arguments))

    _, _, *parameters = inspect.signature(found).parameters.values()
    named = [each for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    signature = inspect.Signature([each.replace(kind=each.KEYWORD_ONLY) for each in named])
    component: Any = functools.update_wrapper(make, found)
    component.__signature__ = signature  # the schema of its arguments
    return cast(Component, component)
