"""What a backbone is worth before it is trained: simple classifiers on its frozen features, scored on the validation
people.

python -m scripts.probe -c x.json                                       # the config's backbone, with its weights
python -m scripts.probe -c x.json --models resnet18 convnext_tiny vit_small_patch16_224
python -m scripts.probe --resume saved/models/<name>/<run>              # what a run has made of its backbone
"""

from __future__ import annotations

import io
import json
import logging
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from data_loader.records import LabelTable
from data_loader.splits import KFoldSplit, Split
from experiment import builders
from experiment.checks import check_config, cross_checks
from experiment.cli import parse_override
from experiment.schema import SECTIONS
from inference.embeddings import embed, heads_of
from inference.inputs import EnsembleMember, choose_records, folds_with_checkpoints
from inference.predictor import EXPORTED_FILE, Predictor, find_checkpoint
from inference.probe import PROBES, Probe, ProbeResult, run_probe
from inference.scoring.evaluation import SetScores, with_interval
from inference.submission import write_csv
from inference.tta import PRESETS
from logger.log import LOG_NAME, close_log, open_log
from parse_config import ConfigParser
from utils.command_line import CommandLine
from utils.config.layers import Override
from utils.config.plugins import FLAG, accept_changes
from utils.device import choose_device
from utils.errors import CheckpointError, ConfigError, DataError, run_and_exit, write_error
from utils.files import short_path, write_atomically, write_output
from utils.random_streams import numpy_stream
from utils.run_folders import obstacle_to_writing
from utils.wording import counted

log = logging.getLogger(LOG_NAME)

IMAGES_FILE, SCORES_FILE = "images.csv", "scores.json"

Results = Mapping[str, Mapping[Probe, ProbeResult]]
"""By model and probe."""


def probe(arguments: Namespace) -> Results:
    """The probes of each model that the command line names, with a table in the log.

    Raises ConfigError, CheckpointError, DataError, StorageFullError."""
    open_log(None, 1)
    try:
        accept_changes(arguments.accept_changed_plugins)
        config, predictors = models_of(arguments)
        for predictor in predictors.values():
            heads_of(predictor)
        policy = config["data_loader"]["args"]["on_bad_image"]
        split = split_of(config, next(iter(predictors.values())))
        if arguments.config is not None and arguments.resume is not None:
            refuse_trained_on(arguments.resume, predictors["the run"], split)
        seed, most, first = config.extra().seed, arguments.images, next(iter(predictors.values()))
        sides = [
            side_of(name, table, first.find_unreadable(table.records, policy), most, seed)
            for name, table in (("training", split.train), ("validation", split.validation))
        ]
        train, validation = sides
        began = time.monotonic()
        features = embed([*predictors.values()], [*train.records, *validation.records], verbosity=1)
        seconds = time.monotonic() - began
        log.info("embedded in %.1f s, %.0f images/s", seconds, (len(train) + len(validation)) / seconds)
        if arguments.output is not None:
            write_embeddings(arguments.output, sides, dict(zip(predictors, features, strict=True)))
        results: dict[str, dict[Probe, ProbeResult]] = {}
        for name, found in zip(predictors, features, strict=True):
            parts = (train, found[: len(train)], validation, found[len(train) :])
            results[name] = {each: run_probe(each, *parts) for each in PROBES}
            log.info("%s: %d features; %s", name, found.shape[1], "; ".join(map(describe, results[name].items())))
        for line in table_of(results):
            log.info("%s", line)
        if arguments.output is not None:
            write_scores(arguments.output, results)
        return results
    finally:
        close_log()


def models_of(arguments: Namespace) -> tuple[ConfigParser, dict[str, Predictor]]:
    """The config of data and labels, and by name the models. Raises ConfigError, CheckpointError."""
    overrides, device = [parse_override(text) for text in arguments.set], choose_device(arguments.device)
    if arguments.resume is not None:
        file = checkpoint_of(arguments.resume)
        predictor = Predictor.from_checkpoint(file, device, PRESETS["none"])
        log.info("%s: %s, %s", file, predictor.name, counted(predictor.completed_epochs, "epoch"))
        if arguments.config is None:
            values, origin = predictor.config, f"run {arguments.resume}"
            config = ConfigParser.from_dict(values, SECTIONS, origin, overrides, environment=True, run=file.parent)
        else:
            config = read_config(arguments.config, overrides)
        check_config(config, begins=False)
        return config, {"the run": predictor}
    configs = {}
    for named in arguments.models or [""]:
        name, _, weights_file = named.partition("=")
        chosen = [] if not name else overrides_of_model(name, weights_file)
        config = read_config(arguments.config or Path("config.json"), [*overrides, *chosen])
        configs[name or config["arch"]["args"].get("model_name", config["arch"]["type"])] = config
    predictors = {}
    for name, config in configs.items():
        labels = check_config(config)
        model = builders.build_model(config, labels, None)
        args = config["arch"]["args"]
        if not (args.get("pretrained") or args.get("weights_file") or config.extra().initial_weights):
            log.warning("%s: its weights are random: what a backbone brings is in arch.args.pretrained or a file", name)
        predictors[name] = builders.build_predictor(config, labels, model, device)
        log.info("%s", model.summary())
    return next(iter(configs.values())), predictors


def read_config(path: Path, overrides: Sequence[Override]) -> ConfigParser:
    config = ConfigParser.from_file(path, SECTIONS, overrides, cross_checks, environment=True)
    for note in config.notes:
        log.info("%s", note)
    return config


def overrides_of_model(name: str, weights_file: str) -> list[Override]:
    """timm's model with its own weights, or with those of a file."""
    values = {
        "arch.type": "TimmModelMulti",
        "arch.args.model_name": name,
        "arch.args.pretrained": "false" if weights_file else "true",
        "arch.args.weights_file": weights_file or "null",
        "initial_weights": "null",
    }
    return [Override(key_path, value, f"--models {name}") for key_path, value in values.items()]


def checkpoint_of(run: Path) -> Path:
    """Raises ConfigError for a run of folds, CheckpointError for what has no network of ours."""
    if folds := folds_with_checkpoints(run):
        raise ConfigError(f"{run}: is a run of folds, and one network is probed; name one, such as {folds[min(folds)]}")
    file = find_checkpoint(run)
    if file.name == EXPORTED_FILE:
        raise CheckpointError(f"{run}: is exported; name the run")
    return file


def split_of(config: ConfigParser, predictor: Predictor) -> Split:
    """The two sides, both with images. Raises DataError."""
    rule = config.build("split")
    if isinstance(rule, KFoldSplit) and rule.fold is None:
        rule.fold = 0
        log.info("the sides are those of fold 0 of %d", rule.folds)
    split: Split = rule.divide(builders.read_label_table(config, config.shared("labels")), config.extra().seed)
    for name, side in (("training", split.train), ("validation", split.validation)):
        if not len(side):
            raise DataError(f"the split leaves no {name} images, and the probe of {predictor.name} needs them")
    return split


def refuse_trained_on(run: Path, predictor: Predictor, split: Split) -> None:
    """Raises ConfigError where the run has trained on images that validate here."""
    if predictor.split_digest is not None and predictor.split_digest == split.digest():
        return
    try:
        trained = choose_records([EnsembleMember(run, predictor, 1.0)], None, "train")
    except (ConfigError, DataError):
        log.warning("%s: its own data is not there: whether it has trained on these people is not known", run)
        return
    known = {record.path for record in trained}
    if both := [record for record in split.validation.records if record.path in known]:
        found = f"was trained on {len(both)} of the {len(split.validation)} images that validate here"
        raise ConfigError(f"{run}: {found}, such as {short_path(both[0].path)}; leave out -c, or take its split")


def side_of(name: str, table: LabelTable, bad: set[Path], most: int, seed: int) -> LabelTable:
    """The readable images of a side; of more than `most` those of persons drawn at random. Raises DataError."""
    table = table.without(bad)
    if not len(table):
        raise DataError(f"none of the {name} images can be read")
    persons = np.array([record.person for record in table.records])
    order = numpy_stream(seed, "probe").permutation(np.unique(persons))
    counts = dict(zip(*np.unique(persons, return_counts=True), strict=True))
    within = np.cumsum([counts[person] for person in order]) <= most
    within[0] = True
    chosen = table[np.isin(persons, order[within])]
    log.info("%d of %d %s images, of %d persons", len(chosen), len(table), name, chosen.num_persons)
    return chosen


def describe(item: tuple[Probe, ProbeResult]) -> str:
    name, result = item
    kind = "C x images" if name == "linear" else "neighbours"
    chosen = ", ".join(f"{head} {'-' if value is None else f'{value:g}'}" for head, value in result.chosen.items())
    unfinished = f" ({result.unfinished} fits had not converged)" if result.unfinished else ""
    return f"{kind} {chosen}{unfinished}"


def table_of(results: Results) -> list[str]:
    """Macro F1 of the joint class and of each attribute: a row for each model and probe, after the majority class."""
    first: list[SetScores] = next(iter(next(iter(results.values())).values())).scores
    rows = [["macro F1", *(f"{score.name} ({score.num_images})" for score in first)]]
    rows.append(["majority class", *(f"{score.majority_f1:.4f}" for score in first)])
    for model, by_probe in results.items():
        for name, result in by_probe.items():
            rows.append([f"{model}, {name}", *(with_interval(row.macro_f1, row.interval) for row in result.scores)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def write_embeddings(folder: Path, sides: Sequence[LabelTable], features: Mapping[str, np.ndarray]) -> None:
    """<model>.npy, (N, F) float32 each, and the table of their rows. Raises ConfigError, StorageFullError."""
    attributes = sides[0].label_space.predicted_attributes
    rows: list[list[str]] = []
    for name, table in zip(("train", "validation"), sides, strict=True):
        texts = [
            [[*known.class_names, ""][number] for number in table.scoring_targets[attribute].tolist()]
            for attribute, known in attributes.items()
        ]
        records = ([str(record.path), record.person, name] for record in table.records)
        rows += [[*record, *known] for record, *known in zip(records, *texts, strict=True)]
    write_csv(folder / IMAGES_FILE, ["path", "person", "side", *attributes], rows)
    for model, values in features.items():
        file, buffer = folder / f"{model.replace('/', '_')}.npy", io.BytesIO()
        np.save(buffer, values)  # to a file its error of a full disk has no number
        try:
            write_atomically(file, buffer.getvalue())
        except OSError as error:
            raise write_error(f"--output {folder}", error) from None
        log.info("%s: %d x %d", file, *values.shape)


def write_scores(folder: Path, results: Results) -> None:
    """Raises ConfigError, StorageFullError."""
    content: dict[str, Any] = {
        model: {
            name: {
                "scores": [asdict(score) for score in result.scores],
                "chosen": result.chosen,
                "unfinished": result.unfinished,
            }
            for name, result in by_probe.items()
        }
        for model, by_probe in results.items()
    }
    write_output(folder / SCORES_FILE, f"{json.dumps(content, indent=4, ensure_ascii=False)}\n")


def parse(argv: Sequence[str] | None) -> Namespace:
    """The command line. Raises ConfigError."""
    parser = CommandLine(prog="scripts.probe", description="Simple classifiers on frozen features, scored by person.")
    add = parser.add_argument
    add("-c", "--config", type=Path, help="the config of data and model (default: config.json, or the run's)")
    add("-r", "--resume", type=Path, help="the backbone of this run or checkpoint, as it prepares its images")
    add("--models", nargs="+", metavar="NAME[=FILE]", help="timm's, with its weights or a file's, in one table")
    add("--set", action="append", default=[], metavar="a.b.c=value", help="sets one value of the config")
    add("--images", type=int, default=5000, help="of each side at most so many, people whole (default: 5000)")
    add("--output", type=Path, help="a new folder for the embeddings, their images and the scores")
    add("-d", "--device", help="cpu, cuda, cuda:1 (default: the GPU if there is one)")
    add(FLAG, action="store_true", help="use a plug-in though it has changed since the training")
    arguments = parser.parse(argv)
    if arguments.resume is not None and arguments.models:
        raise ConfigError("--resume and --models both name the backbone; give one of them")
    if arguments.images < 1:
        raise ConfigError(f"--images {arguments.images}: must be at least 1")
    names = [named.partition("=")[0] for named in arguments.models or []]
    if repeated := [name for number, name in enumerate(names) if name in names[:number]]:
        raise ConfigError(f"--models {repeated[0]}: is named twice")
    if (folder := arguments.output) is not None:
        is_in_use = folder.is_dir() and any(folder.iterdir()) and not _is_unfinished(folder)
        obstacle = "is not empty; name a new folder" if is_in_use else None
        if obstacle := obstacle or ("is a file" if folder.is_file() else obstacle_to_writing(folder)):
            raise ConfigError(f"--output {folder}: {obstacle}")
    return arguments


def _is_unfinished(folder: Path) -> bool:
    """Whether it holds nothing but the embeddings of a probe that was stopped before its scores."""
    names = [path.name for path in folder.iterdir()]
    return IMAGES_FILE in names and all(name == IMAGES_FILE or name.endswith(".npy") for name in names)


def main(argv: Sequence[str] | None = None) -> Results:
    """The command line of this process, or `argv`."""
    return probe(parse(argv))


if __name__ == "__main__":
    run_and_exit(main)
