"""Focal loss."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from base.class_weights import ClassWeights
from model.loss.head_loss import HeadLoss


class FocalLoss(HeadLoss):
    """Focal loss, FL(p_t) = -(1 - p_t)^gamma log p_t, p = softmax(logits)  (Lin et al. 2017, eq. 4).

    Class weights are the paper's alpha_t (eq. 5); the sum is divided by the sum of the weights, not by the number of
    positives.

    gamma: how much well-classified samples are discounted; 0 is cross entropy
    """

    def __init__(
        self,
        gamma: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 2.0,
        class_weights: ClassWeights | None = None,
    ) -> None:
        super().__init__(class_weights)
        self.gamma = gamma

    def per_sample(self, logits: Tensor, target: Tensor) -> Tensor:
        """See HeadLoss.per_sample."""
        log_p_t = -F.cross_entropy(logits, target, reduction="none")
        # 1 - p_t is 0 where p_t rounds to 1; there a gamma below 1 has an infinite slope, hence the floor.
        one_minus_p_t = (-torch.expm1(log_p_t)).clamp(min=torch.finfo(logits.dtype).tiny)
        return -(one_minus_p_t**self.gamma) * log_p_t
