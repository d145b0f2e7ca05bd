"""What an epoch adds up: losses by head, and confusion counts. Sums stay on the device and are divided once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from base.scores import Scores
from utils import distributed

BATCHES_TOGETHER = 32
"""So many batches are added up at once: one by one the many small operations would cost a tenth of a small step."""


class EpochSums:
    """The running sums of one pass over a set, and the metrics they make."""

    def __init__(self, scores: Scores, head_weights: Mapping[str, float], device: torch.device) -> None:
        self.scores = scores
        self.head_weights = head_weights
        # One row a head: the sum of weighted losses, and the sum of weights.
        self.losses = torch.zeros(len(head_weights), 2, dtype=torch.float64, device=device)
        # Of the batches that are still to be added up: the scalars of their losses, outputs and true classes.
        self._scalars: list[Tensor] = []
        self._outputs: list[dict[str, Tensor]] = []
        self._truths: list[Mapping[str, Tensor]] = []

    def add(
        self,
        parts: Mapping[str, Tensor],
        normalisers: Mapping[str, Tensor],
        weights: Mapping[str, Tensor],
        outputs: Mapping[str, Tensor],
        scoring_targets: Mapping[str, Tensor],
    ) -> None:
        """Adds a batch: its loss by head over the normalisers it was divided by, and its own sums of weights; the
        model's outputs, of which the heads are raw (B, C), and the true classes by attribute, (B,), -1 passed over.

        All of them must stay as they are."""
        for scalars in (parts, normalisers, weights):
            self._scalars += [scalars[head] for head in self.head_weights]
        self._outputs.append({head: outputs[head].detach() for head in self.scores.labels.heads})
        self._truths.append(scoring_targets)
        if len(self._outputs) == BATCHES_TOGETHER:
            self._add_up()

    def _add_up(self) -> None:
        if not self._outputs:
            return
        shape = (len(self._outputs), 3, len(self.head_weights))
        parts, normalisers, weights = torch.stack(self._scalars).view(shape).unbind(dim=1)
        added = torch.stack([parts * normalisers, weights], dim=2)  # (batches, heads, 2)
        # One batch after the other, as a run does that is stopped in between and goes on.
        self.losses.copy_(torch.cat([self.losses.unsqueeze(0), added]).cumsum(dim=0)[-1])
        self.scores.update(_joined(self._outputs), _joined(self._truths))
        self._scalars, self._outputs, self._truths = [], [], []

    def reduced(self) -> EpochSums:
        """These sums over all processes, in place; call it once, at the end."""
        self._add_up()
        distributed.all_reduce_sum(self.losses)
        self.scores.reduce()
        return self

    def metrics(self, prefix: str) -> dict[str, float]:
        """Every number of the set by name: <prefix>loss, <prefix>loss_<head>, and the scores'.

        A head that had no known label has no loss of its own, and adds nothing to the whole; where no head had any,
        there is no loss."""
        self._add_up()
        losses: dict[str, float] = {}
        whole = 0.0
        for (head, weight), (total, weights) in zip(self.head_weights.items(), self.losses.tolist(), strict=True):
            if weights > 0:
                losses[f"{prefix}loss_{head}"] = total / weights
                whole += weight * total / weights
        return ({f"{prefix}loss": whole} if losses else {}) | losses | self.scores.values(prefix)

    def state_dict(self) -> dict[str, Any]:
        self._add_up()
        return {"losses": self.losses.cpu(), "scores": self.scores.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.losses.copy_(state["losses"])
        self.scores.load_state_dict(state["scores"])


def _joined(batches: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def summary(metrics: Mapping[str, float]) -> dict[str, float]:
    """What a person reads of an epoch: the learning rate, the losses, and the validation's scores."""
    return {
        name: value
        for name, value in metrics.items()
        if name in ("lr", "train/loss") or (name.startswith("val/") and "loss_" not in name)
    }


def describe(metrics: Mapping[str, float]) -> str:
    """The metrics in one line, in the order they were made."""
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
