"""A loss for classes that have an order, such as ages."""

from __future__ import annotations

import torch
from torch import Tensor

from model.loss.head_loss import HeadLoss


class OrdinalLoss(HeadLoss):
    """Squared earth mover's distance, sum_c (P_c - T_c)^2, for classes in an order  (Hou, Yu & Samaras 2016).

    P_c = sum of p_j over j <= c, p = softmax(logits); T_c likewise of the one-hot truth: 1 from the target on. The loss
    grows with the distance in classes, from 0 to C - 1. The order is that of the head's classes.

    A certain wrong prediction has almost no gradient: if the loss does not fall, train with cross entropy first.
    """

    def per_sample(self, logits: Tensor, target: Tensor) -> Tensor:
        """See HeadLoss.per_sample."""
        reached = torch.arange(logits.shape[1], device=logits.device) >= target.unsqueeze(1)
        return (logits.softmax(dim=1).cumsum(dim=1) - reached.to(logits.dtype)).square().sum(dim=1)
