"""Three effects that teams of the mask competition reported, looked for on drawn faces with several seeds.

`python -m benchmarks.effects --seeds 5` trains seven small models a seed on the CPU and prints the tables of
docs/effects.md; every seed draws people of its own. What is done stays in <output>/results.json, and a second call goes
on where the first one stopped.

inflation: validation F1 less the F1 on people nobody trained on, for a split by person and for one by image
folds:     each of five folds' models on those new people, against their probabilities averaged
heads:     one head an attribute against one head of all 18 classes, on the new people
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

import train
from base.label_space import LabelSpace
from base.metrics import ConfusionCounts
from data_loader.records.sources import read_evaluation_folder
from inference.predictor import Predictor, Probabilities, find_checkpoint, predict
from inference.submission import align, read_answers
from logger.json_lines_tracker import read_metrics
from model.metric import accuracy, f1
from scripts.make_demo_data import make_demo_data
from utils.command_line import CommandLine
from utils.errors import ConfigError, run_and_exit
from utils.files import write_atomically
from utils.run_folders import RunFolders

DEMO_CONFIG = Path(__file__).parents[1] / "configs" / "demo.json"
PEOPLE, NEW_PEOPLE, FOLDS = 120, 200, 5
IMAGE_HW = [64, 48]
SETTINGS = {"people": PEOPLE, "new_people": NEW_PEOPLE, "folds": FOLDS, "image_hw": IMAGE_HW, "version": 1}

ATTRIBUTES = ("mask", "gender", "age")
SINGLE_FOLDS = tuple(f"fold_{fold}" for fold in range(FOLDS))
PERSON = SINGLE_FOLDS[2]  # its people are those that PersonSplit takes for a validation_share of 1 / FOLDS
IMAGE, ONE_HEAD, AVERAGE = "image", "one_head", "average"
SCORES = {"f1": "18 classes, macro F1", "accuracy": "18 classes, accuracy"} | {
    f"{name}_f1": f"{name}, macro F1" for name in ATTRIBUTES
}

CROSS_ENTROPY = {"type": "CrossEntropyLoss", "weight": 1.0}
# With equal weights the sum over the three heads is the negative log likelihood of the combined class, the attributes
# being independent given the image; the 18-way head's is the same without that assumption. Nothing else differs.
THREE_HEADS: dict[str, Any] = {"loss": {"heads": dict.fromkeys(ATTRIBUTES, CROSS_ENTROPY)}}
ONE_18_WAY_HEAD: dict[str, Any] = {
    "labels": {"heads": {"all": list(ATTRIBUTES)}},
    "loss": {"heads": {**dict.fromkeys(ATTRIBUTES), "all": CROSS_ENTROPY}},
}
BY_PERSON = [
    {"type": "KFoldSplit", "args": {"folds": FOLDS, "fold": fold, "stratify": ["gender", "age"], "seed": None}}
    for fold in range(FOLDS)
]
BY_IMAGE = {
    "type": "ImageSplit",
    "args": {"validation_share": 1 / FOLDS, "seed": None},
}  # as many to train on as a fold
MODELS: dict[str, dict[str, Any]] = {
    **{name: {"split": split, **THREE_HEADS} for name, split in zip(SINGLE_FOLDS, BY_PERSON, strict=True)},
    IMAGE: {"split": BY_IMAGE, **THREE_HEADS},
    ONE_HEAD: {"split": BY_PERSON[SINGLE_FOLDS.index(PERSON)], **ONE_18_WAY_HEAD},
}

Scores = dict[str, float]
"""By the names of SCORES."""


@dataclass
class SeedScores:
    """One seed's scores by model: on its own validation images, and on the new people (there with the average, too)."""

    validation: dict[str, Scores]
    new_people: dict[str, Scores]


def measure_seed(folder: Path, seed: int, progress: tqdm[Any]) -> SeedScores:
    """Draws the people of a seed, trains all its models on them, and scores them. A stopped call is taken up again.

    The seed decides on the people, the split, the first weights, the order and the augmentation."""
    make_demo_data(folder / "data", PEOPLE, NEW_PEOPLE, seed, workers=1)
    validation, predictors = {}, {}
    for name, changes in MODELS.items():
        run = _train(folder, seed, name, changes)
        validation[name] = {score: read_metrics(run.log)[-1][f"val/{score}"] for score in SCORES}
        predictors[name] = Predictor.from_checkpoint(find_checkpoint(run.models, "last"))
        progress.update()
    labels = predictors[PERSON].labels
    records = read_evaluation_folder(folder / "data" / "eval")
    truth_file = folder / "data" / "eval_answers.csv"
    truth = align(read_answers(truth_file, labels), [record.name for record in records], folder / "data" / "eval").joint
    assert truth is not None
    predicted = dict(zip(predictors, predict(list(predictors.values()), records), strict=True))
    predicted[AVERAGE] = Probabilities.combined([predicted[name] for name in SINGLE_FOLDS], _mean)
    return SeedScores(validation, {name: _scores(labels, each, truth) for name, each in predicted.items()})


def _mean(tensors: list[Tensor]) -> Tensor:
    return torch.stack(tensors).mean(dim=0)


def _train(folder: Path, seed: int, name: str, changes: Mapping[str, Any]) -> RunFolders:
    """One model, trained to its last epoch, which is the one that is scored: no epoch is chosen by a validation set."""
    config = {
        "extends": str(DEMO_CONFIG),
        "name": name,
        "seed": seed,
        "data": [{"type": "CompetitionFolder", "args": {"root": str(folder / "data" / "train")}}],
        "data_loader": {"args": {"input_size": IMAGE_HW, "num_workers": 0}},
        "trainer": {
            "monitor": "off",
            "save_best": [],
            "save_dir": str(folder / "saved"),
            "verbosity": 0,
            "tensorboard": False,
        },
        "info_dir": str(folder / "data" / "eval"),
        **changes,
    }
    path = folder / f"{name}.json"
    write_atomically(path, json.dumps(config, indent=4).encode())
    result = train.main(["-c", str(path), "--resume", "auto"])
    assert result is not None
    return result.folders


def _scores(labels: LabelSpace, predicted: Probabilities, truth: Tensor) -> Scores:
    """truth: the joint class of each image, (N,)."""
    assert predicted.joint is not None
    joint = _confusion(truth, predicted.joint)
    classes = labels.attribute_classes(truth)
    scores = {"f1": f1(joint), "accuracy": accuracy(joint)}
    return scores | {f"{name}_f1": f1(_confusion(classes[name], predicted.by_attribute[name])) for name in ATTRIBUTES}


def _confusion(truth: Tensor, probabilities: Tensor) -> Tensor:
    counts = ConfusionCounts(probabilities.shape[1])
    counts.update(truth, probabilities.argmax(dim=1))
    return counts.matrix


def inflation(seed: SeedScores, model: str, score: str) -> float:
    """By how much a model's validation score is above its score on new people."""
    return seed.validation[model][score] - seed.new_people[model][score]


def mean_of_folds(seed: SeedScores, score: str) -> float:
    """What one fold's model has on the new people, the mean over the folds."""
    return statistics.fmean(seed.new_people[name][score] for name in SINGLE_FOLDS)


def compare(title: str, first: Sequence[float], second: Sequence[float]) -> str:
    """A row of a table: both sides, and second - first seed by seed, mean ± standard deviation over the seeds."""
    differences = [after - before for before, after in zip(first, second, strict=True)]
    positive = sum(difference > 0 for difference in differences)
    cells = [title, _spread(first), _spread(second), _spread(differences, "+"), f"{positive} of {len(differences)}"]
    return f"| {' | '.join(cells)} |"


def _spread(values: Sequence[float], sign: str = "") -> str:
    deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):{sign}.3f}{deviation}"


def tables(seeds: Sequence[SeedScores]) -> str:
    """The three effects, and each seed's own numbers, as Markdown."""

    def new(model: str, score: str) -> list[float]:
        return [seed.new_people[model][score] for seed in seeds]

    def inflations(model: str, score: str) -> list[float]:
        return [inflation(seed, model, score) for seed in seeds]

    def singles(score: str) -> list[float]:
        return [mean_of_folds(seed, score) for seed in seeds]

    lines: list[str] = []

    def table(*header: str) -> None:
        lines.extend(["", f"| {' | '.join(header)} |", "|---" * len(header) + "|"])

    table("validation less new people", "split by person", "split by image", "difference", "above 0")
    lines += [compare(text, inflations(PERSON, score), inflations(IMAGE, score)) for score, text in SCORES.items()]
    table("on new people", "split by person", "split by image", "difference", "above 0")
    lines += [compare(text, new(PERSON, score), new(IMAGE, score)) for score, text in SCORES.items()]
    table("on new people", "one fold (mean of five)", "five folds averaged", "difference", "above 0")
    lines += [compare(text, singles(score), new(AVERAGE, score)) for score, text in SCORES.items()]
    table("on new people", "one 18-way head", "three heads", "difference", "above 0")
    lines += [compare(text, new(ONE_HEAD, score), new(PERSON, score)) for score, text in SCORES.items()]
    table("18 classes, macro F1", *(f"seed {number}" for number in range(1, len(seeds) + 1)))
    for model in MODELS:
        lines.append(_row(f"{model}, validation", [seed.validation[model]["f1"] for seed in seeds]))
    for model in (*MODELS, AVERAGE):
        lines.append(_row(f"{model}, new people", new(model, "f1")))
    return "\n".join(lines[1:])


def _row(title: str, values: Sequence[float]) -> str:
    return f"| {title} | {' | '.join(f'{value:.3f}' for value in values)} |"


def measure(output: Path, seeds: int) -> list[SeedScores]:
    """The scores of the seeds 1, 2, ..., those that are not in `output` yet measured now.

    Raises ConfigError where `output` holds a measurement of other sizes."""
    file = output / "results.json"
    stored: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"settings": SETTINGS, "seeds": {}}
    if stored["settings"] != SETTINGS:
        raise ConfigError(f"--output {output} holds results of {stored['settings']}, not {SETTINGS}: name another")
    missing = [seed for seed in range(1, seeds + 1) if str(seed) not in stored["seeds"]]
    with tqdm(total=len(missing) * len(MODELS), unit="model", disable=not sys.stderr.isatty()) as progress:
        for seed in missing:
            folder = output / f"seed_{seed}"
            folder.mkdir(parents=True, exist_ok=True)
            stored["seeds"][str(seed)] = vars(measure_seed(folder, seed, progress))
            write_atomically(file, (json.dumps(stored, indent=4) + "\n").encode())
            shutil.rmtree(folder)  # half a gigabyte; all of it comes again from the seed
    return [SeedScores(**stored["seeds"][str(seed)]) for seed in range(1, seeds + 1)]


def main(argv: Sequence[str] | None = None) -> None:
    """The command. Raises ConfigError, and whatever training raises."""
    parser = CommandLine(prog="python -m benchmarks.effects", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5, help="how many times all is drawn and trained (default 5)")
    parser.add_argument("--output", type=Path, default=Path("saved/effects"), help="where results.json is kept")
    given = parser.parse(argv)
    if given.seeds < 1:
        raise ConfigError(f"--seeds {given.seeds}: must be at least 1")
    print(tables(measure(given.output, given.seeds)))


if __name__ == "__main__":
    run_and_exit(main)
