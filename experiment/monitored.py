"""The metrics that a run watches: the monitor, the other bests, the schedule; and whether there are such metrics."""

from __future__ import annotations

import inspect
import logging

from base.batch import UNKNOWN
from base.label_space import LabelSpace
from base.metrics import Metrics
from data_loader.records import LabelTable
from data_loader.splits import Split
from experiment.schema import metric_functions
from model import metric
from model.lr_scheduler import needs_metric
from parse_config import ConfigParser
from utils.config.sections import exported
from utils.errors import DataError, Problem
from utils.wording import not_one_of

logger = logging.getLogger(__name__)


def metric_directions(config: ConfigParser, labels: LabelSpace) -> dict[str, str]:
    """Every number that an epoch gives, known before training, and which way it gets better: "min" or "max".

    They are the losses (the whole, each head's and those on the embedding) and the metrics of both sides."""
    losses, functions = [*labels.heads, *(config["loss"]["metric_learning"] or {})], metric_functions(config)
    directions = dict.fromkeys(["loss", *(f"loss_{name}" for name in losses)], "min")
    for name, function in Metrics.names(labels, functions).items():
        directions[name] = metric.direction_of(functions[function])
    return {f"{side}/{name}": direction for side in ("val", "train") for name, direction in directions.items()}


def watched_metrics(config: ConfigParser) -> dict[str, tuple[str, str]]:
    """By key path, what looks at a metric: the monitor, the other bests, the schedule; each with its mode ("min", "max"
    or what is written there) and the metric's name."""
    trainer, schedule = config["trainer"], config["lr_scheduler"] or {}
    texts = {"trainer.monitor": trainer["monitor"]}
    texts |= {f"trainer.save_best.{number}": text for number, text in enumerate(trainer["save_best"])}
    off = ("trainer.monitor", "off")
    parts = {key_path: text.partition(" ") for key_path, text in texts.items() if (key_path, text) != off}
    watched = {key_path: (mode, name) for key_path, (mode, _, name) in parts.items()}
    if schedule.get("metric") is not None:
        watched["lr_scheduler.metric"] = (schedule["args"].get("mode", "min"), schedule["metric"])
    return watched


def metric_problems(config: ConfigParser) -> list[Problem]:
    """Metrics that do not exist or are no functions of a confusion matrix, and what follows one the wrong way."""
    problems = []
    for name in config["metrics"]:
        if name not in exported(metric):
            wrong = f"names {name!r}, which {not_one_of(name, exported(metric))}"
            problems.append(config.problem("metrics", wrong))
        elif len(inspect.signature(exported(metric)[name]).parameters) != 1:
            wrong = f"names {name!r}, which must be a function of a confusion matrix alone; see docs/extending.md"
            problems.append(config.problem("metrics", wrong))
    directions = metric_directions(config, config.shared("labels"))
    if config["split"]["type"] == "NoSplit":
        directions = {name: direction for name, direction in directions.items() if not name.startswith("val/")}
    for key_path, (mode, name) in watched_metrics(config).items():
        is_schedule = key_path == "lr_scheduler.metric"
        if not is_schedule and (mode not in ("min", "max") or not name):
            wrong = 'must be "min <metric>" or "max <metric>" ("off" watches nothing)'
            problems.append(config.problem(key_path, wrong))
        elif name not in directions:
            wrong = not_one_of(name, directions)
            problems.append(config.problem(key_path, wrong if is_schedule else f"watches {name!r}, which {wrong}"))
        elif not is_schedule and mode != directions[name]:
            wrong = f'must be "{directions[name]} {name}", or the worst epoch is kept as the best'
            problems.append(config.problem(key_path, wrong))
        elif is_schedule and needs_metric(config["lr_scheduler"]["type"]) and mode != directions[name]:
            wrong = f'must be "{directions[name]}" for {name}, or the rate falls as it gets better'
            problems.append(config.problem("lr_scheduler.args.mode", wrong))
    return problems


def refuse_unusable_split(config: ConfigParser, split: Split) -> None:
    """Raises DataError where nothing can be learned from the training side, or something watches a metric that the
    validation side cannot tell."""
    _refuse_unlearnable(split.train)
    _refuse_unknowable_monitors(config, split.validation)


def _refuse_unknowable_monitors(config: ConfigParser, validation: LabelTable) -> None:
    """Raises DataError where something watches a metric of the validation side that it has no labels for, or the run
    goes by a metric of one class only. Such metrics there are none of, which is warned of."""
    if not len(validation):
        return
    labels, targets = validation.label_space, validation.scoring_targets
    classes = {f"{name}_": set(target.tolist()) - {UNKNOWN} for name, target in targets.items()}
    if labels.has_joint_class:
        classes[""] = set(labels.joint_classes(targets).tolist()) - {UNKNOWN}
    else:
        classes[""] = max(classes.values(), key=len)
    metrics = config.extra().metrics
    absent, of_one_class = (
        {f"val/{prefix}{name}" for prefix, own in classes.items() if len(own) == number for name in metrics}
        for number in (0, 1)
    )
    losses = [name for name, target in validation.targets.items() if (target == UNKNOWN).all()]
    absent |= {f"val/loss_{name}" for name in losses} | ({"val/loss"} if len(losses) == len(labels.heads) else set())
    for place, (_, name) in watched_metrics(config).items():
        if name in absent:
            wrong = f"watches {name}, but no validation image has the labels that it needs; watch another"
            raise DataError(f"{config.origin(place)}: {config.problem(place, wrong)}")
        if name in of_one_class and not place.startswith("trainer.save_best"):
            wrong = f"watches {name}, but all validation images are of one class, which tells nothing; watch another"
            raise DataError(f"{config.origin(place)}: {config.problem(place, wrong)}")
    if of_one_class:
        single = {name: own for name in targets if len(own := classes[f"{name}_"]) == 1}
        attributes = [f"{name} ({labels.attributes[name].class_names[min(own)]})" for name, own in single.items()]
        logger.warning(
            "the validation side knows one class only of %s: %s are left out, as one class is always right",
            ", ".join(attributes) or "the answer",
            ", ".join(sorted(of_one_class)),
        )


def _refuse_unlearnable(train: LabelTable) -> None:
    """Raises DataError where no training image has a label for any head; a single head without one is warned of."""
    counts = train.class_counts()
    without = [name for name, count in counts.items() if count.sum() == 0]
    if len(without) == len(counts):
        raise DataError(
            f"nothing can be learned: no training image has a label for a head ({', '.join(without)}); a head of "
            "several attributes needs images that know all of them"
        )
    for name in without:
        logger.warning("the head %s cannot learn: no training image has a label for it", name)
