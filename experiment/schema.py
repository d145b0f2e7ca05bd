"""What a config may say: the table of its sections.

A constructor's signature is the schema of its arguments, so a new loss, model or source needs no line here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt

from base.base_trainer import TrainerSettings
from base.label_space import LabelSpace
from base.metrics import Metric
from data_loader import data_loaders as loaders
from data_loader import mixing, preparation, samplers, splits
from data_loader.records import sources
from data_loader.transforms import TRANSFORMS
from experiment.search.settings import SweepSettings
from logger.mlflow_tracker import MlflowSettings
from model import loss, metric, optim
from model import lr_scheduler as schedules
from model import model as architectures
from model.loss import metric_learning
from model.optim import OptimizerSettings
from parse_config import ConfigParser
from trainer import averaging
from trainer.freezing import Freezing
from trainer.sharpness_aware import SharpnessAware
from utils.config.former_defaults import CONFIG_FORMAT
from utils.config.sections import NamedSections, Sections, Settings, TypedList, TypedSection, exported

PROGRAMS_LOADER_ARGUMENTS = (
    "split", "transforms", "mean", "std", "seed", "rank", "world_size", "device",
    "image_check_cache", "cache_folder", "show_progress", "sampler", "preparation",
)  # fmt: skip


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
    initial_weights: a run folder or a checkpoint (--from) whose weights a new run begins with, in the place of those
        that arch names;
    config_format: written into saved configs, which hold every default.
    """

    name: Annotated[str, Field(pattern=r"^[^\s/\\:*?\"<>|.][^/\\:*?\"<>|\x00]*$")]
    seed: NonNegativeInt = 42
    n_gpu: NonNegativeInt = 1
    metrics: Annotated[tuple[str, ...], Field(min_length=1)] = ("accuracy", "f1")
    wandb: bool = False
    mlflow: bool | MlflowSettings = False
    visualize: bool = False
    submit_dir: str = "submit/"
    info_dir: str | None = None
    label_fixes: str | None = None
    initial_weights: str | None = None
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
HEAD_LOSS = TypedSection(exported(loss), extra=HeadSettings)
EMBEDDING_LOSS = TypedSection(
    metric_learning.LOSSES,
    metric_learning.PROGRAMS_ARGUMENTS,
    extra=metric_learning.MetricLearningSettings,
    parts={"miner": TypedSection(metric_learning.MINERS, metric_learning.OBJECT_ARGUMENTS, optional=True)},
)
OPTIMIZER = TypedSection(
    exported(optim),
    optim.PROGRAMS_ARGUMENTS,
    extra=OptimizerSettings,
    parts={
        "lookahead": Settings(optim.lookahead, ("optimizer",), optional=True),
        "sharpness_aware": Settings(SharpnessAware, ("modules",), optional=True),
    },
)
SCHEDULE = TypedSection(
    exported(schedules),
    ("optimizer", "last_epoch"),
    extra=ScheduleSettings,
    deferred=schedules.RUNS_ARGUMENTS,
    optional=True,
)
SECTIONS = Sections(
    {
        "labels": Settings(LabelSpace),
        "data": TypedList(TypedSection(exported(sources))),
        "split": TypedSection(exported(splits)),
        "preparation": TypedList(TypedSection(exported(preparation)), optional=True),
        "transforms": Sections({"train": TypedList(TRANSFORM), "eval": TypedList(TRANSFORM)}),
        "mixing": TypedList(TypedSection(exported(mixing), ("label_space",)), optional=True),
        "sampler": TypedSection(exported(samplers), ("label_space",), optional=True),
        "data_loader": TypedSection(exported(loaders), PROGRAMS_LOADER_ARGUMENTS),
        "arch": TypedSection(exported(architectures), ("num_classes",)),
        "freezing": Settings(Freezing, optional=True),
        "loss": Sections(
            {"heads": NamedSections(HEAD_LOSS), "metric_learning": NamedSections(EMBEDDING_LOSS, optional=True)},
            LossSettings,
        ),
        "optimizer": OPTIMIZER,
        "lr_scheduler": SCHEDULE,
        "weight_averaging": TypedSection(exported(averaging), optional=True),
        "views": NamedSections(TypedList(TRANSFORM), optional=True),
        "trainer": Settings(TrainerSettings),
        "sweep": Settings(SweepSettings, optional=True),
    },
    RunSettings,
)


def metric_functions(config: ConfigParser) -> dict[str, Metric]:
    """The metrics that the config names."""
    known = exported(metric)
    return {name: known[name] for name in config["metrics"] if name in known}
