"""What the rows measure with: drawn photographs, configs over config.json, and the objects that train.py makes."""

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
from base.base_trainer import TrainerSettings
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


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    rounds: of each row; people, eval_people: to draw, seven photographs each; decoded_images, cached_images: what an
    epoch shows where images are decoded, and where they are kept (photographs come again if there are fewer); files:
    of a large data set, where the start of a loader is measured; side: of the images in pixels; cpu_images,
    gpu_images: to an epoch, where training on a CPU, and on a GPU, is measured; seconds: of a simulated epoch."""

    rounds: int = 5
    people: int = 215
    eval_people: int = 14
    decoded_images: int = 1280
    cached_images: int = 5760
    files: int = 18_900
    side: int = 240
    batch_size: int = 64
    cpu_images: int = 64
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
    """A folder for all that a measurement writes, and what it works on.

    data: a folder in the competition's layout; where it is empty, or is none yet, people are drawn into it."""

    def __init__(self, folder: Path, data: Path, scale: Scale, device: torch.device) -> None:
        self.folder, self.data, self.scale, self.device = folder, data, scale, device
        if not (data / TRAIN_TABLE).exists():
            try:
                make_demo_data(data, scale.people, scale.eval_people, SEED)
            except ConfigError as error:  # which speaks of the flag of its own command
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
        """So many records; they come again from the first where there are fewer."""
        return list(islice(cycle(self.records), count))

    def files(self, count: int) -> list[Record]:
        """So many files, links to the photographs, each a photograph of its own to whoever reads it."""
        folder = new_folder(self.folder / "files")
        found = []
        for number, record in enumerate(self.photographs(count)):
            path = folder / f"{number}{record.path.suffix}"
            link_or_copy(record.path, path)
            found.append(replace(record, path=path, name=path.name))
        return found

    def config_file(self, changes: Mapping[str, Any] | None = None, save_dir: str = "saved") -> Path:
        """config.json for these photographs, with `changes` laid over it; nothing of it is fetched or printed."""
        values = {
            "extends": str(PROJECT / "config.json"),
            "name": "Benchmark",
            "data": [{"type": "CompetitionFolder", "args": {"root": str(self.data / "train")}}],
            "info_dir": str(self.data / "eval"),
            "data_loader": {"args": {"input_size": self.scale.side, "batch_size": self.scale.batch_size}},
            "arch": {"args": {"model_name": SMALL_MODEL, "pretrained": False}},
            "trainer": {"save_dir": str(self.folder / save_dir), "verbosity": 0, "monitor": "off", "save_best": []},
        }
        text = json.dumps(_laid_over(values, changes or {}), indent=4)
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
        """Makes a loader each time it is called, from a config that is read now; `arguments` are data_loader.args.

        save_dir: below the workplace's folder; what is kept of images lies in it. device: None for the CPU."""
        config = self.config({"data_loader": {"args": arguments}}, save_dir)
        settings: TrainerSettings = config.build("trainer")
        split = Split(*(LabelTable.of(side, self.labels) for side in (train, validation, [])))
        on = device or torch.device("cpu")
        model = self.small_model
        return lambda: build_data_loader(config, split, model, on, settings)

    def forget_images(self, records: Sequence[Record], save_dir: str) -> None:
        """Leaves nothing in a save_dir but what is known of the files' soundness, which is found out if it is not."""
        self.loader(records, save_dir=save_dir, cache="none", num_workers=0)
        for kept in (self.folder / save_dir).iterdir():
            if kept.is_dir():
                shutil.rmtree(kept)


def new_folder(path: Path) -> Path:
    path.mkdir()
    return path


def read_config(file: Path) -> ConfigParser:
    """Raises ConfigError. The platform's variables say nothing here: measurements are to be the same everywhere."""
    return ConfigParser.from_file(file, SECTIONS, (), cross_checks)


def _laid_over(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Objects are merged, all else is replaced."""
    laid = dict(values)
    for key, change in changes.items():
        both = isinstance(change, Mapping) and isinstance(laid.get(key), Mapping)
        laid[key] = _laid_over(laid[key], change) if both else change
    return laid
