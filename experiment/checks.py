"""The checks that go beyond one section of a config: what its sections say together.

They come before a folder is made, an image opened or a GPU touched; all problems are told, a line each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from base.base_model import BaseModel
from base.base_trainer import TrainerSettings
from base.label_space import LabelSpace
from data_loader import splits
from data_loader.data_loaders import DEFAULT_BATCH_SIZE
from data_loader.mixing import check_mixings
from data_loader.samplers import BaseSampler
from data_loader.transforms import transform_problems
from experiment.builders import build_metric_learning_loss, try_scheduler
from experiment.monitored import metric_problems
from inference.tta import views_problems
from model import lr_scheduler as schedules
from model import model as architectures
from parse_config import ConfigParser
from trainer.averaging import StochasticWeightAveraging
from utils.errors import ConfigError
from utils.run_folders import obstacle_to_writing
from utils.wording import not_one_of


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
    checks += [lambda: _transform_problems(config), lambda: _view_problems(config)]
    checks.append(lambda: _arch_problems(config, labels))
    if labels is not None:
        sampler = attempt(lambda: config.build("sampler", label_space=labels))
        if sampler is not None:
            checks.append(lambda: _sampler_problems(config, sampler))
        checks += [lambda: _mixing_problems(config, labels), lambda: _loss_problems(config, labels, attempt)]
        checks += [lambda: _embedding_problems(config, labels), lambda: metric_problems(config, labels)]
    checks += [lambda: _schedule_problems(config, attempt), lambda: _averaging_problems(config)]
    checks.append(lambda: _folder_problems(config))
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


def _view_problems(config: ConfigParser) -> list[str]:
    views = config.resolved.get("views")
    found = [] if views is None else views_problems(views)
    return [f"{config.origin(line.split(' ')[0].split('[')[0].rstrip(':'))}: {line}" for line in found]


def _sampler_problems(config: ConfigParser, sampler: BaseSampler) -> list[str]:
    arguments = config["data_loader"].get("args", {})
    try:
        sampler.check_loader(arguments.get("batch_size", DEFAULT_BATCH_SIZE), arguments.get("shuffle", True))
    except ConfigError as error:
        return [f"{config.origin(line.split(' ')[0])}: {line}" for line in str(error).splitlines()]
    return []


def _mixing_problems(config: ConfigParser, labels: LabelSpace) -> list[str]:
    try:
        check_mixings(config.build("mixing", label_space=labels))
    except ConfigError as error:
        lines = str(error).splitlines()
        return [f"{config.origin('mixing')}: {line}" if line.startswith("mixing:") else line for line in lines]
    return []


def _arch_problems(config: ConfigParser, labels: LabelSpace | None) -> list[str]:
    arch = config["arch"]
    architecture: type[BaseModel] = getattr(architectures, arch["type"])
    try:
        architecture.check_arguments(**arch.get("args", {}))
    except ValueError as error:
        name = str(error).split(" ")[0]
        place = f"arch.args.{name}"
        if name in arch.get("args", {}):
            return [f"{config.origin(place)}: {place}{str(error)[len(name) :]}"]
        return [f"{config.origin('arch.args.model_name')}: arch.args.model_name: {error}"]
    if labels is None:
        return []
    with torch.device("meta"), torch.no_grad():
        model = architectures.build_without_weights(arch, labels.num_classes).eval()
        problems = _stage_problems(config, model)
        size = config["data_loader"].get("args", {}).get("input_size")
        why = None if size is None else _refusal(model, size)
    if why:
        problems.append(config.problem("data_loader.args.input_size", f"does not suit the model: {why}"))
    return problems


def _stage_problems(config: ConfigParser, model: BaseModel) -> list[str]:
    problems = []
    freezing = config.build("freezing")
    try:
        if freezing is not None:
            freezing.check(model)
    except ConfigError as error:
        problems.append(f"{config.origin('freezing.stages')}: {error}")
    if config.extra("optimizer").layer_decay is not None and not model.stages():
        problems.append(config.problem("optimizer.layer_decay", f"needs stages, and {model.title()} has none"))
    return problems


def _refusal(model: BaseModel, input_size: int | list[int]) -> str | None:
    """What a model on the meta device says of images of that size; None if it takes them."""
    height, width = (input_size, input_size) if isinstance(input_size, int) else input_size
    try:
        model(torch.empty(2, 3, height, width))
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
        problems.append(f"{config.origin('loss.heads')}: loss.heads: every weight is 0, so no head would be trained")
    return problems


def _embedding_problems(config: ConfigParser, labels: LabelSpace) -> list[str]:
    """Of the losses on the embedding, and of an embedding that nothing would train."""
    losses = config["loss"].get("metric_learning") or {}
    size = config["arch"].get("args", {}).get("embedding_size")
    problems = []
    for name, spec in losses.items():
        place = f"loss.metric_learning.{name}"
        if name in labels.heads:
            problems.append(config.problem(place, "is named like a head; choose another name"))
        found = config.extra(place).problems(place, spec["type"], labels.heads)
        problems += [f"{config.origin(line.split(' ')[0])}: {line}" for line in found]
        if not found and size is not None:
            build_metric_learning_loss(config, name, labels.num_classes)
    if losses and size is None:
        problems.append(
            f"{config.origin('loss.metric_learning')}: loss.metric_learning compares embeddings, and the model makes "
            "none; set arch.args.embedding_size, such as 128"
        )
    if size is not None and not losses:
        problems.append(
            config.problem(
                "arch.args.embedding_size", "makes an embedding that nothing trains; add loss.metric_learning"
            )
        )
    return problems


def _schedule_problems(config: ConfigParser, attempt: Callable[[Callable[[], Any]], Any]) -> list[str]:
    """The optimizer and the schedule are built for one number, to hear what they say of their arguments."""
    optimizer = attempt(lambda: config.build("optimizer", params=[torch.nn.Parameter(torch.zeros(1))]))
    spec = config.resolved.get("lr_scheduler")
    if spec is None:
        return []
    if optimizer is not None:
        attempt(lambda: try_scheduler(config, optimizer))
    if schedules.needs_metric(spec["type"]) and spec.get("metric") is None:
        return [
            f'{config.origin("lr_scheduler")}: lr_scheduler lacks "metric", which {spec["type"]} looks at after each '
            'epoch, such as "val/loss"'
        ]
    if schedules.warms_up(spec["type"]) and spec.get("warmup_epochs"):
        return [
            config.problem(
                "lr_scheduler.warmup_epochs", f"must go: {spec['type']} has a warm-up of its own, pct_start of the run"
            )
        ]
    if 0 < config["trainer"]["epochs"] <= spec.get("warmup_epochs", 0):
        epochs = config["trainer"]["epochs"]
        return [config.problem("lr_scheduler.warmup_epochs", f"must be below trainer.epochs = {epochs}")]
    if schedules.needs_metric(spec["type"]) and spec.get("interval") == "step":
        return [config.problem("lr_scheduler.interval", f'must be "epoch": {spec["type"]} looks at an epoch\'s metric')]
    return []


def _averaging_problems(config: ConfigParser) -> list[str]:
    averaging, epochs = config.build("weight_averaging"), config["trainer"]["epochs"]
    if isinstance(averaging, StochasticWeightAveraging) and averaging.from_epoch > epochs:
        return [config.problem("weight_averaging.args.from_epoch", f"is never reached: trainer.epochs = {epochs}")]
    return []


def _folder_problems(config: ConfigParser) -> list[str]:
    obstacle = obstacle_to_writing(Path(config["trainer"].get("save_dir", TrainerSettings.save_dir)))
    return [config.problem("trainer.save_dir", f"cannot be written: {obstacle}")] if obstacle else []
