"""The metrics of an epoch, accumulated batch by batch: losses by head, and confusion counts.

Sums stay on the device and are divided once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from base.metrics import Metrics
from utils import distributed

BATCHES_TOGETHER = 32
"""So many batches are added up at once: one by one the many small operations would cost a tenth of a small step."""


class EpochMetrics:
    """The sums of one pass over a set, and the metrics that they make.

    metrics: counts the predictions
    head_weights: by name, the weight of each loss in the whole
    """

    def __init__(self, metrics: Metrics, head_weights: Mapping[str, float], device: torch.device) -> None:
        self.metrics, self.head_weights = metrics, head_weights
        # One row a loss: the sum of weighted losses, and the sum of weights.
        self.losses = torch.zeros(len(head_weights), 2, dtype=torch.float64, device=device)
        # Of the batches that are still to be added up.
        self._scalars: list[Tensor] = []
        self._outputs: list[dict[str, Tensor]] = []
        self._targets: list[Mapping[str, Tensor]] = []

    def add(
        self,
        losses: Mapping[str, Tensor],
        normalisers: Mapping[str, Tensor],
        weights: Mapping[str, Tensor],
        outputs: Mapping[str, Tensor],
        scoring_targets: Mapping[str, Tensor],
    ) -> None:
        """Adds a batch, whose tensors must stay as they are.

        losses: scalars by name, each divided by its normaliser
        weights: scalars by name, the sums of this batch's sample weights
        outputs: the model's, of which the heads are logits (B, C)
        scoring_targets: true classes by attribute, (B,) int64, -1 = unknown
        """
        for scalars in (losses, normalisers, weights):
            self._scalars += [scalars[name] for name in self.head_weights]
        self._outputs.append({head: outputs[head].detach() for head in self.metrics.labels.heads})
        self._targets.append(scoring_targets)
        if len(self._outputs) == BATCHES_TOGETHER:
            self._add_up()

    def _add_up(self) -> None:
        if not self._outputs:
            return
        shape = (len(self._outputs), 3, len(self.head_weights))
        losses, normalisers, weights = torch.stack(self._scalars).view(shape).unbind(dim=1)
        added = torch.stack([losses * normalisers, weights], dim=2)  # (batches, losses, 2)
        # One batch after the other, as a run does that is stopped in between and resumed.
        self.losses.copy_(torch.cat([self.losses.unsqueeze(0), added]).cumsum(dim=0)[-1])
        self.metrics.update(_concatenated(self._outputs), _concatenated(self._targets))
        self._scalars, self._outputs, self._targets = [], [], []

    def reduced(self) -> EpochMetrics:
        """These sums over all processes, in place; call it once, at the end."""
        self._add_up()
        distributed.all_reduce_sum(self.losses)
        self.metrics.reduce()
        return self

    def values(self, prefix: str) -> dict[str, float]:
        """Every number of the set by name: <prefix>loss, <prefix>loss_<head>, and the metrics.

        A head without a known label has no loss, and adds nothing to the whole; without any there is no whole."""
        self._add_up()
        losses: dict[str, float] = {}
        whole = 0.0
        for (name, weight), (total, weights) in zip(self.head_weights.items(), self.losses.tolist(), strict=True):
            if weights > 0:
                losses[f"{prefix}loss_{name}"] = total / weights
                whole += weight * total / weights
        return ({f"{prefix}loss": whole} if losses else {}) | losses | self.metrics.values(prefix)

    def state_dict(self) -> dict[str, Any]:
        self._add_up()
        return {"losses": self.losses.cpu(), "scores": self.metrics.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.losses.copy_(state["losses"])
        self.metrics.load_state_dict(state["scores"])


def _concatenated(batches: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def summary(metrics: Mapping[str, float]) -> dict[str, float]:
    """What a person reads of an epoch: the learning rate, the losses, and the validation's metrics."""
    return {
        name: value
        for name, value in metrics.items()
        if name in ("lr", "train/loss") or (name.startswith("val/") and "loss_" not in name)
    }


def describe(metrics: Mapping[str, float]) -> str:
    """The metrics in one line, in the order they were made."""
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
