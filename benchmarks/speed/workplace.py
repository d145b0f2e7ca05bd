"""What the rows work with: drawn photographs, configs that extend config.json, and the objects that train.py builds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch

from base.base_model import BaseModel
from base.label_space import LabelSpace
from benchmarks.machine import PROJECT
from data_loader.data_loaders import AttributeDataLoader
from data_loader.records import LabelTable, Record
from data_loader.splits import Split
from experiment.builders import build_data_loader, build_model, read_label_table
from experiment.checks import cross_checks
from experiment.schema import SECTIONS
from parse_config import ConfigParser
from scripts.make_demo_data import make_demo_data
from utils.errors import ConfigError
from utils.files import link_or_copy

TRAIN_TABLE = Path("train", "train.csv")
SMALL_MODEL = "mobilenetv3_small_050"
SEED = 7

LEARNING: dict[str, Any] = {
    "loss": {
        "heads": {
            name: {"type": "FocalLoss", "args": {"gamma": 2.0, "class_weights": weights}, "weight": share}
            for name, weights, share in (
                ("mask", [1.4, 7.0, 7.0], 0.375),
                ("gender", [2.5912, 1.6285], 0.25),
                ("age", [2.1077, 2.2005, 14.0625], 0.375),
            )
        }
    },
    "optimizer": {"type": "Adam", "args": {"lr": 0.0001, "amsgrad": True}},
    "lr_scheduler": {"type": "StepLR", "args": {"step_size": 5, "gamma": 0.1}},
}


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    rounds: of each row
    people: to draw for training, seven photographs each
    eval_people: to draw for evaluation
    decoded_images: of an epoch whose images are decoded; photographs are repeated if there are fewer
    cached_images: of an epoch from a cache
    files: of the large data set on which the start of a loader is measured
    side: of the images in pixels
    batch_size: of the loaders
    seconds: of a simulated epoch
    gpu_images: of an epoch of training on a GPU
    """

    rounds: int = 5
    people: int = 215
    eval_people: int = 14
    decoded_images: int = 1280
    cached_images: int = 5760
    files: int = 18_900
    side: int = 240
    batch_size: int = 64
    seconds: float = 2.0
    gpu_images: int = 3200


FULL = Scale()
QUICK = Scale(
    rounds=3,
    people=100,
    eval_people=8,
    decoded_images=640,
    cached_images=3840,
    files=3000,
    seconds=1.0,
    gpu_images=1280,
)


class Workplace:
    """A folder for the output of a measurement, and its data.

    folder: for all that the measurement writes
    data: in the competition's layout; people are drawn into it if it is empty
    scale: how much is measured
    device: where models are trained
    """

    def __init__(self, folder: Path, data: Path, scale: Scale, device: torch.device) -> None:
        self.folder, self.data, self.scale, self.device = folder, data, scale, device
        if not (data / TRAIN_TABLE).exists():
            try:
                make_demo_data(data, scale.people, scale.eval_people, SEED)
            except ConfigError as error:  # which names the flag of its own command
                raise ConfigError(str(error).replace("--output", "--data", 1)) from None

    @property
    def paths(self) -> list[Path]:
        return [record.path for record in self.records]

    @cached_property
    def records(self) -> list[Record]:
        return read_label_table(self.config(), self.labels).records

    @cached_property
    def labels(self) -> LabelSpace:
        return self.config().build("labels")

    @cached_property
    def small_model(self) -> BaseModel:
        return build_model(self.config(), self.labels, None)

    def photographs(self, count: int) -> list[Record]:
        """So many records, repeated from the first if there are fewer."""
        return list(islice(cycle(self.records), count))

    def files(self, count: int) -> list[Record]:
        """So many files, which are links to the photographs."""
        folder = new_folder(self.folder / "files")
        found = []
        for number, record in enumerate(self.photographs(count)):
            path = folder / f"{number}{record.path.suffix}"
            link_or_copy(record.path, path)
            found.append(replace(record, path=path, name=path.name))
        return found

    def config_file(self, changes: Mapping[str, Any] | None = None, save_dir: str = "saved") -> Path:
        """A file with config.json for these photographs and `changes`; nothing is downloaded or printed. How a model
        learns is fixed, so that the loops by hand (loops.py) can do the same."""
        values = {
            **LEARNING,
            "extends": str(PROJECT / "config.json"),
            "name": "Benchmark",
            "data": [{"type": "CompetitionFolder", "args": {"root": str(self.data / "train")}}],
            "info_dir": str(self.data / "eval"),
            "data_loader": {"args": {"input_size": self.scale.side, "batch_size": self.scale.batch_size}},
            "arch": {"args": {"model_name": SMALL_MODEL, "pretrained": False}},
            "trainer": {"save_dir": str(self.folder / save_dir), "verbosity": 0, "monitor": "off", "save_best": []},
        }
        text = json.dumps(_merged(values, changes or {}), indent=4)
        number = len(list(self.folder.glob("config_*.json")))
        file = self.folder / f"config_{number}.json"
        file.write_text(text, encoding="utf-8")
        return file

    def config(self, changes: Mapping[str, Any] | None = None, save_dir: str = "saved") -> ConfigParser:
        return read_config(self.config_file(changes, save_dir))

    def loader(self, train: Sequence[Record], validation: Sequence[Record] = (), **how: Any) -> AttributeDataLoader:
        """The loader that train.py would have for these images; see `loader_maker`."""
        return self.loader_maker(train, validation, **how)()

    def loader_maker(
        self,
        train: Sequence[Record],
        validation: Sequence[Record] = (),
        save_dir: str = "saved",
        device: torch.device | None = None,
        **arguments: Any,
    ) -> Callable[[], AttributeDataLoader]:
        """A function that makes a new loader, of a config that is read now.

        save_dir: below the workplace's folder, for the cache
        device: None for the CPU
        arguments: data_loader.args
        """
        config = self.config({"data_loader": {"args": arguments}}, save_dir)
        split = Split(*(LabelTable.from_records(side, self.labels) for side in (train, validation, [])))
        on = device or torch.device("cpu")
        model = self.small_model
        return lambda: build_data_loader(config, split, model, on)

    def forget_images(self, records: Sequence[Record], save_dir: str) -> None:
        """Empties a save_dir of all but the results of the check of the files, which is done if it was not."""
        self.loader(records, save_dir=save_dir, cache="none", num_workers=0)
        for kept in (self.folder / save_dir).iterdir():
            if kept.is_dir():
                shutil.rmtree(kept)


def new_folder(path: Path) -> Path:
    path.mkdir()
    return path


def read_config(file: Path) -> ConfigParser:
    """Reads a config, without the platform's environment variables. Raises ConfigError."""
    return ConfigParser.from_file(file, SECTIONS, (), cross_checks)


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Objects are merged, all else, and what has a new type, is replaced."""
    merged = dict(values)
    for key, change in changes.items():
        both = isinstance(change, Mapping) and "type" not in change and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], change) if both else change
    return merged
