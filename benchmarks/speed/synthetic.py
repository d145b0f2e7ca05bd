"""Batches in memory, and the project's trainer on them, to measure the training alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch

from base.base_data_loader import BaseDataLoader
from base.base_trainer import TrainerSettings
from base.batch import Batch
from base.label_space import LabelSpace
from base.preprocessing import Preprocessing
from benchmarks.speed.workplace import SEED, Workplace
from data_loader.data_loaders import AttributeDataLoader
from data_loader.records import LabelTable, Record
from data_loader.transforms import build_transforms
from experiment.builders import build_learner, build_model, build_trackers
from experiment.schema import metric_functions
from parse_config import ConfigParser
from trainer.checkpoint import Checkpoints
from trainer.trainer import Trainer
from utils.random_streams import numpy_stream
from utils.run_folders import RunFolders
from utils.signals import StopSignals

EPOCHS = 10_000
"""More than are measured, so that no schedule ends."""


def synthetic_batches(
    labels: LabelSpace, count: int, batch_size: int, side: int, device: torch.device | None = None
) -> list[Batch]:
    """Batches of noise with random targets, the images in the layout that the loader gives them, on the device."""
    stream = numpy_stream(SEED, "synthetic batches", batch_size, side)
    batches = []
    for number in range(count):
        images = torch.from_numpy(stream.integers(0, 256, (batch_size, side, side, 3), dtype="uint8"))
        batch = Batch(
            images.permute(0, 3, 1, 2),
            {name: _classes(stream, head.num_classes, batch_size) for name, head in labels.heads.items()},
            {
                name: _classes(stream, len(attribute.class_names), batch_size)
                for name, attribute in labels.predicted_attributes.items()
            },
            torch.arange(number * batch_size, (number + 1) * batch_size),
        )
        batches.append(batch.to(device) if device is not None else batch)
    return batches


def _classes(stream: Any, classes: int, count: int) -> torch.Tensor:
    return torch.from_numpy(stream.integers(0, classes, count))


class SyntheticLoader(BaseDataLoader):
    """The same batches in each epoch, `steps` of them, from the first again where there are fewer."""

    def __init__(
        self,
        preprocessing: Preprocessing,
        train: LabelTable,
        batches: list[Batch],
        steps: int,
    ) -> None:
        self.label_space, self.preprocessing = train.label_space, preprocessing
        self.batch_size = len(batches[0])
        self.train, self.batches, self.steps = train, batches, steps

    @property
    def validation_records(self) -> Sequence[Record]:
        return []

    @property
    def images_per_epoch(self) -> int:
        return self.steps * self.batch_size

    @property
    def steps_per_epoch(self) -> int:
        return self.steps

    def train_batches(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:  # noqa: ARG002
        for step in range(start_batch, self.steps):
            yield self.batches[step % len(self.batches)]

    def validation_batches(self) -> Iterator[Batch]:
        return iter(())


class UnwrittenCheckpoints(Checkpoints):
    """Keeps nothing: a checkpoint an epoch is measured on its own, not in the cost of a step."""

    def save(self, state: dict[str, Any], also_as: Sequence[str] = ()) -> Path:  # noqa: ARG002
        return self.folder


def synthetic_config(
    workplace: Workplace, model_name: str, side: int, changes: Mapping[str, Any] | None = None, cache: str = "disk"
) -> Any:
    """The config of a run on synthetic batches: the recipe's losses, optimizer and metrics; changes: to `trainer`."""
    return workplace.config(
        {
            "arch": {"args": {"model_name": model_name}},
            "data_loader": {"args": {"input_size": side, "cache": cache}},
            "trainer": {"epochs": EPOCHS, **(changes or {})},
        }
    )


def synthetic_trainer(
    workplace: Workplace,
    config: ConfigParser,
    batches: list[Batch],
    steps: int,
    device: torch.device,
    write_checkpoints: bool = False,
) -> Trainer:
    """The trainer that train.py would have, all metrics and trackers on, fed with `steps` batches an epoch, whose
    images are of the config's size."""
    labels = workplace.labels
    settings: TrainerSettings = config.extra("trainer")
    model = build_model(config, labels, None).to(device)
    side = config["data_loader"]["args"]["input_size"]
    preprocessing = build_transforms(config["transforms"], side, model.mean, model.std).preprocessing
    loader = SyntheticLoader(preprocessing, LabelTable.from_records(workplace.records, labels), batches, steps)
    learner = build_learner(config, labels, model, cast(AttributeDataLoader, loader), device, None)
    run = f"run_{len(list(Path(settings.save_dir).glob('models/*/*')))}"
    folders = RunFolders.in_save_dir(Path(settings.save_dir), config["name"], run)
    folders.models.mkdir(parents=True)
    trainer = Trainer(
        settings,
        learner=learner,
        data_loader=loader,
        metrics=metric_functions(config),
        checkpoints=Checkpoints(folders.models) if write_checkpoints else UnwrittenCheckpoints(folders.models),
        stop=StopSignals(),
        run={
            "run_name": run,
            "config": config.resolved,
            "labels": labels.to_config(),
            "preprocessing": preprocessing.to_config(),
        },
    )
    trainer.trackers = build_trackers(config, folders, None)
    return trainer


def train_one_epoch(trainer: Trainer) -> None:
    """What `Trainer.train` does for one epoch; there is nothing to validate."""
    epoch = trainer.completed_epochs + 1
    trainer.finish_epoch(epoch, trainer.train_epoch(epoch))
