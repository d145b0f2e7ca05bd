"""The base of the heads' losses: class weights, unknown labels, and a normaliser that may span several batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from base.batch import UNKNOWN
from base.class_weights import ClassWeights, Rule, weights_by_rule


class HeadLoss(nn.Module, ABC):
    """The loss of one head: sum_i w_i l_i / sum_i w_i over the known samples, w_i the weight of the sample's class
    (times the sample's own, where samples have weights).

    A subclass gives `per_sample`, the l_i; weights and unknown labels are handled here:

        class SquaredErrorLoss(HeadLoss):
            def per_sample(self, logits, target):
                return (1 - logits.softmax(dim=1).gather(1, target.unsqueeze(1)).squeeze(1)) ** 2

    class_weights: one a class, each >= 0; or "balanced", "sqrt" or "effective", computed from the training split (see
        `weights_by_rule`); null for none

    Raises ValueError for class weights that are all 0.
    """

    class_weights: Tensor | None
    """(C,) float32; None also while they are still to be computed."""

    def __init__(self, class_weights: ClassWeights | None = None) -> None:
        super().__init__()
        weights = None
        self.class_weight_rule: Rule | None = None
        if isinstance(class_weights, str):
            self.class_weight_rule = class_weights
        elif class_weights is not None:
            if not any(class_weights):
                raise ValueError(f"class_weights = {class_weights} must not be all 0")
            weights = torch.tensor(class_weights, dtype=torch.float32)
        # Not in checkpoints: they are in the config, or follow from the training split.
        self.register_buffer("class_weights", weights, persistent=False)

    def check_num_classes(self, num_classes: int, class_names: Sequence[str] = ()) -> None:
        """Raises ValueError if the class weights do not fit a head of `num_classes` classes."""
        if self.class_weights is not None and len(self.class_weights) != num_classes:
            given = ", ".join(f"{weight:g}" for weight in self.class_weights.tolist())
            names = f" ({', '.join(class_names)})" if class_names else ""
            raise ValueError(
                f"class_weights = [{given}] has {len(self.class_weights)} entries, but the head has {num_classes} "
                f"classes{names}"
            )

    def use_class_counts(self, counts: Tensor) -> None:
        """Computes the class weights of a rule; to be called before the first batch.

        counts: (C,) int64, the training samples of each class, on the device of the loss"""
        if self.class_weight_rule is not None:
            self.class_weights = weights_by_rule(self.class_weight_rule, counts)

    @abstractmethod
    def per_sample(self, logits: Tensor, target: Tensor) -> Tensor:
        """logits (B, C) float32; target (B,) int64, each 0 to C - 1 -> the losses (B,), before class weights."""

    def weighted_per_sample(self, logits: Tensor, target: Tensor) -> Tensor:
        """As `per_sample`, each times the weight of its class."""
        losses = self.per_sample(logits, target)
        return losses if self.class_weights is None else losses * self.class_weights[target]

    def total(self, logits: Tensor, target: Tensor, known: Tensor, weights: Tensor | None = None) -> Tensor:
        """The sum of the weighted losses over the samples where `known` (B,) bool is true: a scalar.

        weights: (B,), of the samples; None: all count as 1"""
        losses = self.weighted_per_sample(logits, target)
        return torch.where(known, losses if weights is None else losses * weights, 0.0).sum()

    def sample_weights(self, target: Tensor) -> Tensor:
        """target (B,) int64, -1 = unknown -> what each sample adds to the normaliser (B,) float32, 0 where unknown."""
        known = target != UNKNOWN
        if self.class_weights is None:
            return known.float()
        return torch.where(known, self.class_weights[torch.where(known, target, 0)], 0.0)

    def forward(
        self, logits: Tensor, target: Tensor, normaliser: Tensor | None = None, weights: Tensor | None = None
    ) -> Tensor:
        """The loss, a scalar float32; 0 where nothing is known.

        logits: (B, C), raw, of any float type
        target: (B,) int64, -1 = unknown
        normaliser: a scalar to divide by instead of this batch's sum of `sample_weights`: with the sum over all batches
            of an update (accumulated, or of several processes) the added gradients are those of one large batch
        weights: (B,), of each sample, beside that of its class; None: all count as 1
        """
        computed = self.class_weight_rule is None or self.class_weights is not None
        assert computed, f"class_weights = {self.class_weight_rule}, but use_class_counts was not called"
        known = target != UNKNOWN
        # Masks, not boolean indexing, which would wait for the device. The logits are masked before the loss: after it,
        # a NaN of an unknown row would come back in the gradient as 0 * NaN.
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        logits = torch.where(known.unsqueeze(1), logits, 0.0)
        given = () if weights is None else (weights,)
        total = self.total(logits, torch.where(known, target, 0), known, *given)
        if normaliser is None:
            own = self.sample_weights(target)
            normaliser = (own if weights is None else own * weights).sum()
        return total / torch.where(normaliser > 0, normaliser, torch.inf)
