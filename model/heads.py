"""The last layers of a model: one linear layer a head, on the same features, and the embedding beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from base.batch import EMBEDDING

HEADS_ARGUMENTS = ("drop_rate", "dropout_samples", "embedding_size")
"""What a model's JSON arguments say of its heads."""


class LinearHeads(nn.Module):
    """Features (B, F) -> logits by head, (B, C) each: dropout, then one linear layer a head.

    dropout_samples: in training the logits are the mean over so many dropouts of the same features, the linear layers
        shared (after Inoue 2019, who takes the mean of the losses); in evaluation there is none
    embedding_size: adds the output EMBEDDING, (B, embedding_size), one more linear layer on the features without
        dropout, not normalised: pytorch-metric-learning's distances and losses do that themselves, each in its way

    In a state dict the layers are called head_<name>, so that an attribute may be called "type" or "training"."""

    def __init__(
        self,
        num_features: int,
        num_classes: Mapping[str, int],
        drop_rate: float,
        dropout_samples: int = 1,
        embedding_size: int | None = None,
    ) -> None:
        super().__init__()
        self.names = tuple(num_classes)
        self.dropout_samples = dropout_samples
        self.dropout = nn.Dropout(drop_rate)
        for name, number in num_classes.items():
            self.add_module(f"head_{name}", nn.Linear(num_features, number))
        self.embedding = None if embedding_size is None else nn.Linear(num_features, embedding_size)

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """All heads see the same dropout."""
        dropped = self._dropped(features)
        outputs = {name: self.get_submodule(f"head_{name}")(dropped) for name in self.names}
        if self.embedding is not None:
            outputs[EMBEDDING] = self.embedding(features)
        return outputs

    def _dropped(self, features: Tensor) -> Tensor:
        if not self.training or self.dropout_samples == 1:
            return self.dropout(features)
        # The mean of a linear layer's outputs is its output for the mean: one product instead of many.
        return torch.stack([self.dropout(features) for _ in range(self.dropout_samples)]).mean(dim=0)


def check_heads(arguments: Mapping[str, Any]) -> None:
    """Raises ValueError if a model's JSON arguments ask for several dropouts that drop nothing."""
    samples = arguments.get("dropout_samples", 1)
    if samples > 1 and not arguments.get("drop_rate"):
        raise ValueError(f"dropout_samples = {samples}: these dropouts drop nothing; set drop_rate too, to 0.5 say")
