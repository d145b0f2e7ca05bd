"""From a checkpoint to probabilities: the one way that test.py and ensembles use a model."""

from __future__ import annotations

import inspect
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
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
from data_loader.cache import IMAGE_CACHE_FOLDER, DiskCache
from data_loader.data_loaders import AttributeDataLoader, TTALoader
from data_loader.preparation.build import saved_preparation
from data_loader.preparation.preparation import Preparation
from data_loader.preparation.prepared_images import PREPARATION_FOLDER, PreparedImages
from data_loader.records.image_check import CHECKED_IMAGES_FILE, check_images
from data_loader.records.records import Record
from inference.tta import PRESETS, Tta, tta_pipelines
from model.model import build_without_weights
from utils import distributed
from utils.checkpoint.checkpoint_file import read_checkpoint
from utils.config.former_defaults import upgraded
from utils.config.plugins import plugins_of_run
from utils.errors import CheckpointError
from utils.progress import with_progress
from utils.run_folders import obstacle_to_writing, read_kept_config, refuse_missing
from utils.signals import StopSignals
from utils.wording import first_line

logger = logging.getLogger(__name__)

CONFIG_TYPES: dict[str, type | tuple[type, ...]] = {
    "info_dir": (str, type(None)),
    "submit_dir": str,
    "label_fixes": (str, type(None)),
    "seed": int,
    "split": dict,
    "data": list,
    "plugins": list,
}

CHECKPOINT_NAMES = {"best": "model_best.pth", "last": "last.pth"}

EXPORTED_FILE = "model.json"
"""It makes a folder an exported model: see inference/export/exported.py."""


@dataclass(frozen=True)
class Probabilities:
    """What a model predicts of N images, float32.

    by_head: (N, C) over each head's training classes
    by_attribute: (N, S) over each attribute's scored classes
    joint: (N, K) over the joint classes; None where the label space has none
    """

    by_head: dict[str, Tensor]
    by_attribute: dict[str, Tensor]
    joint: Tensor | None

    @classmethod
    def from_heads(cls, labels: LabelSpace, by_head: dict[str, Tensor]) -> Probabilities:
        """The probabilities of attributes and joint classes that follow from those of the heads, (N, C) each."""
        joint = labels.joint_probabilities(by_head) if labels.has_joint_class else None
        return cls(by_head, labels.attribute_probabilities(by_head), joint)

    @classmethod
    def combined(cls, parts: Sequence[Probabilities], combine: Callable[[list[Tensor]], Tensor]) -> Probabilities:
        """Several, combined tensor by tensor: batches are concatenated, variants of the same images averaged."""

        def by_name(tables: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
            return {name: combine([table[name] for table in tables]) for name in tables[0]}

        joint = [part.joint for part in parts if part.joint is not None]
        return cls(
            by_name([part.by_head for part in parts]),
            by_name([part.by_attribute for part in parts]),
            combine(joint) if joint else None,
        )


class Predictor:
    """A trained model with all that it needs to predict an image: its label space, its preprocessing, and its TTA.

    content: of its checkpoint
    tta: the variants of an image, see inference/tta.py; None: those of its config
    preparation: that of the preprocessing, built
    folder: of the checkpoint

    `pipelines` makes one image of each variant.
    """

    def __init__(
        self,
        model: BaseModel,
        labels: LabelSpace,
        preprocessing: Preprocessing,
        device: torch.device,
        content: Mapping[str, Any],
        tta: Tta | None = None,
        preparation: Preparation | None = None,
        folder: Path | None = None,
    ) -> None:
        self.folder = folder
        self.model = model.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self.labels, self.preprocessing, self.device = labels, preprocessing, device
        self.config: dict[str, Any] = content["config"]
        self.name, self.run_name = str(self.config["name"]), str(content["run_name"])
        self.completed_epochs = int(content["completed_epochs"])
        self.sources: list[dict[str, Any]] = self.config["data"]
        self.split_digest: str | None = content.get("split_digest")
        self.validation_digest: str | None = content.get("validation_digest")
        defaults = {name: each.default for name, each in inspect.signature(AttributeDataLoader).parameters.items()}
        self.loader_arguments: dict[str, Any] = defaults | self.config["data_loader"]["args"]
        self.tta: Tta = tta or self.config.get("views") or PRESETS["none"]
        save_dir = Path(self.config["trainer"].get("save_dir", TrainerSettings.save_dir))
        self.save_dir = save_dir if save_dir.is_dir() else None
        """Where its run keeps what is known of images; None for a run that came here from elsewhere."""
        self.preparation = None
        if preparation is not None:
            is_kept = self.save_dir is not None and obstacle_to_writing(save_dir) is None
            self.preparation = PreparedImages(preparation, save_dir / PREPARATION_FOLDER if is_kept else None)
        self.pipelines = tta_pipelines(self.tta, preprocessing, self.preparation)

    @classmethod
    def from_checkpoint(cls, path: Path, device: torch.device | str = "cpu", tta: Tta | None = None) -> Predictor:
        """Raises CheckpointError if the file is missing, damaged, hostile, or its weights do not fit its own config;
        ConfigError where its preparation needs a package or a file that is missing, or its plug-ins are missing or have
        changed."""
        content = read_checkpoint(path)
        try:
            content = {**content, "config": upgraded(content["config"])}
            check_types(content["config"])
            labels = LabelSpace(**content["labels"])
            preprocessing = Preprocessing.from_config(content["preprocessing"])
            with plugins_of_run(content["config"], path.parent).active():
                model = build_without_weights(content["config"]["arch"], labels.num_classes)
                averaged = content.get("answers_with") == "average"
                load_weights(model, content["averaging"]["average"] if averaged else content["model"], path)
                resumed = (read_kept_config(path.parent) or {}).get("preparation") or []
                preparation = saved_preparation(preprocessing.preparation, path, resumed)
                device = torch.device(device)
                return cls(model, labels, preprocessing, device, content, tta, preparation, path.parent)
        except KeyError as error:
            raise CheckpointError(f"{path}: lacks {error}, which every checkpoint of this program has") from None
        except (AttributeError, TypeError, ValueError) as error:  # written by another version or program
            raise CheckpointError(f"{path}: cannot be used by this version: {first_line(error)}") from None

    def plugins(self) -> AbstractContextManager[None]:
        """Within it the names in its config are known that plug-ins define. Raises ConfigError."""
        return plugins_of_run(self.config, self.folder).active()

    @property
    def verbosity(self) -> int:
        """The run's: whether long work shows its progress."""
        return int(self.config.get("trainer", {}).get("verbosity", 0))

    def predict(self, records: Sequence[Record]) -> Probabilities:
        """The probabilities of every record, in order. Raises DataError for an image that cannot be read."""
        return predict([self], records, verbosity=self.verbosity)[0]

    def predict_batch(self, variants: Sequence[Tensor]) -> Probabilities:
        """The mean over the variants of a batch, on this predictor's device, for which it does not wait.

        variants: by pipeline, the images (B, 3, H, W) uint8 as it makes them
        """
        predicted = []
        with torch.inference_mode():
            for images in variants:
                images = images.to(self.device, non_blocking=True)
                outputs = self.model(self.preprocessing.normalise(images, memory_format=torch.channels_last))
                by_head = {head: outputs[head].float().softmax(dim=1) for head in self.labels.heads}
                predicted.append(Probabilities.from_heads(self.labels, by_head))
        return Probabilities.combined(predicted, lambda tensors: torch.stack(tensors).mean(dim=0))

    def predict_pixels(self, image: np.ndarray) -> Probabilities:
        """The probabilities of one image, on the CPU, N = 1. One thread at a time may call.

        image: (H, W, 3) uint8, RGB
        """
        variants = [torch.from_numpy(pipeline(image)).permute(2, 0, 1).unsqueeze(0) for pipeline in self.pipelines]
        return Probabilities.combined([self.predict_batch(variants)], lambda tensors: tensors[0].cpu())

    def predict_image(self, image: np.ndarray) -> dict[str, dict[str, float]]:
        """By attribute, the probability of each class by name.

        image: (H, W, 3) uint8, RGB
        """
        return {
            name: dict(zip(self.labels.attributes[name].class_names, probabilities[0].tolist(), strict=True))
            for name, probabilities in self.predict_pixels(image).by_attribute.items()
        }

    def find_unreadable(self, records: Sequence[Record], on_bad: Literal["refuse", "skip"]) -> set[Path]:
        """The images that cannot be read, of which "skip" warns; "refuse" raises DataError for them."""
        known = None if self.save_dir is None else self.save_dir / CHECKED_IMAGES_FILE
        paths, bits = [record.path for record in records], self.preprocessing.bits_used_of_16
        remedy = "repair them: every image must have an answer"
        return set(check_images(paths, known, on_bad, bits, self.verbosity > 0, remedy))


def check_types(config: Mapping[str, Any]) -> None:
    """Raises ValueError where a value that is used later is of another type: a checksum does not tell who wrote it."""
    for key, kind in CONFIG_TYPES.items():
        if key in config and not isinstance(config[key], kind):
            raise ValueError(f"config.{key} = {config[key]!r:.60} is of another type")


def predict(
    predictors: Sequence[Predictor],
    records: Sequence[Record],
    batch_size: int | None = None,
    num_workers: int | Literal["auto"] | None = None,
    stop: StopSignals | None = None,
    verbosity: int = 0,
) -> list[Probabilities]:
    """What each of the models, which are on one device, predicts of every record, in order; on the CPU.

    An image is decoded once for all models and variants. Several processes share the batches; each returns the whole.

    batch_size: None: the smallest of the models' configs
    num_workers: processes that read images; None: the most of the models' configs
    stop: asked between two batches

    Raises DataError for an image that cannot be read; StopSignal.
    """
    rank, processes = distributed.rank(), distributed.world_size()
    batches_by_model: list[list[Probabilities]] = [[] for _ in predictors]
    shared = (rank, processes)
    for batches in variants_of(predictors, records, batch_size, num_workers, "predicting", verbosity, shared):
        for predictor, variants, predicted in zip(predictors, batches, batches_by_model, strict=True):
            predicted.append(predictor.predict_batch(variants))
        if stop is not None:
            stop.raise_if_requested()
    if processes > 1:
        own = [[_on_cpu(predicted) for predicted in each] for each in batches_by_model]
        gathered = zip(*distributed.gather(own), strict=True)  # by model, the batches of each process
        batches_by_model = [_in_turn(by_process) for by_process in gathered]
    return [Probabilities.combined(each, lambda tensors: torch.cat(tensors).cpu()) for each in batches_by_model]


def _on_cpu(predicted: Probabilities) -> Probabilities:
    return Probabilities.combined([predicted], lambda tensors: tensors[0].cpu())


def _in_turn(by_process: Sequence[Sequence[Probabilities]]) -> list[Probabilities]:
    """The batches of all processes, of which each had every so manyth."""
    turns = itertools.zip_longest(*by_process)
    return [batch for turn in turns for batch in turn if batch is not None]


def variants_of(
    predictors: Sequence[Predictor],
    records: Sequence[Record],
    batch_size: int | None,
    num_workers: int | Literal["auto"] | None,
    description: str,
    verbosity: int,
    share_of_work: tuple[int, int] = (0, 1),
) -> Iterator[list[list[Tensor]]]:
    """The records in batches, in order: for each model, the variants of the images as `predict_batch` takes them.

    description: of what is done with them, for the progress
    share_of_work: the rank and the number of processes that share the batches
    others: see `predict`"""
    own = [predictor.loader_arguments for predictor in predictors]
    if num_workers is None:
        configured = [arguments["num_workers"] for arguments in own]
        num_workers = "auto" if "auto" in configured else max(configured)
    rank, processes = share_of_work
    verbosity = 0 if rank else verbosity
    with distributed.first_of_each_machine() if processes > 1 else nullcontext():
        batches = TTALoader(
            records,
            [pipeline for predictor in predictors for pipeline in predictor.pipelines],
            batch_size or min(arguments["valid_batch_size"] or arguments["batch_size"] for arguments in own),
            num_workers,
            predictors[0].device,
            _image_cache(predictors, verbosity),
            show_progress=verbosity > 0,
            rank=rank,
            world_size=processes,
        )
    with_bar = with_progress(
        batches, len(records), description, verbosity > 0, images_of=lambda batch: len(batch.indices) * processes
    )
    for images, _ in with_bar:
        variants = iter(images)
        yield [list(itertools.islice(variants, len(predictor.pipelines))) for predictor in predictors]


def _image_cache(predictors: Sequence[Predictor], verbosity: int) -> DiskCache | None:
    """The cache on disk of the first model that was trained with one."""
    for predictor in predictors:
        arguments = predictor.loader_arguments
        if arguments["cache"] in ("disk", "device") and predictor.save_dir is not None:
            folder = predictor.save_dir / IMAGE_CACHE_FOLDER
            return DiskCache(folder, arguments["cache_budget_gib"], show_progress=verbosity > 0)
    return None


def find_checkpoint(path: Path, name: str = "best") -> Path:
    """The checkpoint file that `--resume` and `--checkpoint` mean: `path` itself, or that of the run folder `path`; of
    an exported folder its one description.

    name: best, last, or the name of a file of the run such as best_f1; a run without a best one gives its last

    Raises CheckpointError, listing what there is.
    """
    refuse_missing(path)
    if path.is_file():
        return path
    file = path / CHECKPOINT_NAMES.get(name, f"{name.removesuffix('.pth')}.pth")
    if file.exists():
        return file
    existing = sorted(file.stem for file in path.glob("*.pth"))
    if not existing and (path / EXPORTED_FILE).is_file():
        return path / EXPORTED_FILE
    if name == "best" and "last" in existing:
        if not _watches_nothing(path):
            logger.warning("%s: there is no best checkpoint; the last one is used", path)
        return path / CHECKPOINT_NAMES["last"]
    if not existing:
        raise CheckpointError(f"{path}: holds no checkpoint; name a run folder such as saved/models/<name>/<run>")
    raise CheckpointError(f"{path}: has no checkpoint {name!r}; it has {', '.join(existing)}")


def _watches_nothing(folder: Path) -> bool:
    """Whether the run in a folder has no monitor, so that its last checkpoint is the one it means to be answered by."""
    config = read_kept_config(folder) or {}
    return isinstance(trainer := config.get("trainer"), dict) and trainer.get("monitor") == "off"
