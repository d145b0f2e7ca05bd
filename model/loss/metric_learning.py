"""Losses on the embedding: pytorch-metric-learning's, with its miners, by the names of its classes."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from pydantic import NonNegativeFloat
from torch import Tensor, nn

from base.batch import UNKNOWN

OBJECT_ARGUMENTS = (
    "distance", "reducer", "collect_stats", "embedding_regularizer", "embedding_reg_weight", "weight_regularizer",
    "weight_reg_weight", "weight_init_func", "mat_based_loss", "delta",
)  # fmt: skip
"""Arguments that a config may not set: objects of the library, and what needs them."""

PROGRAMS_ARGUMENTS = ("num_classes", "embedding_size", "descriptors_dim", *OBJECT_ARGUMENTS)
"""Those of a loss; the sizes follow from the run."""


class LibraryClasses(Mapping[str, Callable[..., nn.Module]]):
    """The classes of a module of pytorch-metric-learning by name, imported at first use: a tenth of the imports' time.

    module: its name
    left_out: names of classes that are not listed
    """

    def __init__(self, module: str, left_out: Collection[str]) -> None:
        self.module, self.left_out = module, left_out

    @cached_property
    def _classes(self) -> dict[str, type[nn.Module]]:
        names: dict[str, Any] = vars(importlib.import_module(self.module))
        return {name: kind for name, kind in names.items() if isinstance(kind, type) and name not in self.left_out}

    def __getitem__(self, name: str) -> type[nn.Module]:
        return self._classes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)


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
"""All but those that wrap other losses, and those that cannot train here."""

MINERS = LibraryClasses("pytorch_metric_learning.miners", {"BaseMiner", "EmbeddingsAlreadyPackagedAsTriplets"})


def program_arguments(name: str, num_classes: int, embedding_size: int) -> dict[str, Any]:
    """The arguments of the loss of that name that follow from the run; it need not have parameters for them."""
    arguments: dict[str, Any] = {"num_classes": num_classes, "embedding_size": embedding_size}
    arguments["descriptors_dim"] = embedding_size  # P2SGradLoss's name for it
    if name in ("HistogramLoss", "TupletMarginLoss"):  # which fail where two images have the same embedding
        from model.loss.bounded_cosine import BoundedCosineSimilarity

        arguments["distance"] = BoundedCosineSimilarity()
    return arguments


class MetricLearningLoss(nn.Module):
    """A loss of pytorch-metric-learning on the embedding, by the labels of one head.

    Images are compared within a batch, which should be large. A batch without two classes, or without two images of one
    class, gives 0; a loss with class centres (ArcFaceLoss, ProxyAnchorLoss, ...) needs one known sample. Some losses
    and miners draw from torch's random generators.

    loss: takes embeddings and labels
    head: whose labels
    weight: in the sum of the losses
    miner: chooses the pairs or triplets of a batch that the loss compares
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
        """The loss, a scalar float32, also under autocast. It waits for the device.

        embedding: (B, E), of any float type; rows of unknown samples are left out
        target: (B,) int64, -1 = unknown
        normaliser: see HeadLoss.forward; each batch counts by its number of known samples
        """
        known = target != UNKNOWN
        rows, labels = embedding[known], target[known]
        learns = torch.is_grad_enabled()
        # Not in inference mode: what the library keeps of its first batch could never be trained with.
        with (
            torch.autocast(embedding.device.type, enabled=False),
            torch.inference_mode(False),
            torch.set_grad_enabled(learns),
        ):
            total = self._known_loss(rows.to(torch.promote_types(rows.dtype, torch.float32)), labels) * len(rows)
        if normaliser is None:
            normaliser = self.sample_weights(target).sum()
        return total / torch.where(normaliser > 0, normaliser, torch.inf)

    def _known_loss(self, rows: Tensor, labels: Tensor) -> Tensor:
        counts = labels.unique(return_counts=True)[1].tolist()
        comparable = len(counts) > 1 and max(counts) > 1
        # A gradient of 0, rather than none, reaches the embedding and the class centres in every process.
        nothing = torch.stack([(each * 0).sum() for each in (rows, *self.loss.parameters())]).sum()
        if not (comparable or (self.has_class_centres and counts)):
            return nothing
        pairs = self.miner(rows, labels) if self.miner is not None and comparable else None
        loss: Tensor = self.loss(rows, labels, pairs)
        return loss + nothing


@dataclass(frozen=True)
class MetricLearningSettings:
    """Settings of a metric-learning loss beside its type, args and miner.

    head: the head whose labels it uses
    weight: in the sum of the losses
    """

    head: str
    weight: NonNegativeFloat = 1.0
