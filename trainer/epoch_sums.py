"""What an epoch adds up: losses by head, and confusion counts. Sums stay on the device and are divided once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from base.scores import Scores
from utils import process_group


class EpochSums:
    """The running sums of one pass over a set, and the metrics they make."""

    def __init__(self, scores: Scores, head_weights: Mapping[str, float], device: torch.device) -> None:
        self.scores = scores
        self.head_weights = head_weights
        # One row a head: the sum of weighted losses, and the sum of weights.
        self.losses = torch.zeros(len(head_weights), 2, dtype=torch.float64, device=device)

    def add_losses(
        self, parts: Mapping[str, Tensor], normalisers: Mapping[str, Tensor], weights: Mapping[str, Tensor]
    ) -> None:
        """Adds a batch: its loss by head over the normalisers it was divided by, and its own sums of weights."""
        totals = torch.stack([parts[head] * normalisers[head] for head in self.head_weights])
        self.losses[:, 0] += totals
        self.losses[:, 1] += torch.stack([weights[head] for head in self.head_weights])

    def reduced(self) -> EpochSums:
        """These sums over all processes, in place; call it once, at the end."""
        process_group.all_reduce_sum(self.losses)
        self.scores.reduce()
        return self

    def metrics(self, prefix: str) -> dict[str, float]:
        """Every number of the set by name: <prefix>loss, <prefix>loss_<head>, and the scores'.

        A head that had no known label has no loss of its own, and adds nothing to the whole; where no head had any,
        there is no loss."""
        losses: dict[str, float] = {}
        whole = 0.0
        for (head, weight), (total, weights) in zip(self.head_weights.items(), self.losses.tolist(), strict=True):
            if weights > 0:
                losses[f"{prefix}loss_{head}"] = total / weights
                whole += weight * total / weights
        return ({f"{prefix}loss": whole} if losses else {}) | losses | self.scores.values(prefix)

    def state_dict(self) -> dict[str, Any]:
        return {"losses": self.losses.cpu(), "scores": self.scores.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.losses.copy_(state["losses"])
        self.scores.load_state_dict(state["scores"])


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
