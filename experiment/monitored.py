"""The metrics that the monitor, the other best checkpoints and the schedule follow, and whether they exist."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import torch

from base.batch import UNKNOWN
from base.label_space import LabelSpace
from base.metrics import Metrics, call_metric, num_positional
from data_loader.records import LabelTable
from data_loader.splits import Split
from experiment.schema import METRICS, metric_functions
from model import metric
from model.lr_scheduler import needs_metric
from parse_config import ConfigParser
from utils.config.plugins import plugins_of, why_unknown
from utils.errors import DataError, Problem
from utils.wording import not_one_of

logger = logging.getLogger(__name__)


def metric_directions(config: ConfigParser, labels: LabelSpace) -> dict[str, str]:
    """By name, every number that an epoch gives, and which way it gets better: "min" or "max"."""
    found = _own_directions(config, labels)
    for callback in config.build("callbacks"):
        found |= callback.metrics
    return found


def _own_directions(config: ConfigParser, labels: LabelSpace) -> dict[str, str]:
    """Those that come from no callback."""
    losses, functions = [*labels.heads, *(config["loss"]["metric_learning"] or {})], metric_functions(config)
    directions = dict.fromkeys(["loss", *(f"loss_{name}" for name in losses)], "min")
    for name, function in Metrics.names(labels, functions).items():
        directions[name] = metric.direction_of(functions[function])
    return {f"{side}/{name}": direction for side in ("val", "train") for name, direction in directions.items()}


def _callback_problems(config: ConfigParser) -> Iterator[Problem]:
    """Callbacks whose `metrics` name no direction, or a number that exists."""
    known = {"lr", *_own_directions(config, config.shared("labels"))}
    for number, callback in enumerate(config.build("callbacks")):
        for name, direction in callback.metrics.items():
            if direction not in ("min", "max"):
                yield config.problem(
                    f"callbacks.{number}.type", f'declares {name} as {direction!r}; "min" or "max" is expected'
                )
            if name in known:
                yield config.problem(
                    f"callbacks.{number}.type", f"declares {name}, a number that the epoch has already"
                )
        known |= callback.metrics.keys()


def watched_metrics(config: ConfigParser) -> dict[str, tuple[str, str]]:
    """By key path, what follows a metric (the monitor, the other bests, the sweep, the schedule): its mode, as written,
    and the metric's name."""
    trainer, schedule = config["trainer"], config["lr_scheduler"] or {}
    texts = {} if trainer["monitor"] == "off" else {"trainer.monitor": trainer["monitor"]}
    texts |= {f"trainer.save_best.{number}": text for number, text in enumerate(trainer["save_best"])}
    if config["sweep"] is not None:
        texts["sweep.metric"] = config["sweep"]["metric"]
    watched = {}
    for key_path, text in texts.items():
        mode, _, name = text.partition(" ")
        watched[key_path] = (mode, name)
    if schedule.get("metric") is not None:
        watched["lr_scheduler.metric"] = (schedule["args"].get("mode", "min"), schedule["metric"])
    return watched


def metric_problems(config: ConfigParser) -> Iterator[Problem]:
    """Metrics that do not exist or are no functions of a confusion matrix, and what follows one the wrong way."""
    for name in config["metrics"]:
        if name not in METRICS:
            yield config.problem(
                "metrics", f"names {name!r}, which {not_one_of(name, METRICS)}{why_unknown(name, METRICS)}"
            )
    yield from _failing_metrics(config)
    yield from _callback_problems(config)
    directions = metric_directions(config, config.shared("labels"))
    if config["split"]["type"] == "NoSplit":
        directions = {name: direction for name, direction in directions.items() if not name.startswith("val/")}
    for key_path, (mode, name) in watched_metrics(config).items():
        is_schedule = key_path == "lr_scheduler.metric"
        if not is_schedule and (mode not in ("min", "max") or not name):
            yield config.problem(key_path, 'must be "min <metric>" or "max <metric>" ("off" watches nothing)')
        elif name not in directions:
            yield config.problem(key_path, f"watches {name!r}, which {not_one_of(name, directions)}")
        elif not is_schedule and mode != directions[name]:
            wrong = f'must be "{directions[name]} {name}", or the worst epoch is kept as the best'
            yield config.problem(key_path, wrong)
        elif is_schedule and needs_metric(config["lr_scheduler"]["type"]) and mode != directions[name]:
            wrong = f'must be "{directions[name]}" for {name}, or the rate falls as it gets better'
            yield config.problem("lr_scheduler.args.mode", wrong)


def _failing_metrics(config: ConfigParser) -> Iterator[Problem]:
    """Metrics of plug-ins, tried on a few samples of every class of each attribute."""
    labels: LabelSpace = config.shared("labels")
    numbers = {len(attribute.class_names) for attribute in labels.predicted_attributes.values()}
    numbers |= {labels.num_joint_classes} if labels.has_joint_class else set()
    functions = {name: found for name, found in metric_functions(config).items() if plugins_of(found)}
    for name, function in functions.items():
        for number in sorted(numbers):
            targets = torch.arange(2 * number) % number
            outputs = torch.nn.functional.one_hot(targets.roll(1), number).float().log_softmax(dim=1)
            arguments = (outputs, targets) if num_positional(function) == 2 else (torch.ones(number, number).long(),)
            try:
                call_metric(name, function, *arguments)
            except ValueError as error:
                yield config.problem("metrics", f"names a function that fails: {error}")
                break


def refuse_unusable_split(config: ConfigParser, split: Split) -> None:
    """Raises DataError where nothing can be learned from the training side, or something follows a metric that the
    validation side cannot give."""
    counts = split.train.class_counts()
    unlabelled = [name for name, count in counts.items() if count.sum() == 0]
    if len(unlabelled) == len(counts):
        raise DataError(f"nothing can be learned: no training image has a label for a head ({', '.join(unlabelled)})")
    for name in unlabelled:
        logger.warning("the head %s cannot learn: no training image has a label for it", name)
    if len(split.validation):
        _refuse_unknowable_metrics(config, split.validation)


def _refuse_unknowable_metrics(config: ConfigParser, validation: LabelTable) -> None:
    """Metrics without labels or of one class only do not exist: a warning, but an error where one is followed."""
    labels, targets = validation.label_space, validation.scoring_targets
    classes = {f"{name}_": set(target.tolist()) - {UNKNOWN} for name, target in targets.items()}
    if labels.has_joint_class:
        classes[""] = set(labels.joint_classes(targets).tolist()) - {UNKNOWN}
    else:
        classes[""] = max(classes.values(), key=len)
    unknown, of_one_class = (
        {f"val/{prefix}{name}" for prefix, own in classes.items() if len(own) == number for name in config["metrics"]}
        for number in (0, 1)
    )
    losses = [name for name, target in validation.targets.items() if (target == UNKNOWN).all()]
    unknown |= {f"val/loss_{name}" for name in losses} | ({"val/loss"} if len(losses) == len(labels.heads) else set())
    for key_path, (_, name) in watched_metrics(config).items():
        wrong = None
        if name in unknown:
            wrong = "no validation image has the labels that it needs"
        elif name in of_one_class and not key_path.startswith("trainer.save_best"):
            wrong = "all validation images are of one class"
        if wrong is not None:
            problem = config.problem(key_path, f"watches {name}, but {wrong}; watch another metric")
            raise DataError(f"{config.origin(key_path)}: {problem}")
    if of_one_class:
        left_out = ", ".join(sorted(of_one_class))
        logger.warning("left out, as all validation images are of one class there: %s", left_out)
