"""The checks that go beyond one section of a config: what its sections say together.

They come before a folder is made, an image opened or a GPU touched; all problems are reported, a line each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from base.base_model import BaseModel
from base.label_space import LabelSpace
from data_loader.mixing import check_mixings
from data_loader.transforms import transform_problems
from experiment.builders import build_metric_learning_loss, try_scheduler
from experiment.monitored import metric_problems
from inference.tta import tta_problems
from model import lr_scheduler as schedules
from model import model as architectures
from model import optim
from model.loss.head_loss import HeadLoss
from parse_config import ConfigParser
from trainer.averaging import StochasticWeightAveraging
from utils.config.signatures import constructor_problems, locate
from utils.errors import ConfigError, KeyPath, Problem
from utils.run_folders import obstacle_to_writing
from utils.wording import first_line, not_one_of


def check_config(config: ConfigParser, begins: bool = True) -> LabelSpace:
    """The config's label space, if its sections agree. Raises ConfigError with all problems, a line each.

    begins: the model begins with the weights that `arch` names; False: a checkpoint brings its weights"""
    problems = cross_checks(config, [], begins)
    if problems:
        raise config.error(problems)
    return config.shared("labels")


def cross_checks(config: ConfigParser, known: list[Problem], begins: bool = True) -> list[Problem]:
    """What is wrong beyond single sections.

    known: what is wrong within them: checks that read it are skipped
    begins: see `check_config`"""
    problems: list[Problem] = []
    wrong = [problem.key_path for problem in known]
    for reads, check in CHECKS if begins else [each for each in CHECKS if each[1] is not _weights]:
        if not any(_overlap(tuple(each.split(".")), key_path) for each in reads.split() for key_path in wrong):
            try:
                problems += check(config)
            except ConfigError as error:  # an object cannot be built, so what is checked of it cannot be, either
                problems += error.problems
                wrong += [problem.key_path for problem in error.problems]
    return problems


def _overlap(one: KeyPath, other: KeyPath) -> bool:
    """Whether a value is, or is inside, the other."""
    return all(a == b for a, b in zip(one, other, strict=False))


def _built(key_path: str) -> Callable[[ConfigParser], list[Problem]]:
    """A check that the section's objects can be built."""

    def check(config: ConfigParser) -> list[Problem]:
        config.build(key_path)
        return []

    return check


def _data(config: ConfigParser) -> list[Problem]:
    return [] if config.shared("data") else [config.problem("data", "is empty; name at least one source of images")]


def _split(config: ConfigParser) -> list[Problem]:
    arguments = config["split"]["args"]
    return _refusal(lambda: config.shared("split").check_config(config.shared("labels")), arguments, ("split", "args"))


def _transforms(config: ConfigParser) -> list[Problem]:
    input_size = config["data_loader"]["args"]["input_size"]
    return [problem.under(("transforms",)) for problem in transform_problems(config["transforms"], input_size)]


def _views(config: ConfigParser) -> list[Problem]:
    views = config["views"]
    return [] if views is None else [problem.under(("views",)) for problem in tta_problems(views)]


def _sampler(config: ConfigParser) -> list[Problem]:
    sampler = config.build("sampler", label_space=config.shared("labels"))
    loader = config["data_loader"]["args"]
    if sampler is None:
        return []
    return _refusal(lambda: sampler.check_loader(loader["batch_size"], loader["shuffle"]), (), ())


def _mixing(config: ConfigParser) -> list[Problem]:
    return _refusal(lambda: check_mixings(config.build("mixing", label_space=config.shared("labels"))), (), ("mixing",))


def _arch(config: ConfigParser) -> list[Problem]:
    arguments = config["arch"]["args"]
    architecture: type[BaseModel] = getattr(architectures, config["arch"]["type"])
    if not issubclass(architecture, BaseModel):
        raise config.error([config.problem("arch.type", "must be a subclass of BaseModel; see docs/extending.md")])
    if problems := _refusal(lambda: _on_meta(config), arguments, ("arch", "args")):
        raise config.error(problems)
    return []


def _on_meta(config: ConfigParser) -> BaseModel:
    """The model, without memory for its weights."""
    with torch.device("meta"):
        return architectures.build_without_weights(config["arch"], config.shared("labels").num_classes)


def _weights(config: ConfigParser) -> list[Problem]:
    if config.resolved.get("initial_weights") is not None:  # which replace those of arch
        return []
    arguments = config["arch"]["args"]
    architecture: type[BaseModel] = getattr(architectures, config["arch"]["type"])
    return _refusal(lambda: architecture.check_weights(**arguments), arguments, ("arch", "args"))


def _model(config: ConfigParser) -> list[Problem]:
    model = _on_meta(config).eval()
    with torch.device("meta"), torch.no_grad():
        return [*_stages(config, model), *_outputs(config, model)]


def _stages(config: ConfigParser, model: BaseModel) -> list[Problem]:
    problems = []
    freezing, layer_decay = config.build("freezing"), config.extra("optimizer").layer_decay
    if freezing is not None:
        problems += _refusal(lambda: freezing.check(model), config["freezing"], ("freezing",))
    if layer_decay is not None:
        problems += _refusal(lambda: optim.rate_scales(model, layer_decay), config["optimizer"], ("optimizer",))
    return problems


def _outputs(config: ConfigParser, model: BaseModel) -> list[Problem]:
    """Of the model's outputs for two images of the size that the config names, or else the model was made for."""
    size = config["data_loader"]["args"]["input_size"]
    height, width = (size, size) if isinstance(size, int) else size or model.input_hw or (64, 64)
    try:
        outputs = model(torch.empty(2, 3, height, width))
    except Exception as error:  # timm has no exceptions of its own: assertions, RuntimeErrors and more
        if size is None or "meta" in str(error):  # not every layer can be tried so
            return []
        wrong = f"does not suit the model: {first_line(error)[:200]}"
        return [config.problem("data_loader.args.input_size", wrong)]
    shapes = {head: (2, number) for head, number in model.num_classes.items()}
    found = {name: tuple(output.shape) for name, output in outputs.items()} if isinstance(outputs, dict) else {}
    if all(found.get(head) == shape for head, shape in shapes.items()):
        return []
    wrong = f"must return logits by head, of two images {shapes}, not {found}; see docs/extending.md"
    return [config.problem("arch.type", wrong)]


def _loss(config: ConfigParser) -> list[Problem]:
    labels, losses = config.shared("labels"), config.build("loss.heads")
    problems = []
    for name, head_loss in losses.items():
        key_path = ("loss", "heads", name)
        if name not in labels.heads:
            wrong = f'is a loss for no head; "{name}" {not_one_of(name, labels.heads)}'
            problems.append(Problem(key_path, wrong))
            continue
        if not isinstance(head_loss, HeadLoss):
            wrong = "must be a subclass of HeadLoss; see docs/extending.md"
            problems.append(config.problem(f"loss.heads.{name}.type", wrong))
            continue
        head, arguments = labels.heads[name], config["loss"]["heads"][name]["args"]
        check = partial(head_loss.check_num_classes, head.num_classes, head.class_names)
        problems += _refusal(check, arguments, (*key_path, "args"))
    untrained = [name for name in labels.heads if name not in losses]
    if untrained:
        wrong = f"has no loss for the head {', '.join(untrained)}; add one, or leave the head out of labels.heads"
        problems.append(Problem(("loss", "heads"), wrong))
    if not any(config.extra(f"loss.heads.{name}").weight for name in losses):
        problems.append(Problem(("loss", "heads"), "gives every head the weight 0: none would be trained"))
    return problems


def _embedding(config: ConfigParser) -> list[Problem]:
    """Of the losses on the embedding, and of an embedding that nothing would train."""
    labels, losses = config.shared("labels"), config["loss"]["metric_learning"] or {}
    size = config["arch"]["args"].get("embedding_size")
    problems = []
    for name in losses:
        key_path = ("loss", "metric_learning", name)
        if name in labels.heads:
            problems.append(Problem(key_path, "is named like a head; choose another name"))
        head = config["loss"]["metric_learning"][name]["head"]
        if head not in labels.heads:
            problems.append(Problem((*key_path, "head"), f'= "{head}" {not_one_of(head, labels.heads)}'))
        elif size is not None:
            loss = build_metric_learning_loss(config, name, labels.num_classes)
            try:
                loss(torch.randn(8, size), torch.arange(8) % 2)
            except Exception as error:  # of the library: assertions, RuntimeErrors and more
                problems.append(Problem(key_path, f"fails on a batch: {first_line(error)}"))
    if losses and size is None:
        wrong = "compares embeddings, and the model makes none; set arch.args.embedding_size, such as 128"
        problems.append(Problem(("loss", "metric_learning"), wrong))
    if size is not None and not losses:
        wrong = "makes an embedding that nothing trains; add loss.metric_learning"
        problems.append(config.problem("arch.args.embedding_size", wrong))
    return problems


def _optimizer(config: ConfigParser) -> list[Problem]:
    try:
        optim.dry_run(lambda parameters: config.build("optimizer", params=parameters))
    except ConfigError:
        raise
    except Exception as error:  # of either library: assertions, RuntimeErrors and more
        kind, arguments = getattr(optim, config["optimizer"]["type"]), config["optimizer"]["args"]
        raise config.error(constructor_problems(kind, arguments, ("optimizer", "args"), error)) from error
    return []


def _schedule(config: ConfigParser) -> list[Problem]:
    """The schedule is dry-run with an optimizer of one number, to hear what it says of its arguments."""
    optimizer = config.build("optimizer", params=[torch.nn.Parameter(torch.zeros(1))])
    spec, epochs = config["lr_scheduler"], config["trainer"]["epochs"]
    if spec is None:
        return []
    try_scheduler(config, optimizer)
    name, warmup_epochs = spec["type"], spec["warmup_epochs"]
    if schedules.needs_metric(name) and spec["metric"] is None:
        wrong = f'is missing: {name} looks at a metric after each epoch, such as "val/loss"'
        return [Problem(("lr_scheduler", "metric"), wrong)]
    if schedules.warms_up(name) and warmup_epochs:
        wrong = f"must go: {name} has a warm-up of its own, pct_start of the run"
        return [config.problem("lr_scheduler.warmup_epochs", wrong)]
    if 0 < epochs <= warmup_epochs:
        return [config.problem("lr_scheduler.warmup_epochs", f"must be below trainer.epochs = {epochs}")]
    if schedules.needs_metric(name) and spec["interval"] == "step":
        return [config.problem("lr_scheduler.interval", f'must be "epoch": {name} looks at an epoch\'s metric')]
    return []


def _averaging(config: ConfigParser) -> list[Problem]:
    averaging, epochs = config.build("weight_averaging"), config["trainer"]["epochs"]
    if isinstance(averaging, StochasticWeightAveraging) and averaging.from_epoch > epochs:
        return [config.problem("weight_averaging.args.from_epoch", f"is never reached: trainer.epochs = {epochs}")]
    return []


def _folders(config: ConfigParser) -> list[Problem]:
    obstacle = obstacle_to_writing(Path(config["trainer"]["save_dir"]))
    return [config.problem("trainer.save_dir", f"cannot be written: {obstacle}")] if obstacle else []


def _refusal(check: Callable[[], Any], arguments: Iterable[str], key_path: KeyPath) -> list[Problem]:
    """What the ValueError of a check says of the arguments at `key_path`; none if it raises none."""
    try:
        check()
    except ValueError as error:
        return locate(error, [*arguments], key_path) or [Problem(key_path, str(error))]
    return []


CHECKS: tuple[tuple[str, Callable[[ConfigParser], Iterable[Problem]]], ...] = (
    ("labels", _built("labels")),
    ("data", _data),
    ("split", _built("split")),
    ("split labels", _split),
    ("transforms data_loader", _transforms),
    ("views", _views),
    ("arch labels", _arch),
    ("arch", _weights),
    ("arch labels freezing optimizer data_loader", _model),
    ("sampler labels data_loader", _sampler),
    ("mixing labels", _mixing),
    ("loss labels", _loss),
    ("loss labels arch", _embedding),
    ("metrics labels loss.metric_learning trainer lr_scheduler split", metric_problems),
    ("optimizer", _optimizer),
    ("optimizer lr_scheduler trainer", _schedule),
    ("weight_averaging trainer", _averaging),
    ("trainer", _folders),
)
"""The key paths that each check reads, and the check."""
