"""A trainer over a few random images in memory: everything that a real one has, in milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from base.base_data_loader import BaseDataLoader, ImageRecord
from base.base_model import BaseModel
from base.base_trainer import TrainerSettings
from base.batch import Batch
from base.label_space import LabelSpace
from base.mixing import Mixing
from base.preprocessing import Preprocessing
from data_loader.records import LabelTable, Record
from logger.json_lines_tracker import JsonLinesTracker
from logger.tracker import Trackers
from model.loss import CrossEntropyLoss, FocalLoss
from model.loss.multi_head import MultiHeadLoss
from model.metric import accuracy, f1
from trainer.checkpoint import Checkpoints
from trainer.compute import Compute, kept_computes
from trainer.learner import Learner
from trainer.schedule import Schedule
from trainer.trainer import Trainer
from utils.checkpoint.checkpoint_file import read_checkpoint
from utils.errors import StopSignal
from utils.random_streams import numpy_stream
from utils.signals import StopSignals

LABELS = LabelSpace({"mask": {"classes": ["on", "off"]}, "age": {"bins": [30, 60], "training_bins": [20, 30, 60]}})
IMAGE_SIDE = 6
CPU = torch.device("cpu")


class SmallModel(BaseModel):
    """With batch statistics and dropout, so that an inexact resume shows."""

    def __init__(self, batch_norm: bool = True, dropout: float = 0.3) -> None:
        super().__init__({name: head.num_classes for name, head in LABELS.heads.items()})
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4) if batch_norm else nn.Identity(),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(dropout),
        )
        self.outputs = nn.ModuleDict({name: nn.Linear(4 * 16, classes) for name, classes in self.num_classes.items()})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.body(images)
        return {name: output(features) for name, output in self.outputs.items()}


class MemoryLoader(BaseDataLoader):
    """Random images; the targets of some are unknown."""

    def __init__(
        self, num_train: int = 22, num_validation: int = 9, batch_size: int = 4, valid_batch_size: int = 4
    ) -> None:
        stream = numpy_stream(3, "test images")
        total = num_train + num_validation
        self.images = torch.from_numpy(stream.integers(0, 256, (total, 3, IMAGE_SIDE, IMAGE_SIDE)).astype("uint8"))
        raw = [
            {
                "mask": ["on", "off", None][int(stream.integers(3))],
                "age": [None, 18, 25, 40, 70][int(stream.integers(5))],
            }
            for _ in range(total)
        ]
        table = LabelTable.from_records([Record(Path(), "", "", row, "") for row in raw], LABELS)
        self.targets, self.truth = table.targets, table.scoring_targets
        self.num_train, self.total = num_train, total
        self.batch_size, self.valid_batch_size = batch_size, valid_batch_size
        self.label_space = LABELS
        self.preprocessing = Preprocessing((IMAGE_SIDE, IMAGE_SIDE), (0.5,) * 3, (0.25,) * 3, [])

    @property
    def validation_records(self) -> list[ImageRecord]:
        return [None] * (self.total - self.num_train)  # type: ignore[list-item]

    @property
    def images_per_epoch(self) -> int:
        return self.num_train

    @property
    def steps_per_epoch(self) -> int:
        return self.num_train // self.batch_size

    def batch(self, rows: Tensor) -> Batch:
        targets = {name: target[rows] for name, target in self.targets.items()}
        return Batch(self.images[rows], targets, {name: truth[rows] for name, truth in self.truth.items()}, rows)

    def train_batches(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
        order = torch.from_numpy(numpy_stream(7, "order", epoch).permutation(self.num_train))
        for number in range(start_batch, self.steps_per_epoch):
            yield self.batch(order[number * self.batch_size : (number + 1) * self.batch_size])

    def validation_batches(self) -> Iterator[Batch]:
        for rows in torch.arange(self.num_train, self.total).split(self.valid_batch_size):
            yield self.batch(rows)


@dataclass
class Built:
    """A trainer and its folder."""

    trainer: Trainer
    folder: Path

    @property
    def metrics_file(self) -> Path:
        return self.folder / "metrics.jsonl"

    @property
    def stop(self) -> StopSignals:
        return self.trainer.stop

    def train(self) -> Built:
        self.trainer.train()
        return self

    def checkpoint(self, name: str = "last.pth") -> dict[str, Any]:
        return read_checkpoint(self.folder / name)

    def state(self) -> dict[str, Tensor]:
        """Of the model: weights and buffers."""
        return {name: tensor.clone() for name, tensor in self.trainer.learner.model.state_dict().items()}


MakeTrainer = Callable[..., Built]


def train_until(built: Built, updates: int) -> dict[str, Any]:
    """Trains until a signal asks to stop after so many updates of the weights; returns the checkpoint."""

    class AfterUpdates(StopSignals):
        @property
        def requested(self) -> bool:
            return built.trainer.learner.updates >= updates

    built.trainer.stop = AfterUpdates()
    with pytest.raises(StopSignal):
        built.trainer.train()
    return built.checkpoint()


def assert_equal_states(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


@pytest.fixture
def make_trainer(tmp_path: Path) -> Iterator[MakeTrainer]:
    """make_trainer(folder, resume=content, loader=..., **settings): a trainer that writes to `folder`.

    parts: makes further parts of the learner (freezing, averaging, ...)."""

    made: list[Trainer] = []

    def make(
        folder: str = "run",
        resume: dict[str, Any] | None = None,
        loader: MemoryLoader | None = None,
        model: SmallModel | None = None,
        criterion: MultiHeadLoss | None = None,
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW,
        lr: float = 0.01,
        schedule: Callable[[torch.optim.Optimizer], Schedule] | None = None,
        parts: Callable[[SmallModel], dict[str, Any]] = lambda _model: {},
        mixings: Sequence[Mixing] = (),
        device: torch.device = CPU,
        computes: dict[str, Compute] | None = None,
        **settings: Any,
    ) -> Built:
        loader = loader or MemoryLoader()
        torch.manual_seed(0)
        model = (model or SmallModel()).to(device)
        used_optimizer = optimizer(model.parameters(), lr=lr)
        path = tmp_path / folder
        path.mkdir(exist_ok=True)
        usual = {"epochs": 3, "verbosity": 0, "monitor": "min val/loss", "precision": "float32"}
        trainer_settings = TrainerSettings(**{**usual, **settings})
        losses = {"mask": CrossEntropyLoss([1.0, 2.0]), "age": FocalLoss(2.0)}
        learner = Learner(
            trainer_settings,
            model=model,
            criterion=criterion or MultiHeadLoss(losses, {"mask": 0.4, "age": 0.6}).to(device),
            optimizer=used_optimizer,
            preprocessing=loader.preprocessing,
            device=device,
            seed=11,
            batch_sizes=(loader.batch_size, loader.valid_batch_size),
            computes=computes or kept_computes(resume or {}, path),
            schedule=schedule(used_optimizer) if schedule else None,
            **parts(model),
        )
        trainer = Trainer(
            trainer_settings,
            learner=learner,
            data_loader=loader,
            metrics={"accuracy": accuracy, "f1": f1},
            mixings=mixings,
            checkpoints=Checkpoints(path),
            stop=StopSignals(),
            run={"run_name": "test", "config": {}},
        )
        done = resume["completed_epochs"] if resume else None
        logged = resume["trackers"]["jsonl"]["lines"] if resume else None
        trainer.trackers = Trackers([JsonLinesTracker(path / "metrics.jsonl", done, logged)])
        if resume:
            trainer.load_state_dict(resume)
        made.append(trainer)
        return Built(trainer, path)

    yield make
    for trainer in made:
        trainer.trackers.close(0)
