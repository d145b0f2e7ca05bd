"""What a config may say: the table of its sections, and the checks that go beyond one section.

A constructor's signature is the schema of its arguments, so a new loss, model or source needs no line here."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from base.base_model import BaseModel
from base.base_trainer import TrainerSettings
from base.label_space import LabelSpace
from base.scores import Metric, Scores
from data_loader import loaders, sources, splits
from data_loader.transforms import TRANSFORMS, transform_problems
from model import architectures, loss, metric, optim, schedules
from parse_config import ByName, ConfigParser, Group, Many, One, Settings, listed
from utils.errors import ConfigError
from utils.run_folders import obstacle_to_writing
from utils.signatures import NonNegativeFloat, NonNegativeInt
from utils.wording import not_one_of

PROGRAMS_LOADER_ARGUMENTS = (
    "split", "label_space", "transforms", "mean", "std", "seed", "rank", "world_size", "pin_memory",
    "image_check_cache", "show_progress",
)  # fmt: skip


@dataclass(frozen=True)
class RunSettings:
    """The plain keys of a config.

    name: runs are kept under it; seed: every random draw follows from it; n_gpu: GPUs of this process, 0 for the CPU
    (several: torchrun); metrics: of the combined answer and of each attribute; wandb: track the run there; visualize:
    show the trackers the validation images that are most wrong; submit_dir: where test.py writes; info_dir: the folder
    of the evaluation's info.csv and images.
    """

    name: Annotated[str, Field(pattern=r"^[^\s/\\:*?\"<>|.][^/\\:*?\"<>|\x00]*$")]
    seed: NonNegativeInt = 42
    n_gpu: NonNegativeInt = 1
    metrics: Annotated[tuple[str, ...], Field(min_length=1)] = ("accuracy", "f1")
    wandb: bool = False
    visualize: bool = False
    submit_dir: str = "submit/"
    info_dir: str | None = None


@dataclass(frozen=True)
class HeadSettings:
    """Beside a head's loss: its weight in the sum."""

    weight: NonNegativeFloat = 1.0


@dataclass(frozen=True)
class ScheduleSettings:
    """Beside a schedule: when it advances (by default each epoch, OneCycleLR each step), and the metric it looks at."""

    interval: Literal["epoch", "step"] | None = None
    metric: str | None = None


INPUT_SIZE_ARGUMENTS = ("height", "width", "size")
"""Of transforms, what data_loader.args.input_size fills in."""

SECTIONS = Group(
    {
        "labels": Settings(LabelSpace),
        "data": Many(listed(sources)),
        "split": One(listed(splits)),
        "transforms": Group({side: Many(TRANSFORMS, filled=INPUT_SIZE_ARGUMENTS) for side in ("train", "eval")}),
        "data_loader": One(listed(loaders), PROGRAMS_LOADER_ARGUMENTS),
        "arch": One(listed(architectures), ("num_classes",)),
        "loss": Group({"heads": ByName(One(listed(loss), extra=HeadSettings))}),
        "optimizer": One(listed(optim), ("params",)),
        "lr_scheduler": One(listed(schedules), ("optimizer", "last_epoch"), extra=ScheduleSettings, optional=True),
        "trainer": Settings(TrainerSettings),
    },
    RunSettings,
)


def metric_functions(config: ConfigParser) -> dict[str, Metric]:
    """The metrics that the config names."""
    known = listed(metric)
    return {name: known[name] for name in config.extra().metrics if name in known}


def check_config(config: ConfigParser) -> LabelSpace:
    """Checks what the sections say together, before a folder is made, an image opened or a GPU touched.

    Raises ConfigError with all problems, a line each."""
    problems = problems_between_sections(config, some_are_wrong=False)
    if problems:
        raise ConfigError("\n".join(problems))
    return config.build("labels")


def problems_between_sections(config: ConfigParser, some_are_wrong: bool = True) -> list[str]:
    """What is wrong beyond single sections, a line each.

    some_are_wrong: sections that are wrong in themselves, and told already, may break a check: it is passed over."""
    problems: list[str] = []

    def attempt(make: Callable[[], Any]) -> Any:
        try:
            return make()
        except ConfigError as error:
            problems.extend(str(error).splitlines())
        except Exception:
            if not some_are_wrong:
                raise
        return None

    labels: LabelSpace | None = attempt(lambda: config.build("labels"))
    attempt(lambda: config.build("data"))
    split = attempt(lambda: config.build("split"))
    checks: list[Callable[[], list[str]]] = [lambda: _data_problems(config)]
    if labels is not None and split is not None:
        checks.append(lambda: _split_problems(config, labels, split))
    checks += [lambda: _transform_problems(config), lambda: _arch_problems(config, labels)]
    if labels is not None:
        checks += [lambda: _loss_problems(config, labels, attempt), lambda: _metric_problems(config, labels)]
    checks += [lambda: _schedule_problems(config, attempt), lambda: _folder_problems(config)]
    for check in checks:
        problems += attempt(check) or []
    return problems


def _data_problems(config: ConfigParser) -> list[str]:
    return [] if config["data"] else [config.problem("data", "is empty; name at least one source of images")]


def _split_problems(config: ConfigParser, labels: LabelSpace, split: splits.BaseSplit) -> list[str]:
    try:
        split.check_config(labels)
    except ConfigError as error:
        return [f"{config.origin(line.split(' ')[0].rstrip(':'))}: {line}" for line in str(error).splitlines()]
    return []


def _transform_problems(config: ConfigParser) -> list[str]:
    input_size = config["data_loader"].get("args", {}).get("input_size")
    found = transform_problems(config["transforms"], input_size)
    return [f"{config.origin(line.split(' ')[0].split('[')[0])}: {line}" for line in found]


def _arch_problems(config: ConfigParser, labels: LabelSpace | None) -> list[str]:
    arch = config["arch"]
    architecture: type[BaseModel] = getattr(architectures, arch["type"])
    try:
        architecture.check_arguments(**arch.get("args", {}))
    except ValueError as error:
        return [f"{config.origin('arch.args.model_name')}: arch.args.model_name: {error}"]
    size = config["data_loader"].get("args", {}).get("input_size")
    if size is None or labels is None:
        return []
    why = _refusal(partial(architectures.build_without_weights, arch, labels.num_classes), size)
    return [config.problem("data_loader.args.input_size", f"does not suit the model: {why}")] if why else []


def _refusal(make_model: Callable[[], BaseModel], input_size: int | list[int]) -> str | None:
    """What a model says of images of that size, tried without memory for weights or images; None if it takes them."""
    height, width = (input_size, input_size) if isinstance(input_size, int) else input_size
    try:
        with torch.device("meta"), torch.no_grad():
            make_model().eval()(torch.empty(2, 3, height, width))
    except Exception as error:  # timm has no exceptions of its own: assertions, RuntimeErrors and more
        text = " ".join(str(error).split())
        return None if "meta" in text else text[:200] or type(error).__name__  # not every layer can be tried so
    return None


def _loss_problems(config: ConfigParser, labels: LabelSpace, attempt: Callable[[Callable[[], Any]], Any]) -> list[str]:
    heads = config["loss"]["heads"]
    problems = []
    for name in heads:
        if name not in labels.heads:
            problems.append(
                f"{config.origin(f'loss.heads.{name}')}: loss.heads.{name} is a loss for no head; "
                f'"{name}" {not_one_of(name, labels.heads)}'
            )
            continue
        head_loss = attempt(partial(config.build, f"loss.heads.{name}"))
        try:
            if head_loss is not None:
                head_loss.check_num_classes(labels.heads[name].num_classes, labels.heads[name].class_names)
        except ValueError as error:
            problems.append(
                config.problem(f"loss.heads.{name}.args.class_weights", str(error).removeprefix("class_weights "))
            )
    untrained = [name for name in labels.heads if name not in heads]
    if untrained:
        problems.append(
            f"{config.origin('loss.heads')}: loss.heads has no loss for the head {', '.join(untrained)}; "
            "add one, or leave the head out of labels.heads"
        )
    weights = [config.extra(f"loss.heads.{name}").weight for name in heads]
    if not any(weights):
        problems.append(f"{config.origin('loss.heads')}: loss.heads: every weight is 0, so nothing would be trained")
    return problems


def metric_names(config: ConfigParser, labels: LabelSpace) -> list[str]:
    """Every number that an epoch gives, known before training."""
    losses = ["loss", *(f"loss_{head}" for head in labels.heads)]
    scores = Scores.names(labels, metric_functions(config))
    return [*(f"{side}/{name}" for side in ("val", "train") for name in (*losses, *scores)), "lr"]


def watched_metrics(config: ConfigParser) -> dict[str, str]:
    """By place in the config, each metric that something looks at: the monitor, the further bests, the schedule."""
    trainer = config["trainer"]
    texts = {"trainer.monitor": trainer.get("monitor", TrainerSettings.monitor)}
    texts |= {f"trainer.save_best.{number}": text for number, text in enumerate(trainer.get("save_best", []))}
    off = ("trainer.monitor", "off")
    watched = {place: text.partition(" ")[2] for place, text in texts.items() if (place, text) != off}
    looked_at = (config.resolved.get("lr_scheduler") or {}).get("metric")
    return watched if looked_at is None else watched | {"lr_scheduler.metric": looked_at}


def _metric_problems(config: ConfigParser, labels: LabelSpace) -> list[str]:
    unknown = [name for name in config.extra().metrics if name not in listed(metric)]
    problems = [
        config.problem("metrics", f"names {name!r}, which {not_one_of(name, listed(metric))}") for name in unknown
    ]
    known = metric_names(config, labels)
    if config["split"]["type"] == "NoSplit":
        known = [name for name in known if not name.startswith("val/")]
    trainer = config["trainer"]
    for place, name in watched_metrics(config).items():
        if place == "lr_scheduler.metric":
            if name not in known:
                problems.append(config.problem(place, not_one_of(name, known)))
            continue
        texts = {"trainer.monitor": trainer.get("monitor", TrainerSettings.monitor)}
        mode = texts.get(place, "").split(" ")[0] or trainer["save_best"][int(place.split(".")[-1])].split(" ")[0]
        if mode not in ("min", "max") or not name:
            problems.append(config.problem(place, 'must be "min <metric>" or "max <metric>" ("off" watches nothing)'))
        elif name not in known:
            problems.append(config.problem(place, f"watches {name!r}, which {not_one_of(name, known)}"))
    return problems


def _schedule_problems(config: ConfigParser, attempt: Callable[[Callable[[], Any]], Any]) -> list[str]:
    """The optimizer and the schedule are built for one number, to hear what they say of their arguments."""
    optimizer = attempt(lambda: config.build("optimizer", params=[torch.nn.Parameter(torch.zeros(1))]))
    spec = config.resolved.get("lr_scheduler")
    if spec is None:
        return []
    if optimizer is not None:
        attempt(lambda: _try_scheduler(config, optimizer))
    if schedules.needs_metric(spec["type"]) and spec.get("metric") is None:
        return [
            f'{config.origin("lr_scheduler")}: lr_scheduler lacks "metric", which {spec["type"]} looks at after each '
            'epoch, such as "val/loss"'
        ]
    if schedules.needs_metric(spec["type"]) and spec.get("interval") == "step":
        return [config.problem("lr_scheduler.interval", f'must be "epoch": {spec["type"]} looks at an epoch\'s metric')]
    return []


def _try_scheduler(config: ConfigParser, optimizer: torch.optim.Optimizer) -> None:
    """Some schedules refuse their arguments only when they step, such as StepLR a step_size of 0."""
    scheduler = _scheduler(config, optimizer, total_steps=1000)
    if schedules.needs_metric(config["lr_scheduler"]["type"]):
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the optimizer has not stepped: it would ask the GPU, if there is one
            scheduler.step()
    except (ArithmeticError, ValueError, TypeError) as error:
        name = config["lr_scheduler"]["type"]
        raise ConfigError(
            config.problem("lr_scheduler.args", f"cannot be: {name} fails at its first step ({error})")
        ) from error


def build_scheduler(config: ConfigParser, optimizer: torch.optim.Optimizer, total_steps: int) -> Any:
    """torch's scheduler for a run of `total_steps`. Raises ConfigError for one that would end before the run."""
    scheduler = _scheduler(config, optimizer, total_steps)
    ends_after = getattr(scheduler, "total_steps", total_steps)  # of OneCycleLR
    if ends_after < total_steps:
        raise ConfigError(
            config.problem(
                "lr_scheduler.args",
                f"ends after {ends_after} steps, and the run takes {total_steps}; leave total_steps, epochs and "
                "steps_per_epoch out, and they follow from the run",
            )
        )
    return scheduler


def _scheduler(config: ConfigParser, optimizer: torch.optim.Optimizer, total_steps: int) -> Any:
    """torch's scheduler; one that must know how many times it steps, and is not told, is told `total_steps`."""
    arguments = config["lr_scheduler"].get("args", {})
    told = any(key in arguments for key in ("total_steps", "epochs", "steps_per_epoch"))
    steps = {} if told else {"total_steps": total_steps}
    return config.build("lr_scheduler", optimizer=optimizer, **steps)


def _folder_problems(config: ConfigParser) -> list[str]:
    obstacle = obstacle_to_writing(Path(config["trainer"].get("save_dir", TrainerSettings.save_dir)))
    return [config.problem("trainer.save_dir", f"cannot be written: {obstacle}")] if obstacle else []
