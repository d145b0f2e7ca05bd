"""The metrics that a run watches: the monitor, the further bests, the schedule; and whether there are such metrics."""

from __future__ import annotations

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


def loss_names(config: ConfigParser, labels: LabelSpace) -> list[str]:
    """The losses that an epoch gives: the whole, each head's, and those on the embedding."""
    metric_learning = config["loss"]["metric_learning"] or {}
    return ["loss", *(f"loss_{name}" for name in (*labels.heads, *metric_learning))]


def metric_names(config: ConfigParser, labels: LabelSpace) -> list[str]:
    """Every number that an epoch gives, known before training."""
    losses, scores = loss_names(config, labels), Metrics.names(labels, metric_functions(config))
    return [*(f"{side}/{name}" for side in ("val", "train") for name in (*losses, *scores)), "lr"]


def watched_metrics(config: ConfigParser) -> dict[str, str]:
    """By place in the config, each metric that something looks at: the monitor, the further bests, the schedule."""
    trainer = config["trainer"]
    texts = {"trainer.monitor": trainer["monitor"]}
    texts |= {f"trainer.save_best.{number}": text for number, text in enumerate(trainer["save_best"])}
    off = ("trainer.monitor", "off")
    watched = {place: text.partition(" ")[2] for place, text in texts.items() if (place, text) != off}
    looked_at = (config["lr_scheduler"] or {}).get("metric")
    return watched if looked_at is None else watched | {"lr_scheduler.metric": looked_at}


def metric_problems(config: ConfigParser) -> list[Problem]:
    """Metrics that there are none of, and a schedule that would follow its metric the wrong way."""
    labels = config.build("labels")
    unknown = [name for name in config["metrics"] if name not in exported(metric)]
    problems = [
        config.problem("metrics", f"names {name!r}, which {not_one_of(name, exported(metric))}") for name in unknown
    ]
    known = metric_names(config, labels)
    if config["split"]["type"] == "NoSplit":
        known = [name for name in known if not name.startswith("val/")]
    trainer = config["trainer"]
    for place, name in watched_metrics(config).items():
        if place == "lr_scheduler.metric":
            if name not in known:
                problems.append(config.problem(place, not_one_of(name, known)))
            elif needs_metric(config["lr_scheduler"]["type"]):
                wanted = "min" if name.partition("/")[2] in loss_names(config, labels) else "max"
                if config["lr_scheduler"]["args"]["mode"] != wanted:
                    wrong = f'must be "{wanted}" for {name}, or the rate falls as it gets better'
                    problems.append(config.problem("lr_scheduler.args.mode", wrong))
            continue
        text = trainer["monitor"] if place == "trainer.monitor" else trainer["save_best"][int(place.split(".")[-1])]
        mode = text.split(" ")[0]
        if mode not in ("min", "max") or not name:
            problems.append(config.problem(place, 'must be "min <metric>" or "max <metric>" ("off" watches nothing)'))
        elif name not in known:
            problems.append(config.problem(place, f"watches {name!r}, which {not_one_of(name, known)}"))
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
    for place, name in watched_metrics(config).items():
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
