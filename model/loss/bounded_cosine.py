"""The similarity for losses of pytorch-metric-learning that take its arc cosine, or its histogram."""

from __future__ import annotations

from pytorch_metric_learning.distances import CosineSimilarity
from torch import Tensor


class BoundedCosineSimilarity(CosineSimilarity):
    """Below 1 and above -1, where the arc cosine has no finite slope and the last bin of a histogram ends."""

    def compute_mat(self, query_emb: Tensor, ref_emb: Tensor) -> Tensor:
        """The similarities (Q, R) of embeddings (Q, E) and (R, E)."""
        similarity: Tensor = super().compute_mat(query_emb, ref_emb)
        return similarity.clamp(-1 + 1e-6, 1 - 1e-6)
