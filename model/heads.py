"""The last layers of a model: one linear layer a head, on the same features."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn


class LinearHeads(nn.Module):
    """Features (B, F) -> logits by head, (B, C) each: dropout, then one linear layer a head.

    In a state dict the layers are called head_<name>, so that an attribute may be called "type" or "training"."""

    def __init__(self, num_features: int, num_classes: Mapping[str, int], drop_rate: float) -> None:
        super().__init__()
        self.names = tuple(num_classes)
        self.dropout = nn.Dropout(drop_rate)
        for name, number in num_classes.items():
            self.add_module(f"head_{name}", nn.Linear(num_features, number))

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """All heads see the same dropout."""
        features = self.dropout(features)
        return {name: self.get_submodule(f"head_{name}")(features) for name in self.names}
