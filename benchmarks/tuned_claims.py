"""What scripts.tune claims against what comes true: on drawn faces with wrong labels and a rare class, with many seeds.

`python -m benchmarks.tuned_claims --seeds 10` trains three folds for each seed, tunes on their out-of-fold predictions,
and answers new people with the arg max and with the tuned decision. What each seed came to is kept in
<output>/tuned_claims.json: a second call resumes where the first one stopped, and prints the table of docs/scores.md.
"""

from __future__ import annotations

import csv
import io
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from base.label_space import LabelSpace
from benchmarks.accuracy import DEFAULT, EVALUATION_SEED, NEW_PEOPLE, common, cycle, labels_of_the_default
from benchmarks.trainings import train_once
from data_loader.records.sources import read_evaluation_folder
from inference.inputs import folds_with_checkpoints
from inference.predictor import Predictor, find_checkpoint, predict
from inference.run_predictions import RunPredictions
from inference.scoring.evaluation import JOINT
from inference.scoring.intervals import Counts, Interval, Score, counts_by_person
from inference.submission import align, read_answers
from inference.tuning.decision import Arrays, Decision, Pool
from inference.tuning.nested import Tuning, TuningResult
from scripts.make_demo_data import make_demo_data
from utils.command_line import CommandLine
from utils.errors import ConfigError, run_and_exit
from utils.files import write_atomically
from utils.random_streams import numpy_stream

PEOPLE, FOLDS = 100, 3
WRONG = {"mask": 0.05, "gender": 0.05, "age": 0.1}
"""How many labels are replaced by another class: of the mask by photograph, of gender and age by person. Among new
people as among those trained on: the estimate is of the score on labels like its own."""
WITHOUT_INCORRECT = 0.5
"""How many people have no photograph of a mask worn wrongly."""
AGES = {"<30": 25, "30-59": 45, ">=60": 60}


@dataclass(frozen=True)
class Seed:
    """What one seed came to, in macro F1 of the 18 classes.

    claimed, claimed_gain: the nested estimate, and how far it is above the arg max; each with its interval
    steps: what tuning chose
    single, single_argmax: of new people, the mean of the folds' models, each with the decision, and with the arg max
    averaged, averaged_argmax: the same of the folds' mean probabilities, which test.py answers with
    """

    claimed: float
    claimed_interval: Interval
    claimed_gain: float
    gain_interval: Interval
    steps: list[str]
    single: float
    single_argmax: float
    averaged: float
    averaged_argmax: float


def another(stream: np.random.Generator, classes: Sequence[str], value: str) -> str:
    return str(stream.choice([each for each in classes if each != value]))


def made_harder(
    values: dict[str, str], person: str, image: str, seed: int, labels: LabelSpace
) -> dict[str, str] | None:
    """The labels as the table has them, some of them wrong; None for a photograph that is left out."""
    of_person, of_image = numpy_stream(seed, f"person {person}"), numpy_stream(seed, f"image {image}")
    if of_person.random() < WITHOUT_INCORRECT and values["mask"] == "incorrect":
        return None
    found = dict(values)
    for name, stream in (("gender", of_person), ("age", of_person), ("mask", of_image)):
        if stream.random() < WRONG[name]:
            found[name] = another(stream, labels.attributes[name].class_names, values[name])
    return found


def write_training_table(drawn: Path, path: Path, seed: int, labels: LabelSpace) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "person", "mask", "gender", "age"])
    for file in sorted((drawn / "train" / "images").glob("*/*")):
        number, gender, _, age = file.parent.name.split("_")
        mask = {"incorrect_mask": "incorrect", "normal": "not_wear"}.get(file.stem, "wear")
        age_class = labels.attributes["age"].class_names[labels.attributes["age"].scoring_class(int(age))]
        values = {"mask": mask, "gender": gender, "age": age_class}
        name = f"{file.parent.name}/{file.name}"
        if found := made_harder(values, number, name, seed, labels):
            writer.writerow([name, number, found["mask"], found["gender"], AGES[found["age"]]])
    write_atomically(path, text.getvalue().encode())


def new_people(folder: Path, labels: LabelSpace) -> tuple[list[Any], np.ndarray, np.ndarray]:
    """The images that are answered, their persons and joint classes as the labels have them."""
    make_demo_data(folder, 1, NEW_PEOPLE, EVALUATION_SEED, workers=1)
    records = read_evaluation_folder(folder / "eval")
    answers = align(read_answers(folder / "eval_answers.csv", labels), [each.name for each in records], folder)
    assert answers.joint is not None
    assert answers.persons is not None
    names = {name: labels.attributes[name].class_names for name in WRONG}
    by_attribute = labels.attribute_classes(answers.joint)
    kept, persons, joint = [], [], []
    for place, record in enumerate(records):
        values = {name: names[name][int(by_attribute[name][place])] for name in names}
        person = answers.persons[place]
        if found := made_harder(values, person, record.name, EVALUATION_SEED, labels):
            classes = {name: torch.tensor([names[name].index(found[name])]) for name in names}
            kept.append(record)
            persons.append(person)
            joint.append(int(labels.joint_classes(classes)[0]))
    return kept, np.unique(persons, return_inverse=True)[1], np.array(joint)


def measure_seed(output: Path, seed: int) -> Seed:
    """Draws and trains; a run that was stopped is resumed."""
    labels = labels_of_the_default()
    drawn, table = output / f"claims_{seed}", output / f"claims_{seed}.csv"
    make_demo_data(drawn, PEOPLE, 1, seed, workers=1)
    write_training_table(drawn, table, seed, labels)
    records, persons, truth = new_people(output / "new_people_evaluation", labels)
    size = common(output, [48, 36])
    config = {"extends": str(DEFAULT), **cycle(lr=0.003), "name": f"claims_{seed}", "seed": seed}
    for key in ("n_gpu", "trainer", "submit_dir"):
        config[key] = size[key]
    config["data_loader"] = {"args": {**size["data_loader"]["args"], "batch_size": 16}}
    config["trainer"] = {**size["trainer"], "epochs": 8}
    config["arch"] = {"args": {"model_name": "test_efficientnet", "pretrained": False}}
    config["data"] = [{"type": "AttributeTable", "args": {"path": str(table), "root": str(drawn / "train" / "images")}}]
    config["split"] = {"type": "KFoldSplit", "args": {"folds": FOLDS, "stratify": ["gender", "age"], "seed": seed}}
    config["info_dir"] = None
    run = train_once(config, output / f"claims_{seed}.json")
    result = Tuning([RunPredictions.read(run.models)]).run()
    checkpoints = [find_checkpoint(folder, "last") for folder in folds_with_checkpoints(run.models).values()]
    predicted = predict([Predictor.from_checkpoint(each) for each in checkpoints], records)
    by_head: list[Arrays] = [{key: each.double().numpy() for key, each in model.by_head.items()} for model in predicted]
    mean = {key: np.mean([each[key] for each in by_head], axis=0) for key in by_head[0]}
    models = [*by_head, mean]
    decided = [decide(result.decision(), each, labels) for each in models]
    plain = [Pool([labels]).combine([each], [1.0], None)[0][JOINT].argmax(axis=1) for each in models]
    scores = [Score.macro_f1(each).value for each in counts_by_person(truth, [*decided, *plain], persons)]
    return Seed(
        *nested_estimate(result),
        result.gain.value,
        result.gain.interval,
        result.chosen.steps,
        statistics.fmean(scores[:FOLDS]),
        statistics.fmean(scores[FOLDS + 1 : -1]),
        scores[FOLDS],
        scores[-1],
    )


def decide(decision: Decision, by_head: Arrays, labels: LabelSpace) -> np.ndarray:
    """The joint classes that a decision on one run gives, (N,)."""
    targets, _ = Pool([labels]).combine([by_head], [1.0], decision.calibration)
    return decision.decide(targets)[JOINT]


def nested_estimate(result: TuningResult) -> tuple[float, Interval]:
    counts: list[Counts] = result.nested
    score = Score.mean([Score.macro_f1(each) for each in counts])
    return score.value, score.interval()


def lines(seeds: Sequence[Seed]) -> str:
    """What came out, as Markdown."""

    def covered(values: Sequence[float], intervals: Sequence[Interval]) -> str:
        inside = sum(low <= value <= high for value, (low, high) in zip(values, intervals, strict=True))
        return f"{inside} of {len(values)}"

    def row(
        title: str, claimed: Sequence[float], true: Sequence[float], intervals: Sequence[Interval], sign: str
    ) -> str:
        off = [value - claim for value, claim in zip(true, claimed, strict=True)]
        cells = [f"{statistics.fmean(claimed):{sign}.3f}", f"{statistics.fmean(true):{sign}.3f}"]
        spread = f" ± {statistics.stdev(off):.3f}" if len(off) > 1 else ""
        return f"| {title} | {' | '.join(cells)} | {statistics.fmean(off):+.3f}{spread} | {covered(true, intervals)} |"

    claimed, intervals = [each.claimed for each in seeds], [each.claimed_interval for each in seeds]
    gains, of_gains = [each.claimed_gain for each in seeds], [each.gain_interval for each in seeds]
    single = [each.single - each.single_argmax for each in seeds]
    averaged = [each.averaged - each.averaged_argmax for each in seeds]
    return "\n".join(
        [
            f"| {len(seeds)} seeds, macro F1 | claimed | came true | more than claimed | interval holds it |",
            "|---|---|---|---|---|",
            row("score, one fold's model", claimed, [each.single for each in seeds], intervals, ""),
            row("score, the folds averaged", claimed, [each.averaged for each in seeds], intervals, ""),
            row("gain over the arg max, one fold's model", gains, single, of_gains, "+"),
            row("gain over the arg max, the folds averaged", gains, averaged, of_gains, "+"),
        ]
    )


def measure(output: Path, seeds: int) -> list[Seed]:
    """What the seeds 1, 2, ... came to; those that are not in `output` yet are measured now."""
    output.mkdir(parents=True, exist_ok=True)
    file = output / "tuned_claims.json"
    kept: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    for seed in range(1, seeds + 1):
        if str(seed) not in kept:
            print(f"seed {seed}", file=sys.stderr, flush=True)
            kept[str(seed)] = asdict(measure_seed(output, seed))
            write_atomically(file, (json.dumps(kept, indent=1) + "\n").encode())
    return [Seed(**kept[str(seed)]) for seed in range(1, seeds + 1)]


def main(argv: Sequence[str] | None = None) -> None:
    """The command. Raises ConfigError, and whatever training raises."""
    parser = CommandLine(prog="python -m benchmarks.tuned_claims", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=10, help="how many times all is drawn and trained (default 10)")
    parser.add_argument(
        "--output", type=Path, default=Path("saved/accuracy"), help="for the runs and tuned_claims.json"
    )
    given = parser.parse(argv)
    if given.seeds < 1:
        raise ConfigError(f"--seeds {given.seeds}: must be at least 1")
    print(lines(measure(given.output, given.seeds)))


if __name__ == "__main__":
    run_and_exit(main)
