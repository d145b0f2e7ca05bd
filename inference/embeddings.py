"""Embeddings: the features that a model's heads see of an image, one vector each. What looks alike to the backbone is
near, so a linear layer, a search of neighbours or of duplicates may begin with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from data_loader.records import Record
from inference.predictor import Predictor, variants_of
from model.heads import LinearHeads
from utils.errors import CheckpointError, ConfigError


def embed(
    predictors: Sequence[Predictor],
    records: Sequence[Record],
    batch_size: int | None = None,
    num_workers: int | Literal["auto"] | None = None,
    verbosity: int = 0,
) -> list[np.ndarray]:
    """By model, the features (N, F) float32 of every record, in order: what its heads see, the mean over its variants
    of an image. An image is decoded once for all models.

    batch_size, num_workers: see inference.predictor.predict

    Raises ConfigError for a model without such heads; CheckpointError where features are not finite; DataError for an
    image that cannot be read."""
    seen: list[list[Tensor]] = [[] for _ in predictors]
    batches_by_model: list[list[Tensor]] = [[] for _ in predictors]
    with ExitStack() as hooks:
        for predictor, inputs in zip(predictors, seen, strict=True):
            hooks.enter_context(heads_of(predictor).register_forward_pre_hook(_keep_in(inputs)))
        for batches in variants_of(predictors, records, batch_size, num_workers, "embedding", verbosity):
            for predictor, variants, inputs, embedded in zip(predictors, batches, seen, batches_by_model, strict=True):
                predictor.predict_batch(variants)
                embedded.append(torch.stack(inputs).mean(dim=0).float().cpu())
                inputs.clear()
    found = [torch.cat(each).numpy() for each in batches_by_model]
    for predictor, features in zip(predictors, found, strict=True):
        if not np.isfinite(features).all():
            raise CheckpointError(f"{predictor.model.title()}: its features are not finite; take other weights")
    return found


def heads_of(predictor: Predictor) -> LinearHeads:
    """The layers whose input the features are. Raises ConfigError."""
    for module in predictor.model.modules():
        if isinstance(module, LinearHeads):
            return module
    title = predictor.model.title() if hasattr(predictor.model, "title") else "an exported graph"
    raise ConfigError(f"{title} has no LinearHeads (model/heads.py), whose input the embeddings are; name another")


def _keep_in(inputs: list[Tensor]) -> Callable[[Any, tuple[Tensor, ...]], None]:
    def keep(_: Any, arguments: tuple[Tensor, ...]) -> None:
        inputs.append(arguments[0])

    return keep
