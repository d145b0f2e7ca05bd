"""Fine-tuning, face crops, background removal, folds and tuning on a table of real photographs, with several seeds.

`python -m benchmarks.real_faces --data FOLDER --weights FOLDER` trains a model for each variant and seed with train.py,
answers the table's own test rows with test.py, and prints the tables of docs/results.md. What each model predicted is
kept in <output>/results.json: those models are not trained again, and one that was stopped is resumed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

import test
import train
from base.batch import UNKNOWN
from base.label_space import LabelSpace
from benchmarks.machine import PROJECT, describe_versions
from benchmarks.report import write_into_readme
from benchmarks.trainings import Column, Figure
from data_loader.records import LabelTable, read_records
from data_loader.records.sources import AttributeTable
from experiment.cli import parse_override
from experiment.probe import run_probe, untrained_models
from inference.embeddings import embed
from inference.scoring.intervals import Counts, Score, counts_by_person, difference
from inference.submission import Answers, align, read_answers, read_origin
from scripts import tune
from utils.command_line import CommandLine
from utils.device import choose_device
from utils.errors import ConfigError, run_and_exit
from utils.files import write_atomically

PAGE, PAGE_RESULTS = PROJECT / "docs" / "results.md", PROJECT / "docs" / "results.json"
CONFIG = PROJECT / "configs" / "real_faces.json"
RECIPES: dict[str, dict[str, Any]] = {
    "fine-tuned": {"trainer.epochs": 6, "lr_scheduler.args.max_lr": 0.0003},
    "from scratch": {"trainer.epochs": 6, "lr_scheduler.args.max_lr": 0.001},
}
"""Over configs/real_faces.json; chosen on the validation side of one seed, see docs/results.md."""

Predicted = dict[str, np.ndarray]
"""By attribute the class of each test image, (N,) int64."""


@dataclass(frozen=True)
class Variant:
    """What is trained.

    title: in the tables
    backbone: timm's name
    start: "fine-tuned" from ImageNet's weights in <weights>/<backbone>.safetensors, "from scratch", or "probe",
        a linear one on these weights as they are
    compared_with: the variant that its scores are compared with
    steps: of the config's `preparation`
    folds: of the persons, a model each, all of which answer; 0 for one model, which validates on a part
    runs: nothing is trained, and the runs of these variants answer together
    is_tuned: they answer by what scripts.tune learned from their out-of-fold predictions
    """

    title: str
    backbone: str = "mobilenetv2_100"
    start: Literal["fine-tuned", "from scratch", "probe"] = "fine-tuned"
    compared_with: str | None = "mobilenetv2_100"
    steps: tuple[str, ...] = ()
    folds: int = 0
    runs: tuple[str, ...] = ()
    is_tuned: bool = False

    def overrides(self, weights: Path) -> dict[str, Any]:
        """What --set sets."""
        values = {"arch.args.model_name": self.backbone, **RECIPES.get(self.start, {})}
        if self.start != "from scratch":
            values["arch.args.weights_file"] = str(weights / f"{self.backbone}.safetensors")
        steps: dict[str, dict[str, Any]] = {
            "BackgroundRemoval": {"backend": "selfie", "weights_file": str(weights / "selfie_segmentation.tflite")},
            "FaceCrop": {"detector": "mtcnn"},
        }
        if self.steps:
            values["preparation"] = [{"type": name, "args": steps[name]} for name in self.steps]
        if self.folds:
            stratified = {"folds": self.folds, "stratify": ["mask", "gender", "age"]}
            values["split"] = {"type": "KFoldSplit", "args": stratified}
        return values


MOBILENET, LITE0 = "mobilenetv2_100", "tf_efficientnet_lite0"
VARIANTS = {
    MOBILENET: Variant("MobileNetV2, fine-tuned", compared_with=None),
    f"{MOBILENET}_scratch": Variant("MobileNetV2, from scratch", start="from scratch"),
    LITE0: Variant("EfficientNet-Lite0, fine-tuned", LITE0),
    f"{LITE0}_scratch": Variant("EfficientNet-Lite0, from scratch", LITE0, start="from scratch", compared_with=LITE0),
    "face_crop": Variant("MobileNetV2, fine-tuned, face crop", steps=("FaceCrop",)),
    "no_background": Variant("MobileNetV2, fine-tuned, no background", steps=("BackgroundRemoval",)),
    "both": Variant("MobileNetV2, fine-tuned, no background, face crop", steps=("BackgroundRemoval", "FaceCrop")),
    "probe": Variant("MobileNetV2, linear probe", start="probe"),
    "folds": Variant("MobileNetV2, five folds", folds=5),
    "folds_tuned": Variant("MobileNetV2, five folds, tuned", compared_with="folds", runs=("folds",), is_tuned=True),
    f"{LITE0}_folds": Variant("EfficientNet-Lite0, five folds", LITE0, compared_with=LITE0, folds=5),
    "both_folds": Variant("both backbones, five folds each", compared_with="folds", runs=("folds", f"{LITE0}_folds")),
    "both_folds_tuned": Variant(
        "both backbones, five folds each, tuned",
        compared_with="both_folds",
        runs=("folds", f"{LITE0}_folds"),
        is_tuned=True,
    ),
}


COLUMNS = {
    "mask_f1": Column("mask, macro F1", "mask", "macro_f1"),
    "gender_accuracy": Column("gender, accuracy", "gender", "accuracy"),
    "gender_f1": Column("gender, macro F1", "gender", "macro_f1"),
    "age_accuracy": Column("age group, accuracy", "age", "accuracy"),
    "age_f1": Column("age group, macro F1", "age", "macro_f1"),
}


class Results:
    """What the models predicted of the test rows.

    A file has the classes of an attribute as one text, a figure an image, "-" where it is not known.

    persons: (N,), the number of each image's person
    truth: by attribute the true classes, (N,) int64; -1 = unknown
    predicted: by variant and seed, the predicted classes
    """

    def __init__(self, stored: Mapping[str, Any]) -> None:
        self.recipes: dict[str, Any] = stored["recipes"]
        self.persons = np.array(stored["persons"].split(), dtype=np.int64)
        self.truth = {name: _classes(text) for name, text in stored["truth"].items()}
        self.predicted: dict[str, dict[int, Predicted]] = {
            variant: {int(seed): {name: _classes(text) for name, text in each.items()} for seed, each in seeds.items()}
            for variant, seeds in stored["predicted"].items()
        }

    def figure(self, variant: str, column: Column) -> Figure:
        """A variant's score."""
        scores = [column.score(counts) for counts in self._counts(column, self.predicted[variant].values())]
        return Figure([score.value for score in scores], Score.mean(scores).interval())

    def difference(self, variant: str, baseline: str, column: Column) -> Figure:
        """How much a variant's score is above the baseline's, of the seeds that both have."""
        seeds = [seed for seed in self.predicted[variant] if seed in self.predicted[baseline]]
        models = [self.predicted[name][seed] for name in (baseline, variant) for seed in seeds]
        counts = self._counts(column, models)
        first, second = counts[: len(seeds)], counts[len(seeds) :]
        found = difference(first, second, column.kind)
        by_seed = [column.score(b).value - column.score(a).value for a, b in zip(first, second, strict=True)]
        return Figure(by_seed, found.interval, found.is_decided)

    def majority(self, column: Column) -> float:
        """The score of always predicting the class that is most frequent among the test rows."""
        truth = self.truth[column.attribute]
        majority = np.full_like(truth, np.bincount(truth[truth != UNKNOWN]).argmax())
        return column.score(self._counts(column, [{column.attribute: majority}])[0]).value

    def _counts(self, column: Column, models: Iterable[Predicted]) -> list[Counts]:
        name = column.attribute
        return counts_by_person(self.truth[name], [each[name] for each in models], self.persons)

    def as_json(self) -> dict[str, Any]:
        """With the scores, which are worked out anew where the file is read."""
        return {
            "recipes": self.recipes,
            "versions": describe_versions(),
            "persons": " ".join(map(str, self.persons.tolist())),
            "truth": {name: _text(classes) for name, classes in self.truth.items()},
            "majority": {key: self.majority(column) for key, column in COLUMNS.items()},
            "scores": {
                variant: {
                    key: {"seeds": figure.seeds, "interval": figure.interval}
                    for key, figure in ((key, self.figure(variant, column)) for key, column in COLUMNS.items())
                }
                for variant in self.predicted
            },
            "predicted": {
                variant: {
                    str(seed): {name: _text(classes) for name, classes in predicted.items()}
                    for seed, predicted in sorted(seeds.items())
                }
                for variant, seeds in self.predicted.items()
            },
        }

    def tables(self) -> str:
        """The scores, the differences and each seed's own scores, as Markdown."""
        variants = [name for name in VARIANTS if name in self.predicted]
        titles = [column.title for column in COLUMNS.values()]
        lines: list[str] = []

        def table(*header: str) -> None:
            lines.extend(["", f"| {' | '.join(header)} |", "|---" * len(header) + "|"])

        def row(*cells: str) -> None:
            lines.append(f"| {' | '.join(cells)} |")

        table("", "seeds", *titles)
        row("majority class", "", *(f"{self.majority(column):.3f}" for column in COLUMNS.values()))
        for name in variants:
            figures = [self.figure(name, column) for column in COLUMNS.values()]
            row(VARIANTS[name].title, str(len(figures[0].seeds)), *(figure.text() for figure in figures))
        table("difference", "from", *titles)
        for name in variants:
            baseline = VARIANTS[name].compared_with
            if baseline in self.predicted and self.predicted[baseline].keys() & self.predicted[name].keys():
                figures = [self.difference(name, baseline, column) for column in COLUMNS.values()]
                row(VARIANTS[name].title, VARIANTS[baseline].title, *(figure.text("+") for figure in figures))
        seeds = sorted({seed for name in variants for seed in self.predicted[name]})
        table("each seed", "", *(f"seed {seed}" for seed in seeds))
        for name in variants:
            for column in COLUMNS.values():
                scores = dict(zip(self.predicted[name], self.figure(name, column).seeds, strict=True))
                cells = [f"{scores[seed]:.3f}" if seed in scores else "" for seed in seeds]
                row(VARIANTS[name].title, column.title, *cells)
        return "\n".join(lines[1:])


def _classes(text: str) -> np.ndarray:
    return np.array([UNKNOWN if figure == "-" else int(figure) for figure in text], dtype=np.int64)


def _text(classes: np.ndarray) -> str:
    return "".join("-" if number == UNKNOWN else str(number) for number in classes.tolist())


def measure(
    data: Path, weights: Path, output: Path, variants: Sequence[str], seeds: int, progress: Callable[[str], None]
) -> Results:
    """The predictions of the variants with the seeds 1, 2, ...; what is not in `output` yet is trained now.

    progress: takes a line for each model

    Raises ConfigError where `output` holds a measurement of another recipe or other photographs, and whatever train.py
    and test.py raise."""
    file = output / "results.json"
    results = Results(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None
    if results is not None and results.recipes != RECIPES:
        raise ConfigError(f"--output {output} holds results of {results.recipes}, not {RECIPES}: name another")
    output.mkdir(parents=True, exist_ok=True)
    for seed in range(1, seeds + 1):
        for name in variants:
            is_known = results is not None and seed in results.predicted.get(name, {})
            if is_known or (VARIANTS[name].start == "probe" and seed > 1):  # no seed changes a probe
                continue
            progress(f"{name}, seed {seed}")
            persons, truth, predicted = _train_and_answer(name, seed, data, weights, output)
            if results is None:
                results = Results({"recipes": RECIPES, "persons": persons, "truth": truth, "predicted": {}})
            found = results.as_json()
            if (found["persons"], found["truth"]) != (persons, truth):
                raise ConfigError(f"--output {output} holds results of other photographs than --data {data}")
            results.predicted.setdefault(name, {})[seed] = {key: _classes(text) for key, text in predicted.items()}
            write_atomically(file, (json.dumps(results.as_json(), indent=1) + "\n").encode())
    assert results is not None
    return results


def _train_and_answer(
    name: str, seed: int, data: Path, weights: Path, output: Path
) -> tuple[str, dict[str, str], dict[str, str]]:
    """Trains what a variant needs, and answers.

    Returns the persons, the true and the predicted classes of the test rows, as `Results` keeps them."""
    variant, table = VARIANTS[name], data / "labels.csv"
    if variant.start == "probe":
        return _probe(variant, table, weights, output)
    runs = [_train(each, seed, table, weights, output) for each in variant.runs or (name,)]
    answering = ["--resume", *runs, "--checkpoint", "last", "--split", "test"]
    if variant.is_tuned:
        decision = str(output / f"{name}_{seed}.json")
        tune.main([*runs, "--output", decision])
        answering += ["--decision", decision]
    submission = test.main([*answering, "--output", str(output / f"{name}_{seed}.csv")]).submission
    labels = read_origin(submission)
    assert labels is not None
    tested = _sides(table, labels)[1]
    answers: Answers = align(
        read_answers(submission, labels, complete=True), [record.name for record in tested.records], table
    )
    return *_known(tested), {attribute: _text(classes.numpy()) for attribute, classes in answers.classes.items()}


def _train(name: str, seed: int, table: Path, weights: Path, output: Path) -> str:
    """The folder of a variant's run, each model trained to its last epoch, which is the one that answers: none is
    chosen by a validation set."""
    values = {
        "name": f"{name}_{seed}",
        "seed": seed,
        "data.0.args.path": str(table),
        "trainer.save_dir": str(output),
        "trainer.monitor": "off",
        "trainer.save_best": [],
        "trainer.tensorboard": False,
        **VARIANTS[name].overrides(weights),
    }
    trained = train.main(["-c", str(CONFIG), "--resume", "auto", *_as_words(values)])
    assert trained is not None
    return str(trained.folders.models)


def _probe(variant: Variant, table: Path, weights: Path, output: Path) -> tuple[str, dict[str, str], dict[str, str]]:
    """As `_train_and_answer`, without training: of one seed as of another."""
    values = {"data.0.args.path": str(table), "trainer.save_dir": str(output), **variant.overrides(weights)}
    overrides = [parse_override(f"{key}={as_flag(value)}") for key, value in values.items()]
    _, predictors = untrained_models([], CONFIG, overrides, choose_device(None))
    (predictor,) = predictors.values()
    sides = _sides(table, predictor.labels)
    features = [embed([predictor], side.records)[0] for side in sides]
    found = run_probe("linear", sides[0], features[0], sides[1], features[1]).predictions
    attributes = predictor.labels.attribute_probabilities(found.by_head)
    return *_known(sides[1]), {name: _text(table.argmax(dim=1).numpy()) for name, table in attributes.items()}


def _sides(table: Path, labels: LabelSpace) -> tuple[LabelTable, LabelTable]:
    """The rows to train on, and those to test on."""
    records = read_records([AttributeTable(path=str(table), split_column="split")], labels)
    is_tested = np.array([record.part == "test" for record in records.records])
    return records[~is_tested], records[is_tested]


def _known(tested: LabelTable) -> tuple[str, dict[str, str]]:
    """The persons and the true classes of the test rows."""
    _, persons = np.unique([record.person for record in tested.records], return_inverse=True)
    truth = {attribute: _text(classes.numpy()) for attribute, classes in tested.scoring_classes.items()}
    return " ".join(map(str, persons.tolist())), truth


def _as_words(values: Mapping[str, object]) -> list[str]:
    """As --set takes them."""
    return [word for key, value in values.items() for word in ("--set", f"{key}={as_flag(value)}")]


def as_flag(value: object) -> str:
    """A value as --set takes it."""
    return value if isinstance(value, str) else json.dumps(value)


def main(argv: Sequence[str] | None = None) -> None:
    """The command. Raises ConfigError, and whatever training raises."""
    parser = CommandLine(prog="python -m benchmarks.real_faces", description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--data", type=Path, required=True, help="a folder with labels.csv (path,person,mask,gender,age,split)")
    add(
        "--weights",
        type=Path,
        required=True,
        help="a folder with <backbone>.safetensors and selfie_segmentation.tflite",
    )
    add("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), help="what to train (default: all)")
    add("--seeds", type=int, default=5, help="how many times each is trained (default 5)")
    add("--output", type=Path, default=Path("saved/real_faces"), help="for the runs and results.json")
    add("--write-docs", action="store_true", help="puts the tables into docs/results.md, results.json beside it")
    given = parser.parse(argv)
    if given.seeds < 1:
        raise ConfigError(f"--seeds {given.seeds}: must be at least 1")
    results = measure(
        given.data, given.weights, given.output, given.variants, given.seeds, lambda line: print(line, file=sys.stderr)
    )
    print(results.tables())
    if given.write_docs:
        write_atomically(PAGE_RESULTS, (json.dumps(results.as_json(), indent=1) + "\n").encode())
        write_into_readme(PAGE, results.tables())


if __name__ == "__main__":
    run_and_exit(main)
