"""The last layers of a model: one linear layer a head, and the embedding, on the same features."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from base.batch import EMBEDDING


class LinearHeads(nn.Module):
    """Features (B, F) -> logits by head, (B, C) each: dropout, then one linear layer a head.

    num_features: F
    num_classes: C by head
    drop_rate: of the dropout, which all heads share
    dropout_samples: in training, the logits are the mean over so many dropouts of the same features  (after Inoue 2019,
        who takes the mean of the losses)
    embedding_size: adds the output EMBEDDING, (B, embedding_size), a linear layer on the features without dropout; not
        normalised, which pytorch-metric-learning's losses do themselves

    In a state dict the layers are called head_<name>, so that a head may be called "type" or "training"."""

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
        """Logits by head, and the embedding if there is one."""
        # A linear layer's mean output is its output for the mean input: one product instead of many.
        samples = self.dropout_samples if self.training else 1
        dropped = torch.stack([self.dropout(features) for _ in range(samples)]).mean(dim=0)
        outputs = {name: self.get_submodule(f"head_{name}")(dropped) for name in self.names}
        if self.embedding is not None:
            outputs[EMBEDDING] = self.embedding(features)
        return outputs
