"""The metrics of an epoch, accumulated batch by batch: losses by head, and confusion counts.

Sums stay on the device and are divided once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from base.metrics import Metrics
from utils import distributed

BATCHES_TOGETHER = 32
"""So many batches are added up at once: one by one the many small operations would cost a tenth of a small step."""
NEVER = 2**62


class EpochMetrics:
    """The sums of one pass over a set, and the metrics computed from them.

    metrics: counts the predictions
    head_weights: by name, the weight of each loss in the total
    """

    def __init__(self, metrics: Metrics, head_weights: Mapping[str, float], device: torch.device) -> None:
        self.metrics, self.head_weights = metrics, head_weights
        # (losses, 2): the sum of weighted losses, and the sum of weights.
        self.losses = torch.zeros(len(head_weights), 2, dtype=torch.float64, device=device)
        # By loss, the first batch after which its sum is no longer finite: the others follow when the weights are not.
        self._wrong_from = torch.full((len(head_weights),), NEVER, dtype=torch.int64, device=device)
        self._added = 0
        # The batches that are still to be added up.
        self._scalars: list[Tensor] = []
        self._outputs: list[Mapping[str, Tensor]] = []
        self._targets: list[Mapping[str, Tensor]] = []

    def add(
        self,
        losses: Mapping[str, Tensor],
        normalisers: Mapping[str, Tensor],
        weights: Mapping[str, Tensor],
        outputs: Mapping[str, Tensor],
        scoring_targets: Mapping[str, Tensor],
    ) -> None:
        """Adds a batch, whose tensors must not change afterwards.

        losses: scalars by name, each divided by its normaliser
        weights: scalars by name, the sums of this batch's sample weights
        outputs: by head, logits (B, C) without a gradient; other outputs are ignored
        scoring_targets: true classes by attribute, (B,) int64, -1 = unknown
        """
        for scalars in (losses, normalisers, weights):
            self._scalars += [scalars[name] for name in self.head_weights]
        self._outputs.append(outputs)
        self._targets.append(scoring_targets)
        if len(self._outputs) == BATCHES_TOGETHER:
            self._add_up()

    def _add_up(self) -> None:
        if not self._outputs:
            return
        shape = (len(self._outputs), 3, len(self.head_weights))
        losses, normalisers, weights = torch.stack(self._scalars).view(shape).unbind(dim=1)
        added = torch.stack([losses * normalisers, weights], dim=2)  # (batches, losses, 2)
        # One batch after the other, as in a run that is stopped in between and resumed.
        sums = torch.cat([self.losses.unsqueeze(0), added]).cumsum(dim=0)
        finite_batches = sums[1:, :, 0].isfinite().sum(dim=0)  # those that follow a sum that is not are not, either
        wrong_from = torch.where(finite_batches < len(added), finite_batches + self._added, NEVER)
        self._wrong_from.copy_(torch.minimum(self._wrong_from, wrong_from))
        self._added += len(added)
        self.losses.copy_(sums[-1])
        heads = self.metrics.labels.heads
        self.metrics.update(_concatenated(self._outputs, heads), _concatenated(self._targets, self._targets[0]))
        self._scalars, self._outputs, self._targets = [], [], []

    def first_not_finite(self) -> list[str]:
        """The losses that were no longer finite before the others; none where all are. Every process must call it."""
        self._add_up()
        by_process = distributed.gather(self._wrong_from.tolist())
        wrong_from = torch.tensor(by_process).amin(dim=0).tolist()
        first = min(wrong_from)
        return [name for name, own in zip(self.head_weights, wrong_from, strict=True) if own == first < NEVER]

    def reduced(self) -> EpochMetrics:
        """These sums over all processes, in place; call it once, at the end."""
        self._add_up()
        distributed.all_reduce_sum(self.losses)
        self.metrics.reduce()
        return self

    def values(self, prefix: str) -> dict[str, float]:
        """Every number of the set by name: <prefix>loss, <prefix>loss_<head>, and the metrics.

        A head without a known label has no loss, and adds nothing to the total; without any there is no total."""
        self._add_up()
        losses: dict[str, float] = {}
        total = 0.0
        for (name, head_weight), (loss_sum, weight_sum) in zip(
            self.head_weights.items(), self.losses.tolist(), strict=True
        ):
            if weight_sum > 0:
                losses[f"{prefix}loss_{name}"] = loss_sum / weight_sum
                total += head_weight * loss_sum / weight_sum
        return ({f"{prefix}loss": total} if losses else {}) | losses | self.metrics.values(prefix)

    def state_dict(self) -> dict[str, Any]:
        self._add_up()
        return {"losses": self.losses.cpu(), "scores": self.metrics.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.losses.copy_(state["losses"])
        self.metrics.load_state_dict(state["scores"])


def _concatenated(batches: Sequence[Mapping[str, Tensor]], names: Iterable[str]) -> dict[str, Tensor]:
    return {name: torch.cat([batch[name] for batch in batches]) for name in names}


def describe(metrics: Mapping[str, float], short: bool = False) -> str:
    """The metrics in one line; short: the learning rate, the losses and the validation's metrics."""
    return ", ".join(
        f"{name} {value:.4g}"
        for name, value in metrics.items()
        if not short or name in ("lr", "train/loss") or (name.startswith("val/") and "loss_" not in name)
    )
