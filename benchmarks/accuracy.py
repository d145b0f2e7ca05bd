"""Which recipe wins: config.json beside others at an equal number of images shown, with several seeds.

`python -m benchmarks.accuracy drawn` trains on drawn faces from random weights, `python -m benchmarks.accuracy real` on
real faces with drawn masks from ImageNet weights. Each training's answers are kept in <output>/<set>.json as it ends: a
second call resumes where the first one stopped, and prints the table. With `--tuning` it does the same on images that
no table reports on: ideas are chosen there, and compared on the others.
"""

from __future__ import annotations

import csv
import io
import json
import sys
import zlib
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from base.label_space import LabelSpace
from benchmarks.machine import PROJECT
from benchmarks.report import write_into_readme
from benchmarks.trainings import Progress, TestImages, Trainings, predict_joint, train_once
from data_loader.records import Record, read_records
from data_loader.records.sources import AttributeTable, read_evaluation_folder
from data_loader.records.tables import read_table
from experiment.schema import SECTIONS
from inference.submission import align, read_answers
from parse_config import ConfigParser
from scripts.make_demo_data import make_demo_data
from utils.command_line import CommandLine
from utils.errors import ConfigError, run_and_exit
from utils.files import write_atomically

DEFAULT = PROJECT / "config.json"
PAGE, PAGE_RESULTS = PROJECT / "docs" / "accuracy.md", PROJECT / "docs" / "accuracy.json"
KEYS = {
    "drawn_evaluation": "Drawn faces, from random weights",
    "real_evaluation": "Real faces with drawn masks, from ImageNet weights",
    "drawn_tuning": "Tuning: drawn faces",
    "real_tuning": "Tuning: real faces with drawn masks",
}
PEOPLE, NEW_PEOPLE = 150, 200
DRAWN_EPOCHS, REAL_EPOCHS = 12, 3
EVALUATION_SEED, TUNING_SEED = 100_000, 200_000
PICTURES = 2
"""Of each real training face, of the eight that scripts.draw_masks makes: the more, the longer an epoch."""

Config = dict[str, Any]


@dataclass(frozen=True)
class Recipe:
    """How a model is trained.

    title: in the tables
    config: what a config file of it has; the set adds data, sizes, backbone and epochs
    """

    title: str
    config: Config = field(default_factory=dict)


def heads(type_name: str, weights: Mapping[str, Any] | str | None = None, **arguments: Any) -> Config:
    """One loss for all heads, whose weights in the sum are 1; weights: of the classes, by head or a rule for all."""
    by_head = {}
    for name in ("mask", "gender", "age"):
        own = weights.get(name) if isinstance(weights, Mapping) else weights
        by_head[name] = {"type": type_name, "args": {"class_weights": own, **arguments}, "weight": 1.0}
    return {"heads": by_head}


def adam_w(lr: float, **settings: Any) -> Config:
    return {"type": "AdamW", "args": {"lr": lr, "weight_decay": 0.05}, **settings}


def one_cycle(max_lr: float) -> Config:
    return {"type": "OneCycleLR", "args": {"max_lr": max_lr}, "warmup_epochs": 0}


def step_lr(step_size: int) -> Config:
    return {"type": "StepLR", "args": {"step_size": step_size, "gamma": 0.1}, "warmup_epochs": 0}


FIRST_TEAM_WEIGHTS = {
    "mask": [1.4, 7.0, 7.0],
    "gender": [1.6285, 2.5912],
    "age": [2.8723, 3.9589, 4.5075, 14.0625, 14.0625, 28.4211],
}
FIRST_TEAM_SHARES = {"mask": 0.375, "gender": 0.25, "age": 0.375}
SIX_AGES = {"attributes": {"age": {"training_bins": [20, 30, 40, 50, 60]}}}
B1 = {
    "train": [
        {"type": "Resize"},
        {"type": "ShiftScaleRotate", "args": {"shift_limit": 0.1, "scale_limit": 0.1, "rotate_limit": 5, "p": 0.5}},
        {"type": "RandomBrightnessContrast", "args": {"brightness_limit": 0.2, "contrast_limit": 0.2, "p": 0.5}},
        {"type": "HorizontalFlip", "args": {"p": 0.5}},
        {"type": "CoarseDropout", "args": {"p": 0.5}},
        {"type": "Normalize"},
    ],
    "eval": [{"type": "Resize"}, {"type": "Normalize"}],
}


def first_team(loss: str, lr: float, step_size: int, batch_size: int) -> Config:
    """The first team's training, all of it said here: no later config.json changes it."""
    by_head = {
        name: {"type": loss, "args": {"class_weights": FIRST_TEAM_WEIGHTS[name]}, "weight": share}
        for name, share in FIRST_TEAM_SHARES.items()
    }
    return {
        "labels": SIX_AGES,
        "loss": {"heads": by_head},
        "transforms": B1,
        "data_loader": {"args": {"batch_size": batch_size}},
        "optimizer": {"type": "Adam", "args": {"lr": lr, "weight_decay": 0, "amsgrad": True}},
        "lr_scheduler": step_lr(step_size),
    }


def former(changes: Config | None = None) -> Config:
    """config.json as it was until these trainings, all of it said here."""
    weights = {"mask": [1.4, 7.0, 7.0], "gender": [2.5912, 1.6285], "age": [2.1077, 2.2005, 14.0625]}
    by_head = {
        name: {"type": "FocalLoss", "args": {"gamma": 2.0, "class_weights": weights[name]}, "weight": share}
        for name, share in FIRST_TEAM_SHARES.items()
    }
    return {
        "loss": {"heads": by_head},
        "transforms": B1,
        "data_loader": {"args": {"batch_size": 64}},
        "optimizer": {"type": "Adam", "args": {"lr": 0.0001, "weight_decay": 0, "amsgrad": True}},
        "lr_scheduler": step_lr(5),
        **(changes or {}),
    }


def plain(changes: Config | None = None, lr: float = 0.001, batch_size: int = 32) -> Config:
    """AdamW, half a cosine by updates after a warm-up of one epoch, cross entropy without class weights."""
    return {
        "loss": heads("CrossEntropyLoss"),
        "transforms": B1,
        "data_loader": {"args": {"batch_size": batch_size}},
        "optimizer": adam_w(lr),
        "lr_scheduler": {"type": "CosineAnnealingLR", "interval": "step", "warmup_epochs": 1},
        **(changes or {}),
    }


def cycle(changes: Config | None = None, lr: float = 0.001, batch_size: int = 32) -> Config:
    return plain({"lr_scheduler": one_cycle(lr), **(changes or {})}, lr, batch_size)


EMA = {"weight_averaging": {"type": "ExponentialMovingAverage", "args": {"decay": 0.99}}}
SQRT = {"loss": heads("CrossEntropyLoss", "sqrt")}
MIX_UP = {"mixing": [{"type": "MixUp", "args": {"alpha": 0.2, "batch_share": 0.5}}]}

RECIPES = {
    "former": Recipe("config.json until now", former()),
    "first_team": Recipe("first team, published config", first_team("FocalLoss", 1e-4, 5, 16)),
    "first_team_code": Recipe("first team, repository's code", first_team("CrossEntropyLoss", 1e-3, 50, 32)),
    "plain": Recipe("plain: AdamW 1e-3, cosine, cross entropy", plain()),
}

CANDIDATES = {
    **RECIPES,
    "former_lr": Recipe(
        "until now, Adam 1e-3", former({"optimizer": {"type": "Adam", "args": {"lr": 1e-3, "amsgrad": True}}})
    ),
    "former_constant": Recipe(
        "until now, constant rate",
        former({"lr_scheduler": step_lr(50)}),
    ),
    "former_batch": Recipe("until now, batches of 16", former({"data_loader": {"args": {"batch_size": 16}}})),
    "plain_3e-3": Recipe("plain, 3e-3", plain(lr=0.003)),
    "plain_3e-4": Recipe("plain, 3e-4", plain(lr=0.0003)),
    "cycle_3e-3": Recipe("plain, OneCycle 3e-3", cycle(lr=0.003)),
    "sqrt_2e-3": Recipe("plain, 2e-3, square-root weights", plain(SQRT, 0.002)),
    "sqrt_layers": Recipe(
        "plain, 3e-3, square-root weights, layer-wise rates",
        plain({**SQRT, "optimizer": adam_w(0.003, layer_decay=0.75, decay_norms_and_biases=False)}),
    ),
    "sqrt_b16": Recipe("plain, batches of 16, square-root weights", plain(SQRT, batch_size=16)),
    "balanced": Recipe("plain, 2e-3, balanced weights", plain({"loss": heads("CrossEntropyLoss", "balanced")}, 0.002)),
    "focal": Recipe(
        "plain, 2e-3, square-root weights, focal loss", plain({"loss": heads("FocalLoss", "sqrt", gamma=2.0)}, 0.002)
    ),
    "smooth": Recipe(
        "plain, 2e-3, square-root weights, label smoothing",
        plain({"loss": heads("LabelSmoothingLoss", "sqrt", smoothing=0.1)}, 0.002),
    ),
    "ema": Recipe("plain, 2e-3, square-root weights, EMA", plain({**SQRT, **EMA}, 0.002)),
    "six": Recipe("plain, 2e-3, square-root weights, six ages", plain({**SQRT, "labels": SIX_AGES}, 0.002)),
    "mixup": Recipe("plain, 2e-3, square-root weights, MixUp", plain({**SQRT, **MIX_UP}, 0.002)),
}
"""What was tried on the images for tuning."""

TITLES = {
    "default": "config.json",
    **{name: recipe.title for name, recipe in CANDIDATES.items()},
    "b4": "b4 team's pictures, training as config.json's until now",
}


def b4(height: int, width: int) -> Config:
    """The b4 team's pictures, in as many pixels: of 512 x 384 the middle 400 x 200; with the training of that time."""
    scale = (height * width / (400 * 200)) ** 0.5
    crop = [round(400 * scale), round(200 * scale)]
    whole = [{"type": "Resize", "args": {"height": round(512 * scale), "width": round(384 * scale)}}]
    light = {"type": "RandomBrightnessContrast", "args": {"brightness_limit": 0.1, "contrast_limit": 0.1, "p": 0.5}}
    normalise = {"type": "Normalize", "args": {"mean": [0.548, 0.504, 0.479], "std": [0.237, 0.247, 0.246]}}
    return former(
        {
            "transforms": {
                "train": [*whole, {"type": "CenterCrop"}, light, normalise],
                "eval": [*whole, {"type": "CenterCrop"}, normalise],
            },
            "data_loader": {"args": {"batch_size": 64, "input_size": crop}},
        }
    )


@dataclass(frozen=True)
class FaceSet:
    """Images to train on and images to answer.

    config: laid over a recipe's: data, sizes, backbone and epochs
    records: what is answered, (N,)
    """

    config: Config
    records: list[Record]
    images: TestImages


def labels_of_the_default() -> LabelSpace:
    labels: LabelSpace = ConfigParser.from_file(DEFAULT, SECTIONS).build("labels")
    return labels


def common(output: Path, size: list[int], batch: int = 128) -> Config:
    return {
        "n_gpu": 0,
        "split": {"type": "NoSplit"},
        "data_loader": {"args": {"input_size": size, "valid_batch_size": batch, "num_workers": 0}},
        "trainer": {
            "monitor": "off",
            "save_best": [],
            "early_stop": 0,
            "precision": "float32",
            "verbosity": 0,
            "tensorboard": False,
            "save_dir": str(output),
        },
        "submit_dir": str(output / "submit"),
    }


def drawn_faces(output: Path, seed: int, tuning: bool) -> FaceSet:
    """Drawn faces from random weights: each seed has its own people to train on, all answer the same new people."""
    people = output / f"people_{seed + TUNING_SEED if tuning else seed}"
    make_demo_data(people, PEOPLE, 1, seed + TUNING_SEED if tuning else seed, workers=1)
    new = output / f"new_people_{'tuning' if tuning else 'evaluation'}"
    make_demo_data(new, 1, NEW_PEOPLE, EVALUATION_SEED + tuning, workers=1)
    config = common(output, [64, 48])
    config["data"] = [{"type": "CompetitionFolder", "args": {"root": str(people / "train")}}]
    config["arch"] = {"args": {"model_name": "test_efficientnet", "pretrained": False}}
    config["trainer"]["epochs"] = DRAWN_EPOCHS
    config["info_dir"] = str(new / "eval")
    labels = labels_of_the_default()
    records = read_evaluation_folder(new / "eval")
    answers = align(read_answers(new / "eval_answers.csv", labels), [record.name for record in records], new)
    assert answers.joint is not None
    assert answers.persons is not None
    return FaceSet(config, records, TestImages.of(labels, answers.persons, answers.joint))


def real_faces(output: Path, tuning: bool, drawn: Path, weights: Path) -> FaceSet:
    """Real faces with drawn masks, from ImageNet weights: the table's test persons answer, or with `tuning` a quarter
    of its training persons, which do not train then."""
    table = output / f"{'tuning' if tuning else 'evaluation'}.csv"
    write_part(drawn, table, tuning)
    config = common(output, [96, 96])
    config["data"] = [
        {"type": "AttributeTable", "args": {"path": str(table), "root": str(drawn), "split_column": "split"}}
    ]
    config["arch"] = {
        "args": {"model_name": "mobilenetv2_100", "pretrained": False, "weights_file": str(weights)},
    }
    config["trainer"]["epochs"] = REAL_EPOCHS
    config["info_dir"] = None
    labels = labels_of_the_default()
    read = read_records([AttributeTable(str(table), root=str(drawn), split_column="split")], labels)
    tested = read[np.array([number for number, record in enumerate(read.records) if record.part == "test"])]
    joint = labels.joint_classes(tested.scoring_classes)
    persons = [record.person for record in tested.records]
    return FaceSet(config, list(tested.records), TestImages.of(labels, persons, joint))


def write_part(drawn: Path, path: Path, tuning: bool) -> None:
    """Of the drawn table the test rows, and of each training person `PICTURES` of the eight pictures; with `tuning`
    a quarter of the training persons as test rows in place of those."""
    rows = [cells for _, cells in read_table(drawn / "labels.csv", ["path", "person", "split"])]
    kept = []
    for person in sorted({row["person"] for row in rows}):
        own = [row for row in rows if row["person"] == person]
        is_test = own[0]["split"] == "test"
        if tuning and is_test:
            continue
        if tuning:
            is_test = zlib.crc32(person.encode()) % 4 == 0
        if not is_test:
            own = sorted(own, key=lambda row: zlib.crc32(row["path"].encode()))[:PICTURES]
        kept += [{**row, "split": "test" if is_test else "train"} for row in own]
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(kept)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.getvalue().encode())


def recipe_named(name: str, size_hw: Sequence[int]) -> Recipe:
    """size_hw: of the set's images"""
    if name == "default":
        return Recipe(TITLES[name], recipe_of(DEFAULT))
    return Recipe(TITLES[name], b4(*size_hw)) if name == "b4" else CANDIDATES[name]


def recipe_of(file: Path) -> Config:
    """What a config file says of training: the rest is the sets'."""
    config = ConfigParser.from_file(file, SECTIONS)
    keys = ("labels", "loss", "transforms", "optimizer", "lr_scheduler", "weight_averaging", "mixing")
    found = {key: config.short[key] for key in keys if key in config.short}
    return {**found, "data_loader": {"args": {"batch_size": config["data_loader"]["args"]["batch_size"]}}}


def train_and_predict(name: str, recipe: Recipe, seed: int, faces: FaceSet, folder: Path) -> np.ndarray:
    """Trains one model to its last epoch, which answers: none is chosen by a score."""
    files = {"recipe": {"extends": str(DEFAULT), **recipe.config}, "set": faces.config}
    sized = recipe.config.get("data_loader", {}).get("args", {}).get("input_size")
    if sized:
        arguments = {**faces.config["data_loader"]["args"], "input_size": sized}
        files["set"] = {**faces.config, "data_loader": {"args": arguments}}
    for part, config in files.items():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / f"{name}_{seed}_{part}.json", json.dumps(config, indent=4).encode())
    extends = [str(folder / f"{name}_{seed}_{part}.json") for part in files]
    run = train_once({"extends": extends, "name": f"{name}_{seed}", "seed": seed}, folder / f"{name}_{seed}.json")
    return predict_joint(run, faces.records)


def measure(given: Namespace, progress: Progress) -> Trainings:
    """The trainings that the command line asks for; those that are not in `output` yet are done now."""
    file = given.output / f"{key_of(given)}.json"
    trainings: Trainings | None = None
    for seed in range(1, given.seeds + 1):
        if given.set == "real":
            faces = real_faces(given.output, given.tuning, given.drawn, given.weights_file)
        else:
            faces = drawn_faces(given.output, seed, given.tuning)
        trainings = trainings or Trainings.open(file, faces.images)
        for name in given.recipes:
            recipe = recipe_named(name, faces.config["data_loader"]["args"]["input_size"])
            if not trainings.has(name, seed, recipe.config):
                progress(f"{key_of(given)}: {name}, seed {seed}")
                joint = train_and_predict(name, recipe, seed, faces, file.with_suffix(""))
                trainings.keep(file, name, seed, recipe.config, joint)
    assert trainings is not None
    return trainings


def key_of(given: Namespace) -> str:
    return f"{given.set}_{'tuning' if given.tuning else 'evaluation'}"


def tables(stored: Mapping[str, Any]) -> str:
    """All of docs/accuracy.md, of what docs/accuracy.json holds: by set and side the trainings."""
    labels, parts = labels_of_the_default(), []
    for key, title in KEYS.items():
        if key in stored:
            baseline = None if key.endswith("tuning") else "default"
            parts.append(f"### {title}\n\n{Trainings.from_json(stored[key], labels).tables(TITLES, baseline)}")
    return "\n\n".join(parts)


def main(argv: Sequence[str] | None = None) -> None:
    """The command. Raises ConfigError, and whatever training raises."""
    parser = CommandLine(prog="python -m benchmarks.accuracy", description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("set", choices=("drawn", "real"), help="drawn faces from random weights, or real faces from ImageNet weights")
    add("--tuning", action="store_true", help="on the images that ideas are chosen on")
    add("--recipes", nargs="+", choices=list(TITLES), help="(default: those of the table; with --tuning all others)")
    add("--seeds", type=int, default=3, help="how many times each is trained (default 3)")
    add("--drawn", type=Path, help="for real: what scripts.draw_masks made of a table with a split")
    add("--weights-file", type=Path, help="for real: ImageNet weights of mobilenetv2_100")
    add("--output", type=Path, default=Path("saved/accuracy"), help="for the images, the runs and what they predicted")
    add("--write-docs", action="store_true", help="puts the tables into docs/accuracy.md, accuracy.json beside it")
    given = parser.parse(argv)
    if given.seeds < 1:
        raise ConfigError(f"--seeds {given.seeds}: must be at least 1")
    for flag, value in (("--drawn", given.drawn), ("--weights-file", given.weights_file)):
        if given.set == "real" and (value is None or not value.exists()):
            raise ConfigError(f"{flag} {value}: of real faces it must be given, and be there")
    given.recipes = given.recipes or (list(CANDIDATES) if given.tuning else ["default", *RECIPES, "b4"])
    trainings = measure(given, lambda line: print(line, file=sys.stderr, flush=True))
    print(trainings.tables(TITLES, given.recipes[0]))
    if given.write_docs:
        stored = json.loads(PAGE_RESULTS.read_text(encoding="utf-8")) if PAGE_RESULTS.exists() else {}
        stored[key_of(given)] = trainings.as_json()
        write_atomically(PAGE_RESULTS, (json.dumps(stored, indent=1) + "\n").encode())
        write_into_readme(PAGE, tables(stored))


if __name__ == "__main__":
    run_and_exit(main)
