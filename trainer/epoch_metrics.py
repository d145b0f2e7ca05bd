"""The metrics of an epoch, accumulated batch by batch: losses by head, and confusion counts.

Sums stay on the device and are divided once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from base.metrics import Metrics
from utils import distributed

BATCHES_TOGETHER = 32
"""So many batches are added up at once: one by one the many small operations would cost a tenth of a small step."""


@dataclass(frozen=True)
class LossOfEpoch:
    """What one loss did in a pass over a set.

    not_finite: batches in which it was not finite
    lowest, highest: of the batches' losses
    batches: in which it was, with a known label
    gradient: the largest element, in absolute value, of its gradient by its logits in the first update that had a known
        label; None where none was looked at
    """

    not_finite: int
    lowest: float
    highest: float
    batches: int
    gradient: float | None


class EpochMetrics:
    """The sums of one pass over a set, and the metrics computed from them.

    metrics: counts the predictions
    head_weights: by name, the weight of each loss in the total
    leaves_out: whether the losses of batches in which they are not finite, whose updates are skipped, are left out of
        the sums; else the sum is nan
    """

    def __init__(
        self, metrics: Metrics, head_weights: Mapping[str, float], device: torch.device, leaves_out: bool = False
    ) -> None:
        self.metrics, self.head_weights, self.leaves_out = metrics, head_weights, leaves_out
        number = len(head_weights)
        # (losses, 2): the sum of weighted losses, and the sum of weights.
        self.losses = torch.zeros(number, 2, dtype=torch.float64, device=device)
        # (losses, 5): batches that were not finite; of the others the lowest and the highest loss, and their number;
        # the largest gradient, -1 while none was looked at.
        self._watched = torch.tensor([[0, torch.inf, -torch.inf, 0, -1]], dtype=torch.float64).repeat(number, 1)
        self._watched = self._watched.to(device)
        self._skipped = torch.zeros((), dtype=torch.int64, device=device)
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
        finite = losses.isfinite()
        if self.leaves_out:
            added = torch.where(finite.unsqueeze(2), added, 0.0)
        # One batch after the other, as in a run that is stopped in between and resumed.
        self.losses.copy_(torch.cat([self.losses.unsqueeze(0), added]).cumsum(dim=0)[-1])
        self._watch(added, finite)
        heads = self.metrics.labels.heads
        self.metrics.update(_concatenated(self._outputs, heads), _concatenated(self._targets, self._targets[0]))
        self._scalars, self._outputs, self._targets = [], [], []

    def _watch(self, added: Tensor, finite: Tensor) -> None:
        """added: (batches, losses, 2), the sums of each; finite: (batches, losses) bool"""
        counted = finite & (added[:, :, 1] > 0)
        mean = added[:, :, 0] / added[:, :, 1]
        lowest = torch.where(counted, mean, torch.inf).amin(dim=0)
        highest = torch.where(counted, mean, -torch.inf).amax(dim=0)
        watched = self._watched
        watched[:, 0] += finite.logical_not().sum(dim=0)
        watched[:, 1].copy_(torch.minimum(watched[:, 1], lowest))
        watched[:, 2].copy_(torch.maximum(watched[:, 2], highest))
        watched[:, 3] += counted.sum(dim=0)

    def add_gradients(self, gradients: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
        """By name, the gradients of the losses by their logits in one batch, and the sums of its sample weights."""
        for number, name in enumerate(self.head_weights):
            if name in gradients:
                largest = gradients[name].detach().abs().amax().double().nan_to_num_(nan=torch.inf)
                seen = torch.where(weights[name] > 0, largest, -1.0)
                self._watched[number, 4] = torch.maximum(self._watched[number, 4], seen)

    def add_update(self, is_skipped: Tensor) -> None:
        """is_skipped: a scalar bool, the same in all processes"""
        self._skipped += is_skipped

    @property
    def skipped_updates(self) -> int:
        return int(self._skipped)

    def by_loss(self) -> dict[str, LossOfEpoch]:
        """What each loss did, over all processes. Every process must call it."""
        self._add_up()
        gathered: list[Any] = distributed.gather(self._watched.tolist())
        not_finite, lowest, highest, batches, gradients = torch.tensor(gathered, dtype=torch.float64).unbind(dim=2)
        return {
            name: LossOfEpoch(
                not_finite=int(not_finite[:, number].sum()),
                lowest=float(lowest[:, number].min()),
                highest=float(highest[:, number].max()),
                batches=int(batches[:, number].sum()),
                gradient=None if (largest := float(gradients[:, number].max())) < 0 else largest,
            )
            for number, name in enumerate(self.head_weights)
        }

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
        watched = {"watched": self._watched.cpu(), "skipped": self._skipped.cpu()}
        return {"losses": self.losses.cpu(), **watched, "scores": self.metrics.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.losses.copy_(state["losses"])
        if "watched" in state:  # earlier versions did not keep it
            self._watched.copy_(state["watched"])
            self._skipped.copy_(state["skipped"])
        self.metrics.load_state_dict(state["scores"])

    def load_states(self, states: Sequence[Mapping[str, Any]]) -> None:
        """What `state_dict` gave in each process; of another number the main one takes the sums of all."""
        rank = distributed.rank()
        if len(states) == distributed.world_size():
            self.load_state_dict(states[rank])
        elif rank == 0:
            self.load_state_dict(_added_up(states))
        elif "skipped" in states[0]:
            self._skipped.copy_(states[0]["skipped"])


def _added_up(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The states of several processes as one."""
    losses = torch.stack([state["losses"] for state in states]).sum(dim=0)
    whole = {"losses": losses, "scores": Metrics.added_up([state["scores"] for state in states])}
    if "watched" in states[0]:
        not_finite, lowest, highest, batches, gradient = torch.stack([state["watched"] for state in states]).unbind(2)
        columns = [not_finite.sum(0), lowest.amin(0), highest.amax(0), batches.sum(0), gradient.amax(0)]
        whole |= {"watched": torch.stack(columns, dim=1), "skipped": states[0]["skipped"]}  # all skip together
    return whole


def _concatenated(batches: Sequence[Mapping[str, Tensor]], names: Iterable[str]) -> dict[str, Tensor]:
    return {name: torch.cat([batch[name] for batch in batches]) for name in names}


def describe(metrics: Mapping[str, float], short: bool = False) -> str:
    """The metrics in one line; short: the learning rate, the losses and the validation's metrics."""
    return ", ".join(
        f"{name} {value:.4g}"
        for name, value in metrics.items()
        if not short or name in ("lr", "train/loss") or (name.startswith("val/") and "loss_" not in name)
    )
