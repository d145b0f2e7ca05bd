"""Losses that compare embeddings: those of pytorch-metric-learning, with its miners."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

import torch
from torch import Tensor, nn

from base.batch import UNKNOWN
from model.loss.metric_learning_names import MINERS, WITHOUT_MINER, MinerName
from utils.config.signatures import NonNegativeFloat, argument_problems, constructor_problems
from utils.errors import Problem
from utils.wording import not_one_of


class MetricLearningLoss(nn.Module):
    """A loss of pytorch-metric-learning on the embedding, by the labels of one head.

    loss: an object of the library that takes embeddings and labels; head: whose labels; weight: in the sum of the
    losses; miner: chooses the pairs or triplets of a batch that the loss looks at.

    It belongs to the batch as a whole, and needs large ones: images are compared within a batch. Where batches share a
    normaliser each counts by its number of known samples, as F1Loss does. A batch without two classes, or without two
    images of one class, has nothing to compare and gives 0; a loss that has centres of the classes (ArcFaceLoss,
    ProxyAnchorLoss, ...) needs one known sample.

    Some losses and miners draw at random, with torch's generators.
    """

    def __init__(self, loss: nn.Module, head: str, weight: float = 1.0, miner: nn.Module | None = None) -> None:
        super().__init__()
        self.loss, self.miner = loss, miner
        self.head, self.weight = head, float(weight)
        self.has_class_centres = any(parameter.dim() == 2 for parameter in loss.parameters())

    def sample_weights(self, target: Tensor) -> Tensor:
        """target (B,) int64, -1 = unknown -> what each sample adds to the normaliser (B,) float32, 0 where unknown."""
        return (target != UNKNOWN).float()

    def forward(self, embedding: Tensor, target: Tensor, normaliser: Tensor | None = None) -> Tensor:
        """The loss, a scalar float32, also under autocast.

        embedding (B, E), of any float type; target (B,) int64, -1 = unknown; normaliser: see HeadLoss.forward. Rows of
        unknown samples are left out, whatever they hold; to learn how many there are, it waits for the device.
        """
        known = target != UNKNOWN
        rows, labels = embedding[known], target[known]
        learns = torch.is_grad_enabled()
        # Not in inference mode: what the library keeps of its first batch there could never be trained with.
        with (
            torch.autocast(embedding.device.type, enabled=False),
            torch.inference_mode(False),
            torch.set_grad_enabled(learns),
        ):
            total = self._of_known(rows.to(torch.promote_types(rows.dtype, torch.float32)), labels) * len(rows)
        if normaliser is None:
            normaliser = self.sample_weights(target).sum()
        return total / torch.where(normaliser > 0, normaliser, torch.inf)

    def _of_known(self, rows: Tensor, labels: Tensor) -> Tensor:
        counts = labels.unique(return_counts=True)[1].tolist()
        comparable = len(counts) > 1 and max(counts) > 1
        # A gradient of 0, rather than none, reaches the embedding and the class centres in every process.
        nothing = torch.stack([(each * 0).sum() for each in (rows, *self.loss.parameters())]).sum()
        if not (comparable or (self.has_class_centres and counts)):
            return nothing
        chosen = self.miner(rows, labels) if self.miner is not None and comparable else None
        loss: Tensor = self.loss(rows, labels, chosen)
        return loss + nothing


class MinerSpec(TypedDict):
    """`{"type": name, "args": {...}}` of a miner."""

    type: MinerName
    args: NotRequired[dict[str, Any]]


@dataclass(frozen=True)
class MetricLearningSettings:
    """Beside a metric-learning loss's type and args: the head whose labels it goes by, its weight, and a miner."""

    head: str
    weight: NonNegativeFloat = 1.0
    miner: MinerSpec | None = None

    def problems(self, loss_name: str, heads: Collection[str]) -> list[Problem]:
        """What is wrong beyond the signature, its key paths relative to the loss's own."""
        problems = []
        if self.head not in heads:
            problems.append(Problem(("head",), f'= "{self.head}" {not_one_of(self.head, heads)}'))
        if self.miner is not None:
            name, arguments = self.miner["type"], self.miner.get("args", {})
            problems += argument_problems(MINERS[name], arguments, ("miner", "args")) or self._refusals()
            if loss_name in WITHOUT_MINER:
                problems.append(Problem(("miner",), f'= "{name}": {loss_name} takes no miner; remove it'))
        return problems

    def build_miner(self) -> nn.Module | None:
        """The miner, if there is one. Raises ValueError for arguments that contradict one another."""
        return None if self.miner is None else MINERS[self.miner["type"]](**self.miner.get("args", {}))

    def _refusals(self) -> list[Problem]:
        try:
            self.build_miner()
        except ValueError as error:
            assert self.miner is not None
            name, arguments = self.miner["type"], self.miner.get("args", {})
            return constructor_problems(MINERS[name], arguments, ("miner", "args"), error)
        return []
