"""From a checked config to the objects of a run: each function builds one of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from timm.layers import convert_sync_batchnorm

from base.base_model import BaseModel
from base.base_trainer import TrainerSettings
from base.class_weights import follow_some_rule
from base.label_space import LabelSpace
from data_loader.cache import IMAGE_CACHE_FOLDER
from data_loader.data_loaders import AttributeDataLoader
from data_loader.preparation.build import refuse_other_networks
from data_loader.preparation.preparation import Preparation
from data_loader.preparation.prepared_images import PREPARATION_FOLDER, PreparedImages
from data_loader.records import LabelTable, read_records
from data_loader.records.image_check import CHECKED_IMAGES_FILE
from data_loader.splits import Split
from data_loader.transforms import build_transforms
from experiment.initial_weights import load_initial_weights
from experiment.resume import ResumePoint
from experiment.schema import ScheduleSettings, metric_functions
from inference.predictor import Predictor
from inference.tta import PRESETS
from logger.json_lines_tracker import METRICS_FILE, TIMES_FILE, JsonLinesTracker
from logger.mlflow_tracker import MlflowSettings, MlflowTracker
from logger.tensorboard_tracker import TensorBoardTracker
from logger.tracker import Tracker, Trackers
from logger.wandb_tracker import WandbTracker
from model import lr_scheduler as schedules
from model import model as architectures
from model.loss.metric_learning import MetricLearningLoss, MetricLearningSettings, program_arguments
from model.loss.multi_head import MultiHeadLoss
from model.optim import OptimizerSettings, build_optimizer, fused_argument
from parse_config import ConfigParser
from trainer.checkpoint import BEST, Checkpoints
from trainer.compute import kept_computes
from trainer.learner import Learner
from trainer.schedule import Schedule
from trainer.trainer import Trainer
from utils import distributed
from utils.config.signatures import argument_names
from utils.random_streams import torch_seed
from utils.run_folders import CONFIG_FILE, RunFolders
from utils.signals import StopSignals

logger = logging.getLogger(__name__)

SHOWN_CLASSES = 30
"""So many of a head's classes are in the log."""


def read_label_table(config: ConfigParser, labels: LabelSpace) -> LabelTable:
    """The images of the sources and what is known of them, with the corrections of `label_fixes`, as `read_records`
    gives them."""
    fixes, save_dir = config.extra().label_fixes, Path(config["trainer"]["save_dir"])
    return read_records(config.shared("data"), labels, None if fixes is None else Path(fixes), save_dir)


def build_model(config: ConfigParser, labels: LabelSpace, resume: ResumePoint | None) -> BaseModel:
    """The model. The weights that are not read from a file follow from the seed; a resumed run brings them all."""
    torch.manual_seed(torch_seed(config.extra().seed, "weights"))
    initial_weights = config.extra().initial_weights
    if resume is None and initial_weights is None:
        return config.build("arch", num_classes=labels.num_classes)
    with config.plugins.active():
        model = architectures.build_without_weights(config["arch"], labels.num_classes)
    if resume is None:
        load_initial_weights(model, labels, Path(initial_weights), config.resolved)
    return model


def build_data_loader(
    config: ConfigParser, split: Split, model: BaseModel, device: torch.device, resume: ResumePoint | None = None
) -> AttributeDataLoader:
    """The loader of this process's part of each batch. It checks and prepares every image that was not before."""
    trainer = config["trainer"]
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
        image_check_cache=Path(trainer["save_dir"]) / CHECKED_IMAGES_FILE,
        cache_folder=Path(trainer["save_dir"]) / IMAGE_CACHE_FOLDER,
        show_progress=trainer["verbosity"] > 0 and distributed.is_main_process(),
        sampler=config.build("sampler", label_space=split.train.label_space),
        preparation=build_preparation(config, resume),
    )


def build_preparation(config: ConfigParser, resume: ResumePoint | None) -> PreparedImages | None:
    """What is done to every picture before its transforms. Raises ConfigError; CheckpointError where a run is to resume
    with another network than it began with."""
    preparation = Preparation(config.build("preparation"))
    if resume is not None:
        saved = resume.content["preprocessing"].get("preparation", [])
        refuse_other_networks(saved, preparation, resume.path)
    folder = Path(config["trainer"]["save_dir"]) / PREPARATION_FOLDER
    return PreparedImages(preparation, folder) if preparation.steps else None


def build_predictor(config: ConfigParser, labels: LabelSpace, model: BaseModel, device: torch.device) -> Predictor:
    """A model before its training, with the images as the config prepares them, without test-time augmentation."""
    args, preparation = config["data_loader"]["args"], build_preparation(config, None)
    content = {"config": config.resolved, "run_name": "", "completed_epochs": 0}
    with config.plugins.active():
        made = build_transforms(
            config["transforms"], args["input_size"], model.mean, model.std, args["bits_used_of_16"], preparation
        )
        steps = None if preparation is None else preparation.preparation
        return Predictor(model, labels, made.preprocessing, device, content, PRESETS["none"], steps)


def build_learner(
    config: ConfigParser,
    labels: LabelSpace,
    model: BaseModel,
    data_loader: AttributeDataLoader,
    device: torch.device,
    resume: ResumePoint | None,
) -> Learner:
    """The model with all that changes it: the losses, the optimizer, its schedule."""
    settings: TrainerSettings = config.extra("trainer")
    if settings.sync_batch_norm and distributed.world_size() > 1:
        if device.type == "cpu":
            wrong = "is for GPUs: torch cannot do it on a CPU; set it to false"
            raise config.error([config.problem("trainer.sync_batch_norm", wrong)])
        model = convert_sync_batchnorm(model)  # the same parameters, buffers and names
    criterion = build_criterion(config, labels, data_loader).to(device)
    extra: OptimizerSettings = config.extra("optimizer")
    fused = fused_argument(config.component("optimizer"), config["optimizer"]["args"], device)
    optimizer = build_optimizer(
        lambda groups: config.build("optimizer", params=groups, **fused), model, criterion.parameters(), extra
    )
    updates_per_epoch = -(-data_loader.steps_per_epoch // settings.accumulation_steps)
    if config["optimizer"]["lookahead"] is not None:
        optimizer = config.build("optimizer.lookahead", optimizer=optimizer)
    validation = range(distributed.rank(), data_loader.num_validation, distributed.world_size())  # of this process
    valid_batch_size = min(config["data_loader"]["args"]["valid_batch_size"] or data_loader.batch_size, len(validation))
    return Learner(
        settings,
        model=model,
        criterion=criterion,
        optimizer=optimizer,
        preprocessing=data_loader.preprocessing,
        device=device,
        seed=config.extra().seed,
        batch_sizes=(data_loader.batch_size, valid_batch_size),
        schedule=build_schedule(config, optimizer, updates_per_epoch),
        freezing=config.build("freezing"),
        sharpness_aware=config.build("optimizer.sharpness_aware", modules=[model, criterion]),
        averaging=config.build("weight_averaging"),
        callbacks=config.build("callbacks"),
        computes={} if resume is None else kept_computes(resume.content, resume.path),
    )


def build_trainer(
    config: ConfigParser,
    labels: LabelSpace,
    split: Split,
    learner: Learner,
    data_loader: AttributeDataLoader,
    folders: RunFolders,
    stop: StopSignals,
) -> Trainer:
    """The trainer of one model, which has no trackers yet."""
    return config.build(
        "trainer",
        settings=learner.settings,
        learner=learner,
        data_loader=data_loader,
        metrics=metric_functions(config),
        checkpoints=Checkpoints(folders.models),
        stop=stop,
        run={
            "run_name": folders.run,
            "config": config.resolved,
            "labels": labels.to_config(),
            "preprocessing": data_loader.preprocessing.to_config(),
            "split_digest": split.digest(),
            "validation_digest": split.validation_digest(),
        },
        mixings=config.build("mixing", label_space=labels),
        visualize=config.extra().visualize,
    )


def build_criterion(config: ConfigParser, labels: LabelSpace, data_loader: AttributeDataLoader) -> MultiHeadLoss:
    """The weighted sum of the losses. Computed class weights follow from the training side, and what the losses learn
    themselves starts from the seed."""
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
    if names and data_loader.train.sample_weights is not None:
        logger.warning("loss.metric_learning compares images, and does not use the weight of a source")
    return criterion


def build_metric_learning_loss(config: ConfigParser, name: str, num_classes: Mapping[str, int]) -> MetricLearningLoss:
    """The loss on the embedding of that name in the config. Raises ConfigError."""
    key_path = f"loss.metric_learning.{name}"
    settings: MetricLearningSettings = config.extra(key_path)
    name_in_library, size = config["loss"]["metric_learning"][name]["type"], config["arch"]["args"]["embedding_size"]
    loss = config.build(key_path, **program_arguments(name_in_library, num_classes[settings.head], size))
    return MetricLearningLoss(loss, settings.head, settings.weight, config.build(f"{key_path}.miner"))


def build_schedule(config: ConfigParser, optimizer: torch.optim.Optimizer, updates_per_epoch: int) -> Schedule | None:
    """The learning rate's schedule, if the config has one. Raises ConfigError for one that would end before the run, or
    fail in it."""
    if config["lr_scheduler"] is None:
        return None
    extra: ScheduleSettings = config.extra("lr_scheduler")
    interval = extra.interval or schedules.default_interval(config["lr_scheduler"]["type"])
    epochs = config["trainer"]["epochs"]
    total_steps = updates_per_epoch * epochs if interval == "step" else epochs
    dry_run_schedule(config, total_steps)
    scheduler = _scheduler(config, optimizer, total_steps)
    ends_after = getattr(scheduler, "total_steps", total_steps)  # of OneCycleLR
    if ends_after < total_steps:
        wrong = f"ends after {ends_after} steps, and the run takes {total_steps}; leave total_steps and epochs out"
        raise config.error([config.problem("lr_scheduler.args", wrong)])
    steps_per_epoch = updates_per_epoch if interval == "step" else 1
    planned = (lambda epochs: _scheduler(config, optimizer, epochs * steps_per_epoch)) if _is_open(config) else None
    return Schedule(scheduler, interval, extra.metric, round(extra.warmup_epochs * updates_per_epoch), planned)


def _is_open(config: ConfigParser) -> bool:
    """Whether the schedule's number of steps follows from the length of the run."""
    arguments, names = config["lr_scheduler"]["args"], argument_names(config.component("lr_scheduler"))
    if "total_steps" in names:
        return all(arguments.get(key) is None for key in ("total_steps", "epochs", "steps_per_epoch"))
    return any(name in names and arguments.get(name) is None for name in schedules.RUNS_ARGUMENTS)


def dry_run_schedule(config: ConfigParser, total_steps: int = 1000) -> None:
    """Steps the schedule with an optimizer of one number, as some refuse their arguments only in a step, such as StepLR
    a step_size of 0. Raises ConfigError."""
    optimizer = config.build("optimizer", params=[torch.nn.Parameter(torch.zeros(1))])
    try:
        schedules.dry_run(_scheduler(config, optimizer, total_steps), total_steps)
    except (ArithmeticError, ValueError) as error:
        wrong = f"cannot be used in a run of {total_steps} steps: {error}"
        raise config.error([config.problem("lr_scheduler.args", wrong)]) from error


def _scheduler(config: ConfigParser, optimizer: torch.optim.Optimizer, total_steps: int) -> Any:
    """torch's scheduler; one whose number of steps the config leaves open takes `total_steps`."""
    arguments = config["lr_scheduler"]["args"]
    given = any(arguments.get(key) is not None for key in ("total_steps", "epochs", "steps_per_epoch"))
    names = schedules.RUNS_ARGUMENTS if given else (*schedules.RUNS_ARGUMENTS, "total_steps")
    scheduler = config.build("lr_scheduler", optimizer=optimizer, **dict.fromkeys(names, total_steps))
    schedules.keep_layer_rates(scheduler)
    return scheduler


def build_trackers(config: ConfigParser, folders: RunFolders, resume: ResumePoint | None) -> Trackers:
    """JSON lines always, the others where the config has them; only in the main process."""
    if not distributed.is_main_process():
        return Trackers()
    done = resume.content["completed_epochs"] if resume else None
    trackers: list[Tracker] = [build_log(folders, resume)]
    trackers.append(JsonLinesTracker(folders.log / TIMES_FILE, done, of_times=True))
    if config["trainer"]["tensorboard"]:
        trackers.append(TensorBoardTracker(folders.log, None if done is None else done + 1))
    if config["wandb"]:
        monitor = config["trainer"]["monitor"]
        run_id = resume.content["trackers"].get("wandb", {}).get("run_id") if resume else None
        trackers.append(WandbTracker(config["name"], folders.title, folders.log, config.resolved, monitor, run_id))
    if settings := config.extra().mlflow:
        chosen: MlflowSettings = {} if settings is True else settings
        run_id = resume.content["trackers"].get("mlflow", {}).get("run_id") if resume else None
        files = [folders.models / name for name in (CONFIG_FILE, BEST, "report.html")]
        save_dir = Path(config["trainer"]["save_dir"])
        is_fold = folders.fold is not None
        given = (config["name"], folders.title, save_dir, config.resolved, files, run_id, is_fold)
        trackers.append(MlflowTracker(chosen, *given))
    return Trackers([*trackers, *config.build("trackers", folder=folders.log)])


def build_log(folders: RunFolders, resume: ResumePoint | None) -> JsonLinesTracker:
    """The run's metrics.jsonl, as the checkpoint has it."""
    done = resume.content["completed_epochs"] if resume else None
    return JsonLinesTracker(folders.log / METRICS_FILE, done, _logged(resume) if resume else None)


def log_is_damaged(folders: RunFolders, resume: ResumePoint) -> bool:
    """Whether the run's metrics.jsonl does not begin as the checkpoint has it. One that is not there was not moved with
    its run."""
    path, logged = folders.log / METRICS_FILE, _logged(resume)
    return logged is not None and path.exists() and not path.read_bytes().startswith(logged.encode())


def _logged(resume: ResumePoint) -> str | None:
    """None in checkpoints of earlier versions."""
    lines: str | None = resume.content["trackers"].get(JsonLinesTracker.name, {}).get("lines")
    return lines


def describe_run(split: Split, data_loader: AttributeDataLoader, trainer: Trainer) -> list[str]:
    """Lines for the log: the model, the images of each side, the images of an update, and the classes of each head."""
    sides = {"train": data_loader.train, "validate": data_loader.validation, "test": split.test}
    data = [f"{len(side)} images of {side.num_persons} persons to {verb}" for verb, side in sides.items() if len(side)]
    if data_loader.images_per_epoch != len(data_loader.train):
        data.append(f"{data_loader.images_per_epoch} images to an epoch")
    labels, batch = trainer.labels, data_loader.batch_size
    processes, accumulated = distributed.world_size(), trainer.settings.accumulation_steps
    lines = [
        trainer.learner.model.summary(),
        f"{', '.join(data)}; heads: {', '.join(f'{n} ({h.num_classes})' for n, h in labels.heads.items())}; global "
        f"batch {batch * processes * accumulated} ({batch} x {processes} processes x {accumulated} accumulated)",
    ]
    if len(split.validation):
        lines.append(f"split {split.digest()}, validation images {split.validation_digest()}")
    lines += _describe_heads(data_loader.train, trainer.learner.criterion)
    if not labels.has_joint_class:
        lines.append(f"{labels.num_combinations:,} combinations of attributes: val/<metric> is the attributes' mean")
    return lines


def _describe_heads(train: LabelTable, criterion: MultiHeadLoss) -> list[str]:
    """Of each head, the training images by class and the class weights in force, with a warning where given weights do
    not fit the counts: they may be another data set's."""
    lines, counts_by_head = [], train.class_counts()
    for head, (rule, weights) in criterion.class_weights().items():
        names, counts = train.label_space.heads[head].class_names, counts_by_head[head]
        classes = [f"{name} {count}" for name, count in zip(names, counts.tolist(), strict=True)][:SHOWN_CLASSES]
        in_force = "no class weights"
        if weights is not None:
            values = ", ".join(f"{weight:.4g}" for weight in weights.tolist()[:SHOWN_CLASSES])
            in_force = f"class weights {values} ({rule or 'given'})"
        lines.append(f"head {head}: {', '.join(classes)}; {in_force}")
        if weights is not None and rule is None and not follow_some_rule(weights.cpu(), counts):
            wrong = 'class_weights are far from what any rule makes of these counts; set "sqrt", "balanced" or null'
            logger.warning("loss.heads.%s.args.%s", head, wrong)
    return lines
