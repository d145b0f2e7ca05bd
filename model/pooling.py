"""Generalised-mean pooling in the place of a timm backbone's own."""

from __future__ import annotations

import torch
from timm.layers import SelectAdaptivePool2d
from torch import Tensor, nn


class GeM(nn.Module):
    """Generalised-mean pooling, (mean over places of x^p)^(1/p), p learned  (Radenovic et al. 2018, eq. 3).

    Features (B, C, H, W), or of any layout whose places are the axes `places` -> (B, C), or with these axes kept as 1.
    p = 1 is the mean, and the maximum is the limit of large p. As in the paper one p is shared by all channels and
    begins at 3. The paper's features come out of a ReLU; where a backbone's may be negative, all below 1e-6 counts as
    1e-6.
    """

    def __init__(self, places: tuple[int, ...] = (2, 3), keep_places: bool = False) -> None:
        super().__init__()
        self.places, self.keep_places = places, keep_places
        self.p = nn.Parameter(torch.full((1,), 3.0))

    def forward(self, features: Tensor) -> Tensor:
        """Computed in float32, since powers of half precision overflow."""
        p = self.p.float()
        powers = features.float().clamp(min=1e-6).pow(p)
        return powers.mean(self.places, keepdim=self.keep_places).pow(1 / p).to(features.dtype)


def use_gem(backbone: nn.Module) -> None:
    """Puts GeM where `backbone`, a timm model, pools its last feature map; the layers behind it stay.

    Raises ValueError where there is no such place: transformers answer with a token or with the mean of tokens."""
    pools = [module for module in backbone.modules() if isinstance(module, SelectAdaptivePool2d)]
    found = [module for module in pools if not module.is_identity()]
    if len(found) != 1:
        raise ValueError("it has no pooling of a feature map, (B, C, H, W) or (B, H, W, C), to replace")
    own = found[0].pool  # of timm's, those for (B, H, W, C) know their axes, and flatten what others leave to flatten
    found[0].pool = GeM(tuple(getattr(own, "dim", (2, 3))), keep_places=not getattr(own, "flatten", False))
