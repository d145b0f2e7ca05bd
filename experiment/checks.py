"""The checks that involve several sections of a config.

They come before a folder is made, an image opened or a GPU touched; all problems are reported, a line each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from base.base_model import BaseModel
from base.label_space import LabelSpace
from data_loader.data_loaders import AUTO
from data_loader.mixing import check_mixings
from data_loader.progressive_sizes import ProgressiveSizes
from data_loader.transforms import size_hw, transform_problems
from experiment.builders import build_metric_learning_loss, dry_run_schedule
from experiment.monitored import metric_problems
from inference.tta import tta_problems
from model import lr_scheduler as schedules
from model import model as architectures
from model import optim
from model.loss.function_loss import FunctionLoss
from model.loss.head_loss import HeadLoss
from parse_config import ConfigParser
from trainer.averaging import StochasticWeightAveraging
from utils.config.plugins import described_failure, place_in_plugin, plugins_of
from utils.config.signatures import constructor_problems, locate
from utils.config.template_keys import GUIDE, TRAINER_METHODS
from utils.errors import ConfigError, KeyPath, Problem
from utils.run_folders import obstacle_to_writing, refuse_missing
from utils.wording import first_line, format_value, not_one_of


def check_config(config: ConfigParser, begins: bool = True) -> LabelSpace:
    """The config's label space, if its sections agree. Raises ConfigError with all problems, a line each.

    begins: a model begins with its initial weights, which are checked; False: checkpoints hold all weights"""
    problems = cross_checks(config, [], begins)
    if problems:
        raise config.error(problems)
    if begins and config.resolved.get("initial_weights") is not None:
        refuse_missing(Path(config["initial_weights"]))
    return config.shared("labels")


def cross_checks(config: ConfigParser, known: list[Problem], begins: bool = True) -> list[Problem]:
    """What is wrong between the sections.

    known: what is wrong within them: checks that read it are skipped
    begins: see `check_config`"""
    with config.plugins.active():
        return _cross_checks(config, known, begins)


def _cross_checks(config: ConfigParser, known: list[Problem], begins: bool) -> list[Problem]:
    problems: list[Problem] = []
    wrong = [problem.key_path for problem in known]
    for reads, check in CHECKS:
        if check is _weights and not begins:
            continue
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


def _can_be_built(key_path: str) -> Callable[[ConfigParser], list[Problem]]:
    def check(config: ConfigParser) -> list[Problem]:
        config.build(key_path)
        return []

    return check


def _data(config: ConfigParser) -> Iterator[Problem]:
    if not config.shared("data"):
        yield config.problem("data", "is empty; name at least one source of images")


def _split(config: ConfigParser) -> Iterator[Problem]:
    split, labels = config.shared("split"), config.shared("labels")
    yield from _refusal(lambda: split.check_config(labels), ("split", "args"), config["split"]["args"])


def _transforms(config: ConfigParser) -> Iterator[Problem]:
    input_size = config["data_loader"]["args"]["input_size"]
    yield from (problem.under(("transforms",)) for problem in transform_problems(config["transforms"], input_size))


def _progressive_sizes(config: ConfigParser) -> list[Problem]:
    key_path = "data_loader.args.progressive_sizes"
    loader, epochs = config["data_loader"]["args"], config["trainer"]["epochs"]
    phases = loader.get("progressive_sizes")
    if phases is None:
        return []
    if loader["input_size"] is None:
        wrong = "needs the size that they grow to: set data_loader.args.input_size"
        raise config.error([config.problem(key_path, wrong)])
    try:
        last = ProgressiveSizes(phases, size_hw(loader["input_size"])).last_phase
    except ValueError as error:
        raise config.error(locate(error, ["progressive_sizes"], ("data_loader", "args"))) from error
    problems = []
    if last > epochs:
        problems.append(config.problem(key_path, f"ends with epoch {last}, and trainer.epochs = {epochs}"))
    if config["trainer"]["max_hours"] is not None:
        wrong = "goes without trainer.max_hours, which plans by epochs that take equally long"
        problems.append(config.problem(key_path, wrong))
    return problems


def _tta(config: ConfigParser) -> Iterator[Problem]:
    if config["views"] is not None:
        yield from (problem.under(("views",)) for problem in tta_problems(config["views"]))


def _sampler(config: ConfigParser) -> Iterator[Problem]:
    sampler, loader = config.build("sampler", label_space=config.shared("labels")), config["data_loader"]["args"]
    if sampler is not None and not loader["shuffle"]:
        yield config.problem("data_loader.args.shuffle", "goes without a sampler, which has its own order")
    if sampler is not None and loader["batch_size"] != AUTO and loader["batch_size"] % sampler.group_size:
        wrong = f"must divide data_loader.args.batch_size = {loader['batch_size']}"
        yield config.problem("sampler.args.images_per_class", wrong)


def _mixing(config: ConfigParser) -> Iterator[Problem]:
    mixings = config.build("mixing", label_space=config.shared("labels"))
    yield from _refusal(lambda: check_mixings(mixings), ("mixing",))


def _arch(config: ConfigParser) -> list[Problem]:
    arguments = config["arch"]["args"]
    architecture: Any = config.component("arch")
    if not (isinstance(architecture, type) and issubclass(architecture, BaseModel)):
        raise config.error([config.problem("arch.type", "must be a subclass of BaseModel; see docs/extending.md")])
    problems = list(_refusal(lambda: _can_be_made(config), ("arch", "args"), arguments))
    if problems:
        raise config.error(problems)
    return []


def _can_be_made(config: ConfigParser) -> None:
    """Raises ValueError where the model cannot be built, or its weights alone are more than the machine's memory."""
    try:
        model = _on_meta(config)
    except (RuntimeError, TypeError, OverflowError, MemoryError) as error:  # torch's, of sizes that cannot be
        if place_in_plugin(error) is not None:
            raise
        raise ValueError(f"cannot be built: {first_line(error)[:200]}; make the model smaller") from error
    needed = sum(each.numel() * each.element_size() for each in model.state_dict().values())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        sizes = f"{needed / 2**30:,.0f} GiB, and this machine has {memory / 2**30:,.0f} GiB"
        raise ValueError(f"its weights need {sizes}; make the model smaller")


def _on_meta(config: ConfigParser) -> BaseModel:
    """The model, without memory for its weights."""
    with torch.device("meta"):
        return architectures.build_without_weights(config["arch"], config.shared("labels").num_classes)


def _weights(config: ConfigParser) -> Iterator[Problem]:
    arguments = config["arch"]["args"]
    architecture: Any = config.component("arch")
    if config.resolved.get("initial_weights") is None:  # which replace those of arch
        yield from _refusal(lambda: architecture.check_weights(**arguments), ("arch", "args"), arguments)


def _model(config: ConfigParser) -> Iterator[Problem]:
    """Of the model as it would be built, on the meta device: its stages and its outputs for two images."""
    freezing, layer_decay = config.build("freezing"), config.extra("optimizer").layer_decay
    size = config["data_loader"]["args"]["input_size"]
    model = _on_meta(config).eval()
    with torch.device("meta"), torch.no_grad():
        if freezing is not None:
            yield from _refusal(lambda: freezing.check(model), ("freezing",), config["freezing"])
        if layer_decay is not None:
            yield from _refusal(lambda: optim.rate_scales(model, layer_decay), ("optimizer",), config["optimizer"])
        image_hw = model.input_hw or (64, 64) if size is None else size_hw(size)
        phases = config["data_loader"]["args"].get("progressive_sizes")
        smaller: list[tuple[int, int]] = []
        with suppress(ValueError):  # of what is wrong in them `_progressive_sizes` tells
            smaller = [] if phases is None else [*ProgressiveSizes(phases, image_hw).sizes[:-1]]
        for height, width in [*smaller, image_hw]:
            try:
                outputs = model(torch.empty(2, 3, height, width))
            except Exception as error:  # timm has no exceptions of its own: assertions, RuntimeErrors and more
                if "meta" in str(error):  # not every layer can run there
                    return
                reason = first_line(error)[:200]
                if place := place_in_plugin(error):
                    wrong = f"fails on two images of {height} x {width} pixels, at {place}: {reason}"
                    yield config.problem("arch.type", wrong)
                elif (height, width) in smaller:
                    wrong = f"does not suit the model at {height} x {width} pixels: {reason}"
                    if not config["arch"]["args"].get("dynamic_img_size"):
                        wrong += "; a ViT of timm takes other sizes with arch.args.dynamic_img_size = true"
                    yield config.problem("data_loader.args.progressive_sizes", wrong)
                elif size is not None:
                    yield config.problem("data_loader.args.input_size", f"does not suit the model: {reason}")
                return
    shapes = {head: (2, number) for head, number in model.num_classes.items()}
    found = {name: tuple(output.shape) for name, output in outputs.items()} if isinstance(outputs, dict) else {}
    if any(found.get(head) != shape for head, shape in shapes.items()):
        wrong = f"must return logits by head, of two images {shapes}, not {found}; see docs/extending.md"
        yield config.problem("arch.type", wrong)


def _loss(config: ConfigParser) -> Iterator[Problem]:
    labels, losses = config.shared("labels"), config.build("loss.heads")
    for name, loss in losses.items():
        key_path = ("loss", "heads", name)
        if name not in labels.heads:
            yield Problem(key_path, f'is a loss for no head; "{name}" {not_one_of(name, labels.heads)}')
        elif not isinstance(loss, HeadLoss):
            wrong = "must be a subclass of HeadLoss; see docs/extending.md"
            yield config.problem(f"loss.heads.{name}.type", wrong)
        else:
            head, arguments = labels.heads[name], config["loss"]["heads"][name]["args"]
            check = partial(loss.check_num_classes, head.num_classes, head.class_names)
            if isinstance(loss, FunctionLoss):  # what is wrong is the function, not an argument
                name_of_type = f"= {format_value(config['loss']['heads'][name]['type'])}"
                problems = _refusal(check, (*key_path, "type"))
                yield from (replace(problem, text=f"{name_of_type} {problem.text}") for problem in problems)
            else:
                yield from _refusal(check, (*key_path, "args"), arguments)
    untrained = [name for name in labels.heads if name not in losses]
    if untrained:
        wrong = f"has no loss for the head {', '.join(untrained)}; add one, or leave the head out of labels.heads"
        yield Problem(("loss", "heads"), wrong)
    if not any(config.extra(f"loss.heads.{name}").weight for name in losses):
        yield Problem(("loss", "heads"), "gives every head the weight 0: none would be trained")


def _loss_of_logits(config: ConfigParser) -> Iterator[Problem]:
    """Of plug-ins' functions for our models, which return logits; a plug-in's may return log-probabilities."""
    if plugins_of(config.component("arch")):
        return
    for name, loss in config.build("loss.heads").items():
        classes = config.shared("labels").num_classes.get(name)
        if isinstance(loss, FunctionLoss) and classes and loss.falls_without_bound(classes):
            wrong = f"falls without bound on logits, which {config['arch']['type']} returns"
            remedy = f"use cross_entropy in the place of nll_loss, or log_softmax before it ({GUIDE})"
            yield config.problem(f"loss.heads.{name}.type", f"{wrong}; {remedy}")


def _embedding(config: ConfigParser) -> Iterator[Problem]:
    """Of the losses on the embedding, which are tried on a batch, and of an embedding that nothing would train."""
    labels, losses = config.shared("labels"), config["loss"]["metric_learning"] or {}
    size = config["arch"]["args"].get("embedding_size")
    for name, loss in losses.items():
        key_path, head = ("loss", "metric_learning", name), loss["head"]
        if name in labels.heads:
            yield Problem(key_path, "is named like a head; choose another name")
        if head not in labels.heads:
            yield Problem((*key_path, "head"), f'= "{head}" {not_one_of(head, labels.heads)}')
        elif size is not None:
            criterion = build_metric_learning_loss(config, name, labels.num_classes)
            try:
                criterion(torch.randn(8, size), torch.arange(8) % 2)
            except Exception as error:  # of the library: assertions, RuntimeErrors and more
                yield Problem(key_path, f"fails on a batch: {first_line(error)}")
    if losses and size is None:
        wrong = "compares embeddings, and the model makes none; set arch.args.embedding_size, such as 128"
        yield Problem(("loss", "metric_learning"), wrong)
    if size is not None and not losses:
        wrong = "makes an embedding that nothing trains; add loss.metric_learning"
        yield config.problem("arch.args.embedding_size", wrong)


def _optimizer(config: ConfigParser) -> list[Problem]:
    try:
        optim.dry_run(lambda parameters: config.build("optimizer", params=parameters))
    except ConfigError:
        raise
    except Exception as error:  # of either library: assertions, RuntimeErrors and more
        kind, arguments = config.component("optimizer"), config["optimizer"]["args"]
        raise config.error(constructor_problems(kind, arguments, ("optimizer", "args"), error)) from error
    return []


def _schedule(config: ConfigParser) -> Iterator[Problem]:
    schedule, epochs = config["lr_scheduler"], config["trainer"]["epochs"]
    if schedule is None:
        return
    dry_run_schedule(config)
    name, warmup_epochs = schedule["type"], schedule["warmup_epochs"]
    if schedules.needs_metric(name) and schedule["metric"] is None:
        wrong = f'is missing: {name} looks at a metric after each epoch, such as "val/loss"'
        yield Problem(("lr_scheduler", "metric"), wrong)
    elif schedules.warms_up(name) and warmup_epochs:
        wrong = f"must go: {name} has a warm-up of its own, pct_start of the run"
        yield config.problem("lr_scheduler.warmup_epochs", wrong)
    elif 0 < epochs <= warmup_epochs:
        yield config.problem("lr_scheduler.warmup_epochs", f"must be below trainer.epochs = {epochs}")
    elif schedules.needs_metric(name) and schedule["interval"] == "step":
        yield config.problem("lr_scheduler.interval", f'must be "epoch": {name} looks at an epoch\'s metric')


def _trainer(config: ConfigParser) -> Iterator[Problem]:
    trainer = config.component("trainer")
    for name, ours in TRAINER_METHODS.items():
        if hasattr(trainer, name):
            wrong = f"defines {name}, which is pytorch-template's and is never called: here it is {ours} ({GUIDE})"
            yield config.problem("trainer.type", wrong)


def _averaging(config: ConfigParser) -> Iterator[Problem]:
    averaging, epochs = config.build("weight_averaging"), config["trainer"]["epochs"]
    if isinstance(averaging, StochasticWeightAveraging) and averaging.from_epoch > epochs:
        yield config.problem("weight_averaging.args.from_epoch", f"is never reached: trainer.epochs = {epochs}")


def _folders(config: ConfigParser) -> Iterator[Problem]:
    obstacle = obstacle_to_writing(Path(config["trainer"]["save_dir"]))
    if obstacle:
        yield config.problem("trainer.save_dir", f"cannot be written: {obstacle}")


def _refusal(check: Callable[[], Any], key_path: KeyPath, arguments: Iterable[str] = ()) -> Iterator[Problem]:
    """The ValueError of a check as problems of the arguments at `key_path`; none if it raises none."""
    try:
        check()
    except ValueError as error:
        yield from locate(error, [*arguments], key_path) or [Problem(key_path, str(error))]
    except Exception as error:
        if place_in_plugin(error) is None:
            raise
        yield Problem(key_path, f"fails{described_failure(error)}")


CHECKS: tuple[tuple[str, Callable[[ConfigParser], Iterable[Problem]]], ...] = (
    ("labels", _can_be_built("labels")),
    ("data", _data),
    ("split", _can_be_built("split")),
    ("split labels", _split),
    ("preparation", _can_be_built("preparation")),
    ("transforms data_loader", _transforms),
    ("data_loader trainer", _progressive_sizes),
    ("views", _tta),
    ("arch labels", _arch),
    ("arch", _weights),
    ("arch labels freezing optimizer data_loader", _model),
    ("sampler labels data_loader", _sampler),
    ("mixing labels", _mixing),
    ("loss labels", _loss),
    ("loss labels arch", _loss_of_logits),
    ("loss labels arch", _embedding),
    ("callbacks", _can_be_built("callbacks")),
    ("metrics labels loss.metric_learning trainer lr_scheduler split callbacks sweep", metric_problems),
    ("optimizer", _optimizer),
    ("optimizer lr_scheduler trainer", _schedule),
    ("weight_averaging trainer", _averaging),
    ("trainer", _trainer),
    ("trainer", _folders),
)
"""The key paths that each check reads, and the check."""
