"""Losses that compare embeddings: those of pytorch-metric-learning, with its miners, by the names of its classes."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from base.batch import UNKNOWN
from utils.config.signatures import NonNegativeFloat

OBJECT_ARGUMENTS = (
    "distance", "reducer", "collect_stats", "embedding_regularizer", "embedding_reg_weight", "weight_regularizer",
    "weight_reg_weight", "weight_init_func", "mat_based_loss", "delta",
)  # fmt: skip
"""Arguments that a config may not give: objects of the library, and what is of use with them alone."""

PROGRAMS_ARGUMENTS = ("num_classes", "embedding_size", "descriptors_dim", *OBJECT_ARGUMENTS)
"""Those of a loss; the sizes follow from the run."""

TAKES_ARC_COSINES = ("HistogramLoss", "TupletMarginLoss")
"""The losses that fail, or have no finite gradient, where two images have the same embedding."""


class LibraryClasses(Mapping[str, Callable[..., nn.Module]]):
    """The classes of a module of pytorch-metric-learning, by name.

    The library is imported when one is asked for: it imports scipy.stats, a tenth of what all of train.py imports."""

    def __init__(self, module: str, left_out: Collection[str]) -> None:
        self.module, self.left_out = module, left_out

    @cached_property
    def classes(self) -> dict[str, type[nn.Module]]:
        held: Iterable[tuple[str, Any]] = vars(importlib.import_module(self.module)).items()
        return {name: kind for name, kind in held if isinstance(kind, type) and name not in self.left_out}

    def __getitem__(self, name: str) -> type[nn.Module]:
        return self.classes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.classes)

    def __len__(self) -> int:
        return len(self.classes)


LOSSES = LibraryClasses(
    "pytorch_metric_learning.losses",
    {
        # bases and wrappers
        "BaseLossWrapper", "BaseMetricLossFunction", "CrossBatchMemory", "EmbeddingRegularizerMixin", "GenericPairLoss",
        "MultipleLosses", "SelfSupervisedLoss", "WeightRegularizerMixin",
        "DynamicSoftMarginLoss",  # its second step fails
        "InstanceLoss",  # takes a class for the number of an image
        "ManifoldLoss",  # draws classes of its own
        "SmoothAPLoss",  # needs equally many images of each class in every batch
        "VICRegLoss",  # knows no labels
    },
)  # fmt: skip
"""All of the library's but those that wrap other losses, and those that cannot train here."""

MINERS = LibraryClasses("pytorch_metric_learning.miners", {"BaseMiner", "EmbeddingsAlreadyPackagedAsTriplets"})


def program_arguments(name: str, num_classes: int, embedding_size: int) -> dict[str, Any]:
    """What the program gives the loss of that name, as far as it has parameters for it."""
    arguments: dict[str, Any] = {"num_classes": num_classes, "embedding_size": embedding_size}
    arguments["descriptors_dim"] = embedding_size  # the same, of P2SGradLoss
    if name in TAKES_ARC_COSINES:
        from model.loss.bounded_cosine import BoundedCosineSimilarity

        arguments["distance"] = BoundedCosineSimilarity()
    return arguments


class MetricLearningLoss(nn.Module):
    """A loss of pytorch-metric-learning on the embedding, by the labels of one head.

    loss: an object of the library that takes embeddings and labels
    head: whose labels
    weight: in the sum of the losses
    miner: chooses the pairs or triplets of a batch that the loss looks at

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


@dataclass(frozen=True)
class MetricLearningSettings:
    """Beside a metric-learning loss's type, args and miner.

    head: the head whose labels it goes by;
    weight: in the sum of the losses.
    """

    head: str
    weight: NonNegativeFloat = 1.0
