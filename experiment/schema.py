"""What a config may say: the table of its sections.

A constructor's signature is the schema of its arguments, so a new loss, model or source needs no line here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, NonNegativeFloat, NonNegativeInt
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from base.base_callback import BaseCallback
from base.base_data_loader import BaseDataLoader
from base.base_trainer import TrainerSettings
from base.label_space import LabelSpace
from data_loader import data_loaders as loaders
from data_loader import mixing, preparation, samplers, splits
from data_loader.mixing import BaseMixing
from data_loader.records import sources
from data_loader.records.sources import BaseSource
from data_loader.samplers import BaseSampler
from data_loader.splits import BaseSplit
from data_loader.transforms import TRANSFORMS
from experiment.search.settings import SweepSettings
from logger.mlflow_tracker import MlflowSettings
from logger.tracker import Tracker
from model import loss, metric, optim
from model import lr_scheduler as schedules
from model import model as architectures
from model.loss import metric_learning
from model.loss.function_loss import as_head_loss
from model.metric import as_metric
from model.optim import OptimizerSettings
from parse_config import ConfigParser
from trainer import averaging, callbacks
from trainer.averaging import WeightAveraging
from trainer.freezing import Freezing
from trainer.sharpness_aware import SharpnessAware
from trainer.trainer import Trainer
from utils.config.former_defaults import CONFIG_FORMAT
from utils.config.plugins import KeptPlugIn, Names, subclasses
from utils.config.sections import NamedSections, Sections, Settings, TypedList, TypedSection, exported
from utils.config.signatures import argument_names

PROGRAMS_LOADER_ARGUMENTS = (
    "split", "transforms", "mean", "std", "seed", "rank", "world_size", "device",
    "image_check_cache", "cache_folder", "show_progress", "sampler", "preparation",
)  # fmt: skip


LONGEST_CONFIG_NAME = 120
"""Bytes; with the run's name and an ending it must be the name of a submission."""


_NAME_OF_A_FOLDER = r"^[^\s/\\:*?\"<>|.\x00-\x1f\x7f][^/\\:*?\"<>|\x00-\x1f\x7f]*$"


def _short_enough(name: str) -> str:
    if (length := len(name.encode(errors="replace"))) > LONGEST_CONFIG_NAME:
        raise ValueError(f"has {length} bytes, and may have {LONGEST_CONFIG_NAME}")
    return name


@dataclass(frozen=True)
class RunSettings:
    """The plain keys of a config.

    name: runs are kept under it;
    seed: every random draw follows from it;
    n_gpu: GPUs of this process, 0 for the CPU (several: torchrun);
    metrics: of the joint class and of each attribute;
    wandb: track the run there;
    mlflow: track the run there: true, or where and as what: {"tracking_uri": ..., "experiment": ..., "user": ...};
    visualize: show the trackers the validation images that are most wrong;
    submit_dir: where test.py writes;
    info_dir: the folder of the evaluation's info.csv and images;
    label_fixes: a CSV of corrections (person, path, attribute, value) to what the sources say;
    duplicates: photographs of different persons that are one picture: "warn" of them before training, "refuse" to train
        where they are on two sides of the split, or "ignore" them;
    initial_weights: a run folder or a checkpoint (--from) whose weights a new run begins with, in the place of those
        that arch names;
    plugins: Python files that define losses, models and more of one's own (docs/extending.md), looked for where the
        path leads, then beside the file that names them;
    config_format: written into saved configs, which hold every default.
    """

    name: Annotated[str, Field(pattern=_NAME_OF_A_FOLDER), AfterValidator(_short_enough)]
    seed: NonNegativeInt = 42
    n_gpu: NonNegativeInt = 1
    metrics: Annotated[tuple[str, ...], Field(min_length=1)] = ("accuracy", "f1")
    wandb: bool = False
    mlflow: bool | MlflowSettings = False
    visualize: bool = False
    submit_dir: str = "submit/"
    info_dir: str | None = None
    label_fixes: str | None = None
    duplicates: Literal["warn", "refuse", "ignore"] = "warn"
    initial_weights: str | None = None
    plugins: tuple[str | KeptPlugIn, ...] = ()
    config_format: Annotated[int, Field(ge=CONFIG_FORMAT, le=CONFIG_FORMAT)] = CONFIG_FORMAT


@dataclass(frozen=True)
class HeadSettings:
    """Beside a head's loss.

    weight: in the sum of the losses.
    """

    weight: NonNegativeFloat = 1.0


@dataclass(frozen=True)
class LossSettings:
    """Beside the losses.

    head_weights: "fixed", or "learned" with the model (by how uncertain each head is; Kendall et al. 2018), beginning
    with those given.
    """

    head_weights: Literal["fixed", "learned"] = "fixed"


@dataclass(frozen=True)
class ScheduleSettings:
    """Beside a schedule.

    interval: when it advances; null: each epoch, OneCycleLR each step;
    metric: that ReduceLROnPlateau looks at, such as "val/loss";
    warmup_epochs: over so many epochs at the beginning, or a part of one, the rate rises to the schedule's.
    """

    interval: Literal["epoch", "step"] | None = None
    metric: str | None = None
    warmup_epochs: NonNegativeFloat = 0.0


TRANSFORM = TypedSection(
    TRANSFORMS,
    deferred=("height", "width", "size"),  # data_loader.args.input_size
    nested="transforms",
    defaults={"Normalize": {"mean": None, "std": None}},  # the backbone's own
)
HEAD_LOSSES = Names(exported(loss), "a subclass of HeadLoss, or a function of (output, target)", as_head_loss)
METRICS = Names(exported(metric), "a function of (confusion) or of (output, target)", as_metric)
HEAD_LOSS = TypedSection(HEAD_LOSSES, extra=HeadSettings)
EMBEDDING_LOSS = TypedSection(
    metric_learning.LOSSES,
    metric_learning.PROGRAMS_ARGUMENTS,
    extra=metric_learning.MetricLearningSettings,
    parts={"miner": TypedSection(metric_learning.MINERS, metric_learning.OBJECT_ARGUMENTS, optional=True)},
)
OPTIMIZER = TypedSection(
    exported(optim, Optimizer),
    optim.PROGRAMS_ARGUMENTS,
    extra=OptimizerSettings,
    parts={
        "lookahead": Settings(optim.lookahead, ("optimizer",), optional=True),
        "sharpness_aware": Settings(SharpnessAware, ("modules",), optional=True),
    },
)
SCHEDULE = TypedSection(
    exported(schedules, LRScheduler),
    ("optimizer", "last_epoch"),
    extra=ScheduleSettings,
    deferred=schedules.RUNS_ARGUMENTS,
    optional=True,
)
TRAINER = TypedSection(
    Names({"Trainer": Trainer}, "a subclass of Trainer", subclasses(Trainer)),
    tuple(argument_names(Trainer)),
    extra=TrainerSettings,
    default="Trainer",
)
TRACKER = TypedSection(Names({}, "a subclass of Tracker", subclasses(Tracker)), ("folder",))
SECTIONS = Sections(
    {
        "labels": Settings(LabelSpace),
        "data": TypedList(TypedSection(exported(sources, BaseSource))),
        "split": TypedSection(exported(splits, BaseSplit)),
        "preparation": TypedList(TypedSection(exported(preparation)), optional=True),
        "transforms": Sections({"train": TypedList(TRANSFORM), "eval": TypedList(TRANSFORM)}),
        "mixing": TypedList(TypedSection(exported(mixing, BaseMixing), ("label_space",)), optional=True),
        "sampler": TypedSection(exported(samplers, BaseSampler), ("label_space",), optional=True),
        "data_loader": TypedSection(exported(loaders, BaseDataLoader), PROGRAMS_LOADER_ARGUMENTS),
        "arch": TypedSection(architectures.ARCHITECTURES, ("num_classes",)),
        "freezing": Settings(Freezing, optional=True),
        "loss": Sections(
            {"heads": NamedSections(HEAD_LOSS), "metric_learning": NamedSections(EMBEDDING_LOSS, optional=True)},
            LossSettings,
        ),
        "optimizer": OPTIMIZER,
        "lr_scheduler": SCHEDULE,
        "weight_averaging": TypedSection(exported(averaging, WeightAveraging), optional=True),
        "views": NamedSections(TypedList(TRANSFORM), optional=True),
        "trainer": TRAINER,
        "trackers": TypedList(TRACKER, optional=True),
        "callbacks": TypedList(TypedSection(exported(callbacks, BaseCallback)), optional=True),
        "sweep": Settings(SweepSettings, optional=True),
    },
    RunSettings,
)


def metric_functions(config: ConfigParser) -> dict[str, Any]:
    """The metrics that the config names."""
    with config.plugins.active():
        return {name: METRICS[name] for name in config["metrics"] if name in METRICS}
