"""What a config may say: the table of its sections.

A constructor's signature is the schema of its arguments, so a new loss, model or source needs no line here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from base.base_trainer import TrainerSettings
from base.label_space import LabelSpace
from base.metrics import Metric
from data_loader import data_loaders as loaders
from data_loader import mixing, samplers, splits
from data_loader.records import sources
from data_loader.transforms import TRANSFORMS
from model import loss, metric, optim
from model import lr_scheduler as schedules
from model import model as architectures
from model.loss import metric_learning
from model.optim import OptimizerSettings
from parse_config import ByName, ConfigParser, Group, Many, One, Settings, listed
from trainer import averaging
from trainer.freezing import Freezing
from utils.config.signatures import NonNegativeFloat, NonNegativeInt

PROGRAMS_LOADER_ARGUMENTS = (
    "split", "transforms", "mean", "std", "seed", "rank", "world_size", "device",
    "image_check_cache", "cache_folder", "show_progress", "sampler",
)  # fmt: skip


@dataclass(frozen=True)
class RunSettings:
    """The plain keys of a config.

    name: runs are kept under it; seed: every random draw follows from it; n_gpu: GPUs of this process, 0 for the CPU
    (several: torchrun); metrics: of the combined answer and of each attribute; wandb: track the run there; visualize:
    show the trackers the validation images that are most wrong; submit_dir: where test.py writes; info_dir: the folder
    of the evaluation's info.csv and images; label_fixes: a CSV of corrections (person, path, attribute, value) to what
    the sources say; initial_weights: a run folder or a checkpoint (--from) whose weights a new run begins with, in the
    place of those that arch names.
    """

    name: Annotated[str, Field(pattern=r"^[^\s/\\:*?\"<>|.][^/\\:*?\"<>|\x00]*$")]
    seed: NonNegativeInt = 42
    n_gpu: NonNegativeInt = 1
    metrics: Annotated[tuple[str, ...], Field(min_length=1)] = ("accuracy", "f1")
    wandb: bool = False
    visualize: bool = False
    submit_dir: str = "submit/"
    info_dir: str | None = None
    label_fixes: str | None = None
    initial_weights: str | None = None


@dataclass(frozen=True)
class HeadSettings:
    """Beside a head's loss: its weight in the sum."""

    weight: NonNegativeFloat = 1.0


@dataclass(frozen=True)
class LossSettings:
    """Beside the losses: whether their weights are "fixed", or "learned" with the model (by how uncertain each head
    is; Kendall et al. 2018), beginning with those given."""

    head_weights: Literal["fixed", "learned"] = "fixed"


@dataclass(frozen=True)
class ScheduleSettings:
    """Beside a schedule: when it advances (by default each epoch, OneCycleLR each step), and the metric it looks at.

    warmup_epochs: over so many epochs at the beginning, or a part of one, the rate rises to the schedule's."""

    interval: Literal["epoch", "step"] | None = None
    metric: str | None = None
    warmup_epochs: NonNegativeFloat = 0.0


INPUT_SIZE_ARGUMENTS = ("height", "width", "size")
"""Of transforms, what data_loader.args.input_size fills in."""

SECTIONS = Group(
    {
        "labels": Settings(LabelSpace),
        "data": Many(listed(sources)),
        "split": One(listed(splits)),
        "transforms": Group({side: Many(TRANSFORMS, filled=INPUT_SIZE_ARGUMENTS) for side in ("train", "eval")}),
        "mixing": Many(listed(mixing), ("label_space",), optional=True),
        "sampler": One(listed(samplers), ("label_space",), optional=True),
        "data_loader": One(listed(loaders), PROGRAMS_LOADER_ARGUMENTS),
        "arch": One(listed(architectures), ("num_classes",)),
        "freezing": Settings(Freezing, optional=True),
        "loss": Group(
            {
                "heads": ByName(One(listed(loss), extra=HeadSettings)),
                "metric_learning": ByName(
                    One(
                        metric_learning.LOSSES,
                        metric_learning.PROGRAMS_ARGUMENTS,
                        extra=metric_learning.MetricLearningSettings,
                    ),
                    optional=True,
                ),
            },
            LossSettings,
        ),
        "optimizer": One(listed(optim), optim.PROGRAMS_ARGUMENTS, extra=OptimizerSettings),
        "lr_scheduler": One(
            listed(schedules),
            ("optimizer", "last_epoch"),
            extra=ScheduleSettings,
            filled=schedules.RUNS_ARGUMENTS,
            optional=True,
        ),
        "weight_averaging": One(listed(averaging), optional=True),
        "views": ByName(Many(TRANSFORMS), optional=True),
        "trainer": Settings(TrainerSettings),
    },
    RunSettings,
)


def named_metrics(config: ConfigParser) -> tuple[str, ...]:
    return tuple(config.resolved.get("metrics", RunSettings.metrics))


def metric_functions(config: ConfigParser) -> dict[str, Metric]:
    """The metrics that the config names."""
    known = listed(metric)
    return {name: known[name] for name in named_metrics(config) if name in known}
