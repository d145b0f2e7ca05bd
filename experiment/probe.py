"""Probes: what the frozen features of backbones are worth, by simple classifiers on them.

linear    logistic regression of the standardised features, classes weighted by their counts (Alain & Bengio 2016)
kNN       the most similar training images vote, by cosine

The regularisation, and the number of neighbours, are those of the highest macro F1 in folds of the training persons:
the validation persons have no part in them.
"""

from __future__ import annotations

import io
import json
import logging
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from base.batch import UNKNOWN
from data_loader.records import LabelTable
from data_loader.splits import KFoldSplit, Split
from experiment import builders
from experiment.checks import check_config, cross_checks
from experiment.schema import SECTIONS
from inference.embeddings import embed, heads_of
from inference.inputs import EnsembleMember, choose_records, folds_with_checkpoints
from inference.out_of_fold import PredictionTable
from inference.predictor import EXPORTED_FILE, Predictor, find_checkpoint
from inference.scoring.evaluation import SetScores, with_interval
from inference.scoring.intervals import number_persons
from inference.submission import write_csv
from inference.tta import PRESETS
from parse_config import ConfigParser
from utils.config.layers import Override
from utils.errors import CheckpointError, ConfigError, DataError, write_error
from utils.files import short_path, write_atomically, write_output
from utils.random_streams import numpy_stream
from utils.wording import counted

logger = logging.getLogger(__name__)

IMAGES_FILE, SCORES_FILE = "images.csv", "scores.json"

Probe = Literal["linear", "kNN"]
PROBES: tuple[Probe, ...] = ("linear", "kNN")
SETTINGS: dict[Probe, Sequence[float]] = {"linear": (0.01, 0.1, 1.0, 10.0, 100.0), "kNN": (1, 5, 20, 50)}
"""What is tried: of the linear probe scikit-learn's C times the number of images, from strong regularisation to weak;
of kNN the number of neighbours."""

NUM_FOLDS = 3
MOST_ITERATIONS = 300


@dataclass(frozen=True)
class ProbeResult:
    """predictions: of the validation images
    scores: theirs, as test.py's
    chosen: by head, the setting that won; None where there was nothing to choose among
    unfinished: so many fits ended before they had converged
    """

    predictions: PredictionTable
    scores: list[SetScores]
    chosen: dict[str, float | None]
    unfinished: int


Results = Mapping[str, Mapping[Probe, ProbeResult]]
"""By model and probe."""


def probe(
    config: ConfigParser, predictors: Mapping[str, Predictor], most_images: int, output: Path | None, run: Path | None
) -> Results:
    """The probes of each model on the config's data, with a table in the log.

    most_images: of each side at most so many, the images of a person together
    output: a folder for the embeddings, their images and the scores; None: they are not written
    run: the one model's, where the config is not its own and it may have trained on the validation images

    Raises ConfigError, DataError, StorageFullError."""
    for predictor in predictors.values():
        heads_of(predictor)
    first = next(iter(predictors.values()))
    split = split_of(config, first)
    if run is not None:
        refuse_trained_on(run, first, split)
    policy, seed = config["data_loader"]["args"]["on_bad_image"], config.extra().seed
    train, validation = (
        side_of(name, table, first.find_unreadable(table.records, policy), most_images, seed)
        for name, table in (("training", split.train), ("validation", split.validation))
    )
    began = time.monotonic()
    features = embed([*predictors.values()], [*train.records, *validation.records], verbosity=1)
    seconds = time.monotonic() - began
    logger.info("embedded in %.1f s, %.0f images/s", seconds, (len(train) + len(validation)) / seconds)
    if output is not None:
        write_embeddings(output, (train, validation), dict(zip(predictors, features, strict=True)))
    results: dict[str, dict[Probe, ProbeResult]] = {}
    for name, found in zip(predictors, features, strict=True):
        sides = (train, found[: len(train)], validation, found[len(train) :])
        results[name] = {each: run_probe(each, *sides) for each in PROBES}
        logger.info("%s: %d features; %s", name, found.shape[1], "; ".join(map(describe, results[name].items())))
    for line in table_of(results):
        logger.info("%s", line)
    if output is not None:
        write_scores(output, results)
    return results


# --- the models and their images ---


def trained_model(
    run: Path, config_file: Path | None, overrides: Sequence[Override], device: torch.device
) -> tuple[ConfigParser, dict[str, Predictor]]:
    """The model of a run or checkpoint, by name, and the config of data and labels: the file's, or else the run's.

    Raises ConfigError, CheckpointError."""
    file = checkpoint_of(run)
    predictor = Predictor.from_checkpoint(file, device, PRESETS["none"])
    logger.info("%s: %s, %s", file, predictor.name, counted(predictor.completed_epochs, "epoch"))
    if config_file is None:
        values, origin = predictor.config, f"run {run}"
        config = ConfigParser.from_dict(values, SECTIONS, origin, overrides, environment=True, run=file.parent)
    else:
        config = read_config(config_file, overrides)
    check_config(config, begins=False)
    return config, {"the run": predictor}


def untrained_models(
    named: Sequence[str], config_file: Path, overrides: Sequence[Override], device: torch.device
) -> tuple[ConfigParser, dict[str, Predictor]]:
    """The models of a config that begin with the weights it names, by name, and the config of data and labels.

    named: timm's models in place of the config's, each with its own weights or, as NAME=FILE, with those of a file;
        none: the config's

    Raises ConfigError."""
    configs = {}
    for each in named or [""]:
        name, _, weights_file = each.partition("=")
        chosen = [] if not name else overrides_of_model(name, weights_file)
        config = read_config(config_file, [*overrides, *chosen])
        configs[name or config["arch"]["args"].get("model_name", config["arch"]["type"])] = config
    predictors = {}
    for name, config in configs.items():
        labels = check_config(config)
        model = builders.build_model(config, labels, None)
        args = config["arch"]["args"]
        if not (args.get("pretrained") or args.get("weights_file") or config.extra().initial_weights):
            logger.warning(
                "%s: its weights are random: what a backbone brings is in arch.args.pretrained or a file", name
            )
        predictors[name] = builders.build_predictor(config, labels, model, device)
        logger.info("%s", model.summary())
    return next(iter(configs.values())), predictors


def read_config(path: Path, overrides: Sequence[Override]) -> ConfigParser:
    config = ConfigParser.from_file(path, SECTIONS, overrides, cross_checks, environment=True)
    for note in config.notes:
        logger.info("%s", note)
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
        logger.info("the sides are those of fold 0 of %d", rule.folds)
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
        logger.warning("%s: its own data is not there: whether it has trained on these people is not known", run)
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
    logger.info("%d of %d %s images, of %d persons", len(chosen), len(table), name, chosen.num_persons)
    return chosen


# --- the classifiers ---


def run_probe(
    probe: Probe, train: LabelTable, train_features: np.ndarray, validation: LabelTable, features: np.ndarray
) -> ProbeResult:
    """Fits a classifier for each head on its known labels, and scores all of them on the validation images.

    train_features, features: (N, F) of the images of each side"""
    persons = number_persons([record.person for record in train.records])
    by_head, chosen, unfinished = {}, {}, 0
    for name, head in train.label_space.heads.items():
        targets = train.targets[name].numpy()
        known = targets != UNKNOWN
        fit = _Fit(probe, train_features[known], targets[known], persons[known])
        by_head[name] = torch.from_numpy(fit.predict(features, head.num_classes)).float()
        chosen[name] = fit.setting
        unfinished += fit.unfinished
    predictions = PredictionTable.of(validation, None, by_head)
    return ProbeResult(predictions, predictions.scores(), chosen, unfinished)


class _Fit:
    """A classifier of one head.

    features: (N, F); targets, persons: (N,)
    """

    def __init__(self, probe: Probe, features: np.ndarray, targets: np.ndarray, persons: np.ndarray) -> None:
        self.probe, self.features, self.targets = probe, features, targets
        self.setting: float | None = None
        self.unfinished = 0
        if len(np.unique(targets)) > 1:
            self.setting = self._choose(persons)

    def _choose(self, persons: np.ndarray) -> float:
        from sklearn.metrics import f1_score  # seconds
        from sklearn.model_selection import GroupKFold

        settings, num_folds = SETTINGS[self.probe], min(NUM_FOLDS, len(np.unique(persons)))
        if num_folds < 2:
            return settings[len(settings) // 2]
        predicted = {setting: np.full_like(self.targets, UNKNOWN) for setting in settings}
        for fitted, held_out in GroupKFold(num_folds).split(self.features, groups=persons):
            answers = self._answers(fitted, self.features[held_out], settings)
            for setting, (classes, probabilities) in answers.items():
                predicted[setting][held_out] = classes[probabilities.argmax(axis=1)]
        scores = {
            setting: f1_score(self.targets, own, average="macro", zero_division=0) for setting, own in predicted.items()
        }
        return max(settings, key=scores.__getitem__)  # of equal ones the first

    def predict(self, features: np.ndarray, num_classes: int) -> np.ndarray:
        """(N, F) -> (N, C); the one class there is, or each alike where none is known."""
        if self.setting is None:
            known = np.bincount(self.targets, minlength=num_classes).astype(np.float64)
            share = known / known.sum() if known.any() else np.full(num_classes, 1 / num_classes)
            return np.tile(share, (len(features), 1))
        every_image = np.arange(len(self.targets))
        classes, probabilities = self._answers(every_image, features, [self.setting])[self.setting]
        found = np.zeros((len(features), num_classes))
        found[:, classes] = probabilities
        return found

    def _answers(
        self, fitted: np.ndarray, features: np.ndarray, settings: Sequence[float]
    ) -> dict[float, tuple[np.ndarray, np.ndarray]]:
        """By setting, the classes and their probabilities (N, C) of a classifier that has learned from some images.

        fitted: the rows of those"""
        own, targets = self.features[fitted], self.targets[fitted]
        if len(present := np.unique(targets)) < 2:
            return {setting: (present, np.ones((len(features), 1))) for setting in settings}
        own, others = (_standardised if self.probe == "linear" else _unit_length)(own, features)
        found = {}
        for setting, classifier in self._classifiers(own, targets, settings):
            found[setting] = (classifier.classes_, classifier.predict_proba(others))
        return found

    def _classifiers(self, features: np.ndarray, targets: np.ndarray, settings: Sequence[float]) -> Any:
        """By setting, the fitted classifier; valid until the next one is asked for."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from sklearn.neighbors import KNeighborsClassifier

        if self.probe == "kNN":
            for setting in settings:
                number = min(int(setting), len(targets))
                yield setting, KNeighborsClassifier(number, weights="distance", metric="cosine").fit(features, targets)
            return
        common = {"class_weight": "balanced", "tol": 1e-3, "max_iter": MOST_ITERATIONS}
        classifier = LogisticRegression(**common, warm_start=True)  # each begins where the one before ended
        for setting in settings:
            classifier.set_params(C=setting / len(targets))
            with warnings.catch_warnings(record=True) as raised:
                warnings.simplefilter("always", ConvergenceWarning)
                classifier.fit(features, targets)
            self.unfinished += any(issubclass(each.category, ConvergenceWarning) for each in raised)
            yield setting, classifier


def _standardised(features: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both by the mean and standard deviation of the first; a feature that is constant there stays 0."""
    mean, std = features.mean(axis=0), features.std(axis=0)
    scale = np.divide(1, std, out=np.zeros_like(std), where=std > 1e-6 * np.abs(mean) + 1e-12)
    return (features - mean) * scale, (others - mean) * scale


def _unit_length(features: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    lengths = (np.linalg.norm(each, axis=1, keepdims=True) for each in (features, others))
    one, other = (np.maximum(length, 1e-12) for length in lengths)
    return features / one, others / other


# --- what is shown and written ---


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
        logger.info("%s: %d x %d", file, *values.shape)


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
