"""From a checkpoint to probabilities: the one way that test.py, ensembles and the page use a model."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from base.base_model import BaseModel
from base.batch import Batch
from base.label_space import LabelSpace
from base.preprocessing import Preprocessing
from base.weights import load_weights
from data_loader.pipeline import AugmentationKey, first_line
from data_loader.transforms import eval_pipeline
from model.architectures import build_without_weights
from utils.checkpoint_file import read_checkpoint
from utils.errors import CheckpointError, ConfigError
from utils.stop_signals import StopSignals

logger = logging.getLogger(__name__)

CHECKPOINT_NAMES = {"best": "model_best.pth", "last": "last.pth"}


@dataclass
class Probabilities:
    """What a model says of a set of images: probabilities by head, (N, C) float32, over the training classes, and the
    images' rows in the set, (N,) int64, in rising order."""

    by_head: dict[str, Tensor]
    indices: Tensor


class Predictor:
    """A trained model with all that it needs to judge an image: its label space and its preprocessing."""

    def __init__(
        self,
        model: BaseModel,
        labels: LabelSpace,
        preprocessing: Preprocessing,
        device: torch.device,
        content: Mapping[str, Any],
    ) -> None:
        self.model = model.to(device).eval()
        self.labels, self.preprocessing, self.device = labels, preprocessing, device
        self._pipeline = eval_pipeline(preprocessing)
        self.config: dict[str, Any] = content["config"]
        self.run_name: str = content["run_name"]
        self.completed_epochs: int = content["completed_epochs"]

    @classmethod
    def from_checkpoint(cls, path: Path, device: torch.device | str = "cpu") -> Predictor:
        """Raises CheckpointError if the file is missing, damaged, hostile, or its weights do not fit its own config."""
        content = read_checkpoint(path)
        try:
            labels = LabelSpace(**content["labels"])
            preprocessing = Preprocessing.from_config(content["preprocessing"])
            model = build_without_weights(content["config"]["arch"], labels.num_classes)
            load_weights(model, content["model"], path)
            return cls(model, labels, preprocessing, torch.device(device), content)
        except KeyError as error:
            raise CheckpointError(f"{path}: lacks {error}, which every checkpoint of this program has") from None
        except (ConfigError, TypeError, ValueError) as error:  # made by another version, of ours or of a library
            raise CheckpointError(f"{path}: cannot be used by this version: {first_line(error)}") from None

    def probabilities(self, batches: Iterable[Batch], stop: StopSignals | None = None) -> Probabilities:
        """Judges every batch once. Raises StopSignal between two batches, if a signal asks for it."""
        by_head: dict[str, list[Tensor]] = {head: [] for head in self.labels.heads}
        indices = []
        with torch.inference_mode():
            for batch in batches:
                images = batch.images.to(self.device, non_blocking=True)
                for head, logits in self.model(self.preprocessing.normalise(images)).items():
                    by_head[head].append(logits.float().softmax(dim=1).cpu())
                indices.append(batch.indices)
                if stop is not None:
                    stop.raise_if_requested()
        rows = torch.cat(indices)
        order = rows.argsort()
        return Probabilities({head: torch.cat(parts)[order] for head, parts in by_head.items()}, rows[order])

    def predict_image(self, image: np.ndarray) -> dict[str, dict[str, float]]:
        """One image, uint8 (H, W, 3) RGB -> for each attribute, the probability of each class by name."""
        pixels = torch.from_numpy(self._pipeline(image, AugmentationKey(0, 0, 0))).permute(2, 0, 1).unsqueeze(0)
        with torch.inference_mode():
            logits = self.model(self.preprocessing.normalise(pixels.to(self.device)))
        by_head = {head: output.float().softmax(dim=1).cpu() for head, output in logits.items()}
        return {
            name: dict(zip(self.labels.attributes[name].class_names, probabilities[0].tolist(), strict=True))
            for name, probabilities in self.labels.attribute_probabilities(by_head).items()
        }


def find_checkpoint(path: Path, name: str = "best") -> Path:
    """The checkpoint file that `--resume` and `--checkpoint` mean: `path` itself, or that of the run folder `path`.

    name: best, last, or the name of a file of the run such as best_f1. A run without a best one gives its last.
    Raises CheckpointError, listing what there is."""
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such run folder or checkpoint")
    if path.is_file():
        return path
    file = path / CHECKPOINT_NAMES.get(name, f"{name.removesuffix('.pth')}.pth")
    if file.exists():
        return file
    there = sorted(file.stem for file in path.glob("*.pth"))
    if name == "best" and "last" in there:
        logger.warning("%s: there is no best checkpoint (the run watched no metric); the last one is used", path)
        return path / CHECKPOINT_NAMES["last"]
    if not there:
        raise CheckpointError(f"{path}: holds no checkpoint; name a run folder such as saved/models/<name>/<run>")
    raise CheckpointError(f"{path}: has no checkpoint {name!r}; it has {', '.join(there)}")
