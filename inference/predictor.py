"""From a checkpoint to probabilities: the one way that test.py, ensembles and the page use a model."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from base.base_model import BaseModel
from base.base_trainer import TrainerSettings
from base.label_space import LabelSpace
from base.preprocessing import Preprocessing
from base.weights import load_weights
from data_loader.cache import DEFAULT_CACHE_BUDGET_GIB, IMAGE_CACHE_FOLDER, DiskCache
from data_loader.data_loaders import TTALoader
from data_loader.records.records import Record
from inference.checkpoint_content import check_content
from inference.tta import Tta, tta_pipelines
from inference.tta_presets import PRESETS
from model.model import build_without_weights
from utils.checkpoint.checkpoint_file import read_checkpoint
from utils.config.former_defaults import upgraded
from utils.errors import CheckpointError
from utils.progress import with_progress
from utils.run_folders import read_kept_config, refuse_missing
from utils.signals import StopSignals
from utils.wording import first_line

logger = logging.getLogger(__name__)

CHECKPOINT_NAMES = {"best": "model_best.pth", "last": "last.pth"}


@dataclass(frozen=True)
class Probabilities:
    """What a model predicts of N images, float32: on the model's device batch by batch, on the CPU in the end.

    by_head: (N, C) over each head's training classes.
    by_attribute: (N, S) over each attribute's scored classes.
    joint: (N, K) over the joint classes; None where the label space has none."""

    by_head: dict[str, Tensor]
    by_attribute: dict[str, Tensor]
    joint: Tensor | None

    @classmethod
    def of_heads(cls, labels: LabelSpace, by_head: dict[str, Tensor]) -> Probabilities:
        """What the probabilities by head (N, C) come to in a label space."""
        joint = labels.joint_probabilities(by_head) if labels.has_joint_class else None
        return cls(by_head, labels.attribute_probabilities(by_head), joint)

    @classmethod
    def combined(cls, parts: Sequence[Probabilities], combine: Callable[[list[Tensor]], Tensor]) -> Probabilities:
        """Several, put together tensor by tensor: one set of images after the other, or the mean over variants."""

        def by_name(tables: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
            return {name: combine([table[name] for table in tables]) for name in tables[0]}

        joint = [part.joint for part in parts if part.joint is not None]
        return cls(
            by_name([part.by_head for part in parts]),
            by_name([part.by_attribute for part in parts]),
            combine(joint) if joint else None,
        )

    def to_cpu(self) -> Probabilities:
        """The same on the CPU. Waits for the device."""
        return Probabilities.combined([self], lambda tensors: tensors[0].cpu())


class Predictor:
    """A trained model with all that it needs to predict an image: its label space, its preprocessing, and its TTA.

    content: of its checkpoint.
    tta: see inference/tta.py; None: that of its config, or else the image as it is.

    `pipelines` makes one image of each variant."""

    def __init__(
        self,
        model: BaseModel,
        labels: LabelSpace,
        preprocessing: Preprocessing,
        device: torch.device,
        content: Mapping[str, Any],
        tta: Tta | None = None,
    ) -> None:
        self.model = model.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self.labels, self.preprocessing, self.device = labels, preprocessing, device
        self.config: dict[str, Any] = content["config"]
        self.run_name: str = content["run_name"]
        self.completed_epochs: int = content["completed_epochs"]
        self.split_digest: str | None = content.get("split_digest")
        self.tta: Tta = tta or self.config.get("views") or PRESETS["none"]
        self.pipelines = tta_pipelines(self.tta, preprocessing)

    @classmethod
    def from_checkpoint(cls, path: Path, device: torch.device | str = "cpu", tta: Tta | None = None) -> Predictor:
        """Raises CheckpointError if the file is missing, damaged, hostile, or its weights do not fit its own config."""
        content = read_checkpoint(path)
        check_content(content, path)
        content = {**content, "config": upgraded(content["config"])}
        try:
            labels = LabelSpace(**content["labels"])
            preprocessing = Preprocessing.from_config(content["preprocessing"])
            model = build_without_weights(content["config"]["arch"], labels.num_classes)
            averaged = content.get("answers_with") == "average"
            load_weights(model, content["averaging"]["average"] if averaged else content["model"], path)
            return cls(model, labels, preprocessing, torch.device(device), content, tta)
        except KeyError as error:
            raise CheckpointError(f"{path}: lacks {error}, which every checkpoint of this program has") from None
        except CheckpointError as error:  # of a part, which does not know the file
            text = str(error).removeprefix(f"{path}: ")
            raise CheckpointError(f"{path}: {text}") from None
        except (AttributeError, TypeError, ValueError) as error:  # by another version, or another hand
            raise CheckpointError(f"{path}: cannot be used by this version: {first_line(error)}") from None

    @property
    def save_dir(self) -> Path | None:
        """Where its run, and others, keep what they know of images; None for a run that came here from elsewhere."""
        save_dir = Path(self.config.get("trainer", {}).get("save_dir", TrainerSettings.save_dir))
        return save_dir if save_dir.is_dir() else None

    @property
    def loader_arguments(self) -> dict[str, Any]:
        """Those of its run's data loader; none for a run that came here without a config of its own."""
        arguments: dict[str, Any] = self.config.get("data_loader", {"args": {}})["args"]
        return arguments

    def predict(self, records: Sequence[Record]) -> Probabilities:
        """The probabilities of every record, in order. Raises DataError for an image that cannot be read."""
        return predict([self], records)[0]

    def predict_batch(self, variants: Sequence[Tensor]) -> Probabilities:
        """The mean over the variants of a batch, on this predictor's device, for which it does not wait.

        variants: by pipeline, the images (B, 3, H, W) uint8 as it makes them."""
        predicted = []
        with torch.inference_mode():
            for images in variants:
                images = images.to(self.device, non_blocking=True)
                outputs = self.model(self.preprocessing.normalise(images, memory_format=torch.channels_last))
                by_head = {head: outputs[head].float().softmax(dim=1) for head in self.labels.heads}
                predicted.append(Probabilities.of_heads(self.labels, by_head))
        return Probabilities.combined(predicted, lambda tensors: torch.stack(tensors).mean(dim=0))

    def predict_image(self, image: np.ndarray) -> dict[str, dict[str, float]]:
        """By attribute, the probability of each class by name.

        image: (H, W, 3) uint8, RGB."""
        variants = [torch.from_numpy(pipeline(image)).permute(2, 0, 1).unsqueeze(0) for pipeline in self.pipelines]
        return {
            name: dict(zip(self.labels.attributes[name].class_names, probabilities[0].tolist(), strict=True))
            for name, probabilities in self.predict_batch(variants).by_attribute.items()
        }


def predict(
    predictors: Sequence[Predictor],
    records: Sequence[Record],
    batch_size: int | None = None,
    num_workers: int | Literal["auto"] | None = None,
    stop: StopSignals | None = None,
    verbosity: int = 0,
) -> list[Probabilities]:
    """What each of the models, which are on one device, predicts of every record, in order. An image is decoded once
    for all models and variants, and nothing but probabilities is kept.

    batch_size, num_workers: None: those of the models' configs (the smallest batch, the most workers).

    Raises DataError for an image that cannot be read; StopSignal between two batches, if a signal asks for it."""
    own = [predictor.loader_arguments for predictor in predictors]
    size = batch_size or min(each.get("valid_batch_size") or each.get("batch_size", 32) for each in own)
    batches = TTALoader(
        records,
        [pipeline for predictor in predictors for pipeline in predictor.pipelines],
        size,
        num_workers if num_workers is not None else _most_workers([each.get("num_workers", "auto") for each in own]),
        predictors[0].device,
        _image_cache(predictors, verbosity),
    )
    batches_by_model: list[list[Probabilities]] = [[] for _ in predictors]
    batches_with_progress = with_progress(
        batches, len(records), "predicting", verbosity > 0, images_of=lambda batch: len(batch.indices)
    )
    for images, _ in batches_with_progress:
        variants = iter(images)
        for predictor, predicted in zip(predictors, batches_by_model, strict=True):
            predicted.append(predictor.predict_batch(list(itertools.islice(variants, len(predictor.pipelines)))))
        if stop is not None:
            stop.raise_if_requested()
    return [Probabilities.combined(predicted, torch.cat).to_cpu() for predicted in batches_by_model]


def _most_workers(configured: Sequence[int | Literal["auto"]]) -> int | Literal["auto"]:
    numbers = [number for number in configured if isinstance(number, int)]
    return max(numbers) if len(numbers) == len(configured) else "auto"


def _image_cache(predictors: Sequence[Predictor], verbosity: int) -> DiskCache | None:
    """Where the first of the models that was trained with a cache on disk kept its images, so that these are too."""
    for predictor in predictors:
        args = predictor.loader_arguments
        if args.get("cache") in ("disk", "device") and predictor.save_dir is not None:
            budget_gib = args.get("cache_budget_gib", DEFAULT_CACHE_BUDGET_GIB)
            return DiskCache(predictor.save_dir / IMAGE_CACHE_FOLDER, budget_gib, show_progress=verbosity > 0)
    return None


def find_checkpoint(path: Path, name: str = "best") -> Path:
    """The checkpoint file that `--resume` and `--checkpoint` mean: `path` itself, or that of the run folder `path`.

    name: best, last, or the name of a file of the run such as best_f1. A run without a best one gives its last.
    Raises CheckpointError, listing what there is."""
    refuse_missing(path)
    if path.is_file():
        return path
    file = path / CHECKPOINT_NAMES.get(name, f"{name.removesuffix('.pth')}.pth")
    if file.exists():
        return file
    existing = sorted(file.stem for file in path.glob("*.pth"))
    if name == "best" and "last" in existing:
        logger.warning("%s: there is no best checkpoint%s; the last one is used", path, _why_no_best(path))
        return path / CHECKPOINT_NAMES["last"]
    if not existing:
        raise CheckpointError(f"{path}: holds no checkpoint; name a run folder such as saved/models/<name>/<run>")
    raise CheckpointError(f"{path}: has no checkpoint {name!r}; it has {', '.join(existing)}")


def _why_no_best(run: Path) -> str:
    """In brackets, as far as the run's config tells it."""
    trainer = (read_kept_config(run) or read_kept_config(run.parent) or {}).get("trainer")
    if not isinstance(trainer, dict):
        return ""
    monitor = trainer.get("monitor", TrainerSettings.monitor)
    if monitor == "off":
        return " (the run watched no metric)"
    return f" (the run watched {monitor}: no epoch has had a value of it yet, or {CHECKPOINT_NAMES['best']} was lost)"
