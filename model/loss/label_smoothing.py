"""Cross entropy with smoothed labels."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from base.class_weights import ClassWeights
from model.loss.head_loss import HeadLoss


class LabelSmoothingLoss(HeadLoss):
    """Cross entropy against (1 - smoothing) * one-hot + smoothing / C  (Szegedy et al. 2016, section 7).

    As in torch's `cross_entropy(weight=class_weights, label_smoothing=smoothing)`, each class's share of the smoothed
    label has that class's weight, and the sum is divided by the sum of the targets' weights.

    smoothing: 0 is cross entropy, 1 ignores the labels
    """

    def __init__(
        self,
        smoothing: Annotated[float, Field(ge=0, le=1)] = 0.1,
        class_weights: ClassWeights | None = None,
    ) -> None:
        super().__init__(class_weights)
        self.smoothing = smoothing

    def per_sample(self, logits: Tensor, target: Tensor) -> Tensor:
        """See HeadLoss.per_sample."""
        return F.cross_entropy(logits, target, label_smoothing=self.smoothing, reduction="none")

    def weighted_per_sample(self, logits: Tensor, target: Tensor) -> Tensor:
        """As `per_sample`, with the weight of each class on its share of the label."""
        weights = None if self.class_weights is None else self.class_weights.to(logits.dtype)
        return F.cross_entropy(logits, target, weight=weights, label_smoothing=self.smoothing, reduction="none")
