"""Generalised-mean pooling in place of a timm backbone's own."""

from __future__ import annotations

import torch
from timm.layers import SelectAdaptivePool2d
from torch import Tensor, nn


class GeM(nn.Module):
    """Generalised-mean pooling, (mean over positions of x^p)^(1/p)  (Radenovic et al. 2018, eq. 3).

    p is learned, one for all channels, from 3 on: p = 1 is the mean, large p the maximum. The paper's features are the
    output of a ReLU; here features below 1e-6 count as 1e-6.

    dims: the axes of the positions in the features, (B, C, H, W) by default
    keepdim: keep these axes, of length 1, in the output, else (B, C)
    """

    def __init__(self, dims: tuple[int, ...] = (2, 3), keepdim: bool = False) -> None:
        super().__init__()
        self.dims, self.keepdim = dims, keepdim
        self.p = nn.Parameter(torch.full((1,), 3.0))

    def forward(self, features: Tensor) -> Tensor:
        """The pooled features; computed in float32, since powers overflow in half precision."""
        p = self.p.float()
        powers = features.float().clamp(min=1e-6).pow(p)
        return powers.mean(self.dims, keepdim=self.keepdim).pow(1 / p).to(features.dtype)


def use_gem(backbone: nn.Module) -> None:
    """Replaces the pooling of a timm model's last feature map by GeM; the layers behind it stay.

    Raises ValueError for a model without one: transformers pool tokens."""
    pools = [module for module in backbone.modules() if isinstance(module, SelectAdaptivePool2d)]
    found = [module for module in pools if not module.is_identity()]
    if len(found) != 1:
        raise ValueError("it has no pooling of a feature map, (B, C, H, W) or (B, H, W, C), to replace")
    own = found[0].pool  # timm's for (B, H, W, C) has `dim`, and `flatten` of its own
    found[0].pool = GeM(tuple(getattr(own, "dim", (2, 3))), keepdim=not getattr(own, "flatten", False))
