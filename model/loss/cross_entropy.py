"""Cross entropy."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from model.loss.head_loss import HeadLoss


class CrossEntropyLoss(HeadLoss):
    """Cross entropy, -log p_t, p = softmax(logits); torch's `cross_entropy(weight=class_weights, ignore_index=-1)`."""

    def per_sample(self, logits: Tensor, target: Tensor) -> Tensor:
        """See HeadLoss.per_sample."""
        return F.cross_entropy(logits, target, reduction="none")
