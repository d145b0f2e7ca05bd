"""The weighted sum of the heads' losses."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from model.loss.head_loss import HeadLoss


class MultiHeadLoss(nn.Module):
    """sum_h weight_h * loss_h, each loss over the samples whose label of that head is known.

    heads: the loss of each head; weights: the weight of each head, the same names. A head without a known target in
    the batch adds 0. Raises ValueError if the names differ, or a weight is negative or not finite.
    """

    def __init__(self, heads: Mapping[str, HeadLoss], weights: Mapping[str, float]) -> None:
        super().__init__()
        if heads.keys() != weights.keys():
            raise ValueError(f"losses for the heads {', '.join(heads)}, but weights for {', '.join(weights)}")
        for name, weight in weights.items():
            if not 0 <= weight < float("inf"):
                raise ValueError(f"the weight of head {name} = {weight} must be finite and not negative")
        self.names = tuple(heads)
        self.weights = {name: float(weights[name]) for name in heads}
        self.losses = nn.ModuleList(heads.values())  # not a ModuleDict, which refuses names such as "type"

    def forward(
        self,
        logits: Mapping[str, Tensor],
        targets: Mapping[str, Tensor],
        normalisers: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """logits by head, (B, C); targets by head, (B,) int64, -1 = unknown -> the loss, a scalar, and the heads' own.

        The heads' losses are detached scalars before the heads' weights. normalisers: by head, what to divide by
        instead of this batch's `sample_weight_sums`, see HeadLoss.forward. Nothing here waits for the device.
        """
        parts: dict[str, Tensor] = {}
        weighted: list[Tensor] = []
        for name, loss in zip(self.names, self.losses, strict=True):
            part = loss(logits[name], targets[name], None if normalisers is None else normalisers[name])
            weighted.append(self.weights[name] * part)
            parts[name] = part.detach()
        return torch.stack(weighted).sum(), parts

    def sample_weight_sums(self, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """By head, the sum of the known targets' weights, a scalar: added up they are the normalisers of an update."""
        sums: dict[str, Tensor] = {}
        for name, loss in zip(self.names, self.losses, strict=True):
            assert isinstance(loss, HeadLoss)
            sums[name] = loss.sample_weights(targets[name]).sum()
        return sums
