"""From a checked config to the objects of a run: each function builds one of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from base.base_model import BaseModel
from base.base_trainer import TrainerSettings
from base.class_weights import follow_some_rule
from base.label_space import LabelSpace
from data_loader.cache import IMAGE_CACHE_FOLDER
from data_loader.data_loaders import AttributeDataLoader
from data_loader.records import LabelTable, read_records
from data_loader.records.image_check import CHECKED_IMAGES_FILE
from data_loader.splits import Split
from experiment.initial_weights import load_initial_weights
from experiment.resume import ResumePoint
from experiment.schema import ScheduleSettings
from logger.json_lines_tracker import JsonLinesTracker
from logger.tensorboard_tracker import TensorBoardTracker
from logger.tracker import Tracker, Trackers
from logger.wandb_tracker import WandbTracker
from model import lr_scheduler as schedules
from model import model as architectures
from model import optim
from model.loss.metric_learning import MetricLearningLoss, MetricLearningSettings, program_arguments
from model.loss.multi_head import MultiHeadLoss
from model.optim import OptimizerSettings, build_optimizer, fused_argument
from parse_config import ConfigParser
from trainer.compute import kept_computes
from trainer.learner import Learner
from trainer.schedule import Schedule
from utils import distributed
from utils.random_streams import torch_seed
from utils.run_folders import RunFolders

logger = logging.getLogger(__name__)

SHOWN_CLASSES = 30
"""Of a head's classes in the log."""


def read_label_table(config: ConfigParser, labels: LabelSpace) -> LabelTable:
    """The images of the sources and what is known of them, with the corrections of `label_fixes`. None is opened."""
    fixes = config.extra().label_fixes
    return read_records(config.shared("data"), labels, None if fixes is None else Path(fixes))


def build_model(config: ConfigParser, labels: LabelSpace, resume: ResumePoint | None) -> BaseModel:
    """The model. The weights that are not read from a file follow from the seed; a resumed run brings them all."""
    torch.manual_seed(torch_seed(config.extra().seed, "weights"))
    initial_weights = config.extra().initial_weights
    if resume is None and initial_weights is None:
        return config.build("arch", num_classes=labels.num_classes)
    model = architectures.build_without_weights(config["arch"], labels.num_classes)
    if resume is None:
        load_initial_weights(model, labels, Path(initial_weights), config.resolved)
    return model


def build_data_loader(
    config: ConfigParser,
    split: Split,
    model: BaseModel,
    device: torch.device,
    settings: TrainerSettings,
) -> AttributeDataLoader:
    """The loader of this process's share; it looks at every image that it did not look at before."""
    return config.build(
        "data_loader",
        split=split,
        transforms=config["transforms"],
        mean=model.mean,
        std=model.std,
        seed=config.extra().seed,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        device=device,
        image_check_cache=Path(settings.save_dir) / CHECKED_IMAGES_FILE,
        cache_folder=Path(settings.save_dir) / IMAGE_CACHE_FOLDER,
        show_progress=settings.verbosity > 0 and distributed.is_main_process(),
        sampler=config.build("sampler", label_space=split.train.label_space),
    )


def build_learner(
    config: ConfigParser,
    labels: LabelSpace,
    settings: TrainerSettings,
    model: BaseModel,
    data_loader: AttributeDataLoader,
    device: torch.device,
    resume: ResumePoint | None,
) -> Learner:
    """The model with all that changes it."""
    seed = config.extra().seed
    criterion = build_criterion(config, labels, data_loader).to(device)
    extra: OptimizerSettings = config.extra("optimizer")
    fused = fused_argument(getattr(optim, config["optimizer"]["type"]), config["optimizer"]["args"], device)
    optimizer = build_optimizer(
        lambda groups: config.build("optimizer", params=groups, **fused), model, criterion.parameters(), extra
    )
    updates_per_epoch = -(-data_loader.steps_per_epoch // settings.accumulation_steps)
    if config["optimizer"]["lookahead"] is not None:
        optimizer = config.build("optimizer.lookahead", optimizer=optimizer)
    return Learner(
        settings,
        model=model,
        criterion=criterion,
        optimizer=optimizer,
        preprocessing=data_loader.preprocessing,
        device=device,
        seed=seed,
        batch_sizes=whole_batches(config, data_loader),
        schedule=build_schedule(config, optimizer, updates_per_epoch),
        freezing=config.build("freezing"),
        sharpness_aware=config.build("optimizer.sharpness_aware", modules=[model, criterion]),
        averaging=config.build("weight_averaging"),
        computes={} if resume is None else kept_computes(resume.content, resume.path),
    )


def whole_batches(config: ConfigParser, data_loader: AttributeDataLoader) -> tuple[int, int]:
    """Images of a whole batch of this process, in training and in validation; of a set that is smaller, all of it."""
    batch_size = config["data_loader"]["args"]["valid_batch_size"] or data_loader.batch_size
    share = range(distributed.rank(), data_loader.num_validation, distributed.world_size())
    return data_loader.batch_size, min(batch_size, len(share))


def build_criterion(config: ConfigParser, labels: LabelSpace, data_loader: AttributeDataLoader) -> MultiHeadLoss:
    """The weighted sum of the losses. What they compute of classes' sizes goes by the training side; what they learn
    themselves begins as the seed says."""
    torch.manual_seed(torch_seed(config.extra().seed, "criterion"))
    heads = config.build("loss.heads")
    names = config["loss"]["metric_learning"] or {}
    criterion = MultiHeadLoss(
        heads,
        {name: config.extra(f"loss.heads.{name}").weight for name in heads},
        {name: build_metric_learning_loss(config, name, labels.num_classes) for name in names},
        learned_weights=config.extra("loss").head_weights == "learned",
    )
    criterion.use_class_counts(data_loader.train.class_counts())
    return criterion


def build_metric_learning_loss(config: ConfigParser, name: str, num_classes: Mapping[str, int]) -> MetricLearningLoss:
    """The loss on the embedding of that name in the config. Raises ConfigError."""
    key_path = f"loss.metric_learning.{name}"
    settings: MetricLearningSettings = config.extra(key_path)
    name_in_library, size = config["loss"]["metric_learning"][name]["type"], config["arch"]["args"]["embedding_size"]
    loss = config.build(key_path, **program_arguments(name_in_library, num_classes[settings.head], size))
    return MetricLearningLoss(loss, settings.head, settings.weight, config.build(f"{key_path}.miner"))


def build_schedule(config: ConfigParser, optimizer: torch.optim.Optimizer, updates_per_epoch: int) -> Schedule | None:
    """The learning rate's schedule, if the config has one."""
    if config["lr_scheduler"] is None:
        return None
    extra: ScheduleSettings = config.extra("lr_scheduler")
    interval = extra.interval or schedules.default_interval(config["lr_scheduler"]["type"])
    epochs = config["trainer"]["epochs"]
    total_steps = updates_per_epoch * epochs if interval == "step" else epochs
    warmup_updates = round(extra.warmup_epochs * updates_per_epoch)
    return Schedule(build_scheduler(config, optimizer, total_steps), interval, extra.metric, warmup_updates)


def try_scheduler(config: ConfigParser, optimizer: torch.optim.Optimizer, total_steps: int = 1000) -> None:
    """Some schedules refuse their arguments only as they step, such as StepLR a step_size of 0."""
    try:
        schedules.dry_run(_scheduler(config, optimizer, total_steps), total_steps)
    except (ArithmeticError, ValueError) as error:
        raise config.error([config.problem("lr_scheduler.args", f"cannot be: {error}")]) from error


def build_scheduler(config: ConfigParser, optimizer: torch.optim.Optimizer, total_steps: int) -> Any:
    """torch's scheduler for a run of `total_steps`. Raises ConfigError for one that would end before the run, or fail
    in it: it is dry-run."""
    try_scheduler(config, config.build("optimizer", params=[torch.nn.Parameter(torch.zeros(1))]), total_steps)
    scheduler = _scheduler(config, optimizer, total_steps)
    ends_after = getattr(scheduler, "total_steps", total_steps)  # of OneCycleLR
    if ends_after < total_steps:
        wrong = (
            f"ends after {ends_after} steps, and the run takes {total_steps}; leave total_steps, epochs and "
            "steps_per_epoch out, and they follow from the run"
        )
        raise config.error([config.problem("lr_scheduler.args", wrong)])
    return scheduler


def _scheduler(config: ConfigParser, optimizer: torch.optim.Optimizer, total_steps: int) -> Any:
    """torch's scheduler; one whose number of steps the config leaves open takes `total_steps`."""
    arguments = config["lr_scheduler"]["args"]
    given = any(arguments.get(key) is not None for key in ("total_steps", "epochs", "steps_per_epoch"))
    steps = dict.fromkeys(
        schedules.RUNS_ARGUMENTS if given else (*schedules.RUNS_ARGUMENTS, "total_steps"), total_steps
    )
    try:
        scheduler = config.build("lr_scheduler", optimizer=optimizer, **steps)
    except ArithmeticError as error:  # OneCycleLR, where its warm-up would take one step
        name = config["lr_scheduler"]["type"]
        wrong = f"cannot be: {name} fails in a run of {total_steps} steps ({error})"
        raise config.error([config.problem("lr_scheduler.args", wrong)]) from error
    schedules.keep_layer_rates(scheduler)
    return scheduler


def build_trackers(
    config: ConfigParser, settings: TrainerSettings, folders: RunFolders, resume: ResumePoint | None
) -> Trackers:
    """JSON lines always, TensorBoard and wandb as the config says; only in the main process."""
    if not distributed.is_main_process():
        return Trackers()
    done = resume.content["completed_epochs"] if resume else None
    trackers: list[Tracker] = [JsonLinesTracker(folders.log / "metrics.jsonl", done)]
    if settings.tensorboard:
        trackers.append(TensorBoardTracker(folders.log, None if done is None else done + 1))
    if config.extra().wandb:
        earlier = resume.content["trackers"].get("wandb", {}) if resume else {}
        trackers.append(
            WandbTracker(
                config["name"], folders.title, folders.log, config.resolved, settings.monitor, earlier.get("run_id")
            )
        )
    return Trackers(trackers)


def describe_run(
    split: Split, labels: LabelSpace, data_loader: AttributeDataLoader, settings: TrainerSettings, learner: Learner
) -> list[str]:
    """Lines for the log: the model, how much there is to learn from, what one update of the weights sees, and of each
    head its classes."""
    sides = [
        f"{len(side)} images of {side.num_persons} persons to {verb}"
        for side, verb in (
            (data_loader.train, "train"),
            (data_loader.validation, "validate"),
            (split.test, "test"),
        )
        if len(side)
    ]
    batch = data_loader.batch_size
    epoch = data_loader.images_per_epoch
    if epoch != len(data_loader.train):
        sides.append(f"{epoch} images to an epoch")
    data = (
        f"{', '.join(sides)}; heads: {', '.join(f'{n} ({h.num_classes})' for n, h in labels.heads.items())}; "
        f"global batch {batch * distributed.world_size() * settings.accumulation_steps} ({batch} x "
        f"{distributed.world_size()} processes x {settings.accumulation_steps} accumulated)"
    )
    criterion = learner.criterion
    assert isinstance(criterion, MultiHeadLoss)
    digest = f"split {split.digest()}, validation images {split.validation_digest()}"
    heads = _describe_heads(data_loader.train, criterion)
    return [learner.model.summary(), data, *([digest] if len(split.validation) else []), *heads]


def _describe_heads(train: LabelTable, criterion: MultiHeadLoss) -> list[str]:
    """Of each head, the training images by class and the class weights in force. Given weights that do not fit the
    counts are warned of: they may be another data set's."""
    lines, labels, counts_by_head = [], train.label_space, train.class_counts()
    for head, (rule, weights) in criterion.class_weights().items():
        names, counts = labels.heads[head].class_names, counts_by_head[head]
        classes = [f"{name} {count}" for name, count in zip(names, counts.tolist(), strict=True)]
        in_force = "no class weights"
        if weights is not None:
            shown = ", ".join(f"{weight:.4g}" for weight in weights.tolist()[:SHOWN_CLASSES])
            in_force = f"class weights {shown} ({rule or 'given'})"
        lines.append(f"head {head}: {', '.join(classes[:SHOWN_CLASSES])}; {in_force}")
        if weights is not None and rule is None and not follow_some_rule(weights.cpu(), counts):
            logger.warning(
                "loss.heads.%s.args.class_weights are given, and far from what any rule makes of these counts; set "
                '"sqrt" or "balanced", or null for none',
                head,
            )
    if not labels.has_joint_class:
        lines.append(
            f"the attributes have {labels.num_combinations:,} combinations: each is scored by itself, and val/<metric> "
            "is their mean"
        )
    return lines
