"""The weighted sum of the heads' losses, and of those on the embedding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from base.batch import EMBEDDING
from base.class_weights import Rule
from model.loss.head_loss import HeadLoss
from model.loss.metric_learning import MetricLearningLoss


class MultiHeadLoss(nn.Module):
    """sum_h weight_h * loss_h, each loss over the samples whose label of its head is known.

    heads: the loss of each head
    weights: the weight of each head, the same names
    metric_learning: by names of their own, losses on the embedding, with their weights
    A loss without a known target in the batch adds 0.

    learned_weights: the heads' terms are weight_h * (exp(-s_h) loss_h + s_h / 2), s_h = log sigma_h^2 learned from 0
    on, the homoscedastic uncertainty of the head's task (Kendall, Gal & Cipolla 2018, eq. 10, the classification term).
    At the minimum exp(-s_h) = 1 / (2 loss_h), so weight_h stays the head's share in the whole. Losses on the embedding
    keep their weights: they may reach 0, where a learned weight has no bound.

    Raises ValueError if the names do not fit, or a weight is negative or not finite.
    """

    weights: dict[str, float]
    """By head, and then by name of the losses on the embedding: the fixed weights."""
    log_variances: nn.Parameter | None
    """(H,), the s_h in the order of the heads, where they are learned."""

    def __init__(
        self,
        heads: Mapping[str, HeadLoss],
        weights: Mapping[str, float],
        metric_learning: Mapping[str, MetricLearningLoss] | None = None,
        learned_weights: bool = False,
    ) -> None:
        super().__init__()
        metric_learning = metric_learning or {}
        if heads.keys() != weights.keys():
            raise ValueError(f"losses for the heads {', '.join(heads)}, but weights for {', '.join(weights)}")
        for name, loss in metric_learning.items():
            if name in heads:
                raise ValueError(f"metric_learning has a loss called {name}, which is the name of a head")
            if loss.head not in heads:
                raise ValueError(f"metric_learning.{name} is of head {loss.head}; there are {', '.join(heads)}")
        self.weights = {name: float(weights[name]) for name in heads}
        self.weights |= {name: loss.weight for name, loss in metric_learning.items()}
        for name, weight in self.weights.items():
            if not 0 <= weight < float("inf"):
                kind = "head" if name in heads else "metric_learning"
                raise ValueError(f"the weight of {kind} {name} = {weight} must be finite and not negative")
        self.names = tuple(heads)
        self.metric_learning_names = tuple(metric_learning)
        # Not ModuleDicts, which refuse names such as "type".
        self.losses = nn.ModuleList(heads.values())
        self.metric_learning = nn.ModuleList(metric_learning.values())
        self.register_parameter("log_variances", nn.Parameter(torch.zeros(len(heads))) if learned_weights else None)

    def forward(
        self,
        outputs: Mapping[str, Tensor],
        targets: Mapping[str, Tensor],
        normalisers: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, a scalar, and by name its parts: detached scalars, before all weights.

        outputs: logits by head (B, C), and the embedding (B, E) if there are losses on it; targets by head, (B,) int64,
        -1 = unknown; normalisers: by name, what to divide by instead of this batch's `sample_weight_sums`, see
        HeadLoss.forward: then both the loss and the terms of learned weights are this batch's share of the update's.
        Nothing here waits for the device but losses on the embedding.
        """
        own = self.sample_weight_sums(targets) if normalisers is None or self.log_variances is not None else {}
        divisors = own if normalisers is None else normalisers
        parts = {name: loss(outputs[name], targets[name], divisors[name]) for name, loss in self._head_losses()}
        terms = dict(parts)
        if self.log_variances is not None:
            for name, log_variance in zip(self.names, self.log_variances, strict=True):
                share = own[name] / torch.where(divisors[name] > 0, divisors[name], torch.inf)
                terms[name] = torch.exp(-log_variance) * parts[name] + log_variance / 2 * share
        for name, loss in self._embedding_losses():
            parts[name] = terms[name] = loss(outputs[EMBEDDING], targets[loss.head], divisors[name])
        total = torch.stack([self.weights[name] * term for name, term in terms.items()]).sum()
        return total, {name: part.detach() for name, part in parts.items()}

    def sample_weight_sums(self, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """By name, the sum of the known targets' weights, a scalar: added up they are the normalisers of an update."""
        sums = {name: loss.sample_weights(targets[name]).sum() for name, loss in self._head_losses()}
        return sums | {name: loss.sample_weights(targets[loss.head]).sum() for name, loss in self._embedding_losses()}

    def use_class_counts(self, counts: Mapping[str, Tensor]) -> None:
        """By head, the training samples of each class, (C,) int64: the computed class weights and margins follow."""
        for name, loss in self._head_losses():
            loss.use_class_counts(counts[name])

    def class_weights(self) -> dict[str, tuple[Rule | None, Tensor | None]]:
        """By head, the rule that computes its class weights (None: they are given) and the weights in force, (C,)."""
        return {name: (loss.class_weight_rule, loss.class_weights) for name, loss in self._head_losses()}

    def effective_weights(self) -> dict[str, float]:
        """By name, what multiplies each loss: the fixed weights, with what was learned of them."""
        if self.log_variances is None:
            return dict(self.weights)
        learned = dict(zip(self.names, torch.exp(-self.log_variances.detach()).tolist(), strict=True))
        return {name: weight * learned.get(name, 1.0) for name, weight in self.weights.items()}

    def _head_losses(self) -> Iterator[tuple[str, HeadLoss]]:
        for name, loss in zip(self.names, self.losses, strict=True):
            assert isinstance(loss, HeadLoss)
            yield name, loss

    def _embedding_losses(self) -> Iterator[tuple[str, MetricLearningLoss]]:
        for name, loss in zip(self.metric_learning_names, self.metric_learning, strict=True):
            assert isinstance(loss, MetricLearningLoss)
            yield name, loss
