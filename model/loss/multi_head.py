"""The weighted sum of the heads' losses, and of those on the embedding."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from base.batch import EMBEDDING
from base.class_weights import Rule
from model.loss.head_loss import HeadLoss
from model.loss.metric_learning import MetricLearningLoss


class MultiHeadLoss(nn.Module):
    """sum_h weight_h * loss_h, each loss over the samples whose label of its head is known; 0 where none is.

    heads: the loss of each head
    weights: the weight of each head
    metric_learning: losses on the embedding, with their weights, by names that no head has
    learned_weights: the heads' terms are weight_h * (exp(-s_h) loss_h + s_h / 2), where s_h = log sigma_h^2 is learned
        from 0 on, the task uncertainty of Kendall, Gal & Cipolla 2018, eq. 10, the classification term. At the minimum
        exp(-s_h) = 1 / (2 loss_h). Losses on the embedding keep their weights: they may reach 0, where a learned weight
        is unbounded.
    """

    weights: dict[str, float]
    """The fixed weights by head, then by loss on the embedding."""
    log_variances: nn.Parameter | None
    """(H,), the s_h in the order of the heads, or None."""

    def __init__(
        self,
        heads: Mapping[str, HeadLoss],
        weights: Mapping[str, float],
        metric_learning: Mapping[str, MetricLearningLoss] | None = None,
        learned_weights: bool = False,
    ) -> None:
        super().__init__()
        self.heads, self.embedding_losses = dict(heads), dict(metric_learning or {})
        self.weights = {name: float(weights[name]) for name in heads}
        self.weights |= {name: loss.weight for name, loss in self.embedding_losses.items()}
        # The modules are registered in lists, not in ModuleDicts, which refuse names such as "type".
        self.losses = nn.ModuleList(self.heads.values())
        self.metric_learning = nn.ModuleList(self.embedding_losses.values())
        self.register_parameter("log_variances", nn.Parameter(torch.zeros(len(heads))) if learned_weights else None)

    def forward(
        self,
        outputs: Mapping[str, Tensor],
        targets: Mapping[str, Tensor],
        normalisers: Mapping[str, Tensor] | None = None,
        weights: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, a scalar, and its parts by name: detached scalars, before all weights.

        Only losses on the embedding wait for the device.

        outputs: logits by head, (B, C), and the embedding, (B, E), if there are losses on it
        targets: by head, (B,) int64, -1 = unknown
        normalisers: by name, what to divide by instead of this batch's `sample_weight_sums`: the sums over an update,
            of which the loss is then this batch's share
        weights: (B,), of each sample, beside that of its class; None: all count as 1. Losses on the embedding compare
            samples, and do not use them
        """
        own = self.sample_weight_sums(targets, weights) if normalisers is None or self.log_variances is not None else {}
        divisors = own if normalisers is None else normalisers
        given = () if weights is None else (weights,)
        parts = {name: loss(outputs[name], targets[name], divisors[name], *given) for name, loss in self.heads.items()}
        terms = dict(parts)
        if self.log_variances is not None:
            for name, log_variance in zip(self.heads, self.log_variances, strict=True):
                share = own[name] / torch.where(divisors[name] > 0, divisors[name], torch.inf)
                terms[name] = torch.exp(-log_variance) * parts[name] + log_variance / 2 * share
        for name, embedding_loss in self.embedding_losses.items():
            parts[name] = embedding_loss(outputs[EMBEDDING], targets[embedding_loss.head], divisors[name])
            terms[name] = parts[name]
        total = torch.stack([self.weights[name] * term for name, term in terms.items()]).sum()
        return total, {name: part.detach() for name, part in parts.items()}

    def sample_weight_sums(self, targets: Mapping[str, Tensor], weights: Tensor | None = None) -> dict[str, Tensor]:
        """By name, the sum of the known samples' weights, a scalar; added up, they are the normalisers of an update.

        weights: see `forward`"""
        own = {name: loss.sample_weights(targets[name]) for name, loss in self.heads.items()}
        sums = {name: (each if weights is None else each * weights).sum() for name, each in own.items()}
        for name, loss in self.embedding_losses.items():
            sums[name] = loss.sample_weights(targets[loss.head]).sum()
        return sums

    def use_class_counts(self, counts: Mapping[str, Tensor]) -> None:
        """Computes class weights and margins from the training samples of each class, (C,) int64 by head."""
        for name, loss in self.heads.items():
            loss.use_class_counts(counts[name])

    def class_weights(self) -> dict[str, tuple[Rule | None, Tensor | None]]:
        """By head, the rule of its class weights (None: they are given) and the weights, (C,)."""
        return {name: (loss.class_weight_rule, loss.class_weights) for name, loss in self.heads.items()}

    def effective_weights(self) -> dict[str, float]:
        """By name, the factor of each loss: the fixed weight times the learned one."""
        if self.log_variances is None:
            return dict(self.weights)
        learned = dict(zip(self.heads, torch.exp(-self.log_variances.detach()).tolist(), strict=True))
        return {name: weight * learned.get(name, 1.0) for name, weight in self.weights.items()}
