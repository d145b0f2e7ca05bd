"""Label-distribution-aware margin loss."""

from __future__ import annotations

import torch
from pydantic import PositiveFloat
from torch import Tensor
from torch.nn import functional as F

from base.class_weights import ClassWeights
from model.loss.head_loss import HeadLoss


class LDAMLoss(HeadLoss):
    """Cross entropy with a margin, wider for rarer classes  (Cao et al. 2019, eq. 12 and 13).

    -log p_t, p = softmax(scale * (z - m)), where m_t = K / n_t^(1/4) is subtracted from the target's logit z_t alone;
    n_c is the number of training samples of class c (0 counts as 1), and K gives the rarest class `max_margin`.

    The authors' code has max_margin 0.5 and scale 30, for logits that are cosines. The heads here have unbounded
    logits, for which the equation holds with scale 1; wider margins are reasonable.

    max_margin: of the rarest class, in units of the logits
    scale: factor of the logits
    """

    margins: Tensor | None
    """(C,) float32; None until `use_class_counts` is called."""

    def __init__(
        self,
        max_margin: PositiveFloat = 0.5,
        scale: PositiveFloat = 1.0,
        class_weights: ClassWeights | None = None,
    ) -> None:
        super().__init__(class_weights)
        self.max_margin = max_margin
        self.scale = scale
        self.register_buffer("margins", None, persistent=False)

    def use_class_counts(self, counts: Tensor) -> None:
        """See HeadLoss.use_class_counts; also the margins."""
        super().use_class_counts(counts)
        margins = counts.double().clamp(min=1) ** -0.25
        self.margins = (self.max_margin * margins / margins.max()).float()

    def per_sample(self, logits: Tensor, target: Tensor) -> Tensor:
        """See HeadLoss.per_sample."""
        assert self.margins is not None, "use_class_counts was not called"
        is_target = torch.arange(logits.shape[1], device=logits.device) == target.unsqueeze(1)
        narrowed = logits - torch.where(is_target, self.margins.to(logits.dtype), 0.0)
        return F.cross_entropy(self.scale * narrowed, target, reduction="none")
