"""A folder in which train.py and test.py are run as a user runs them, on a data set of a few small images.

The commands run in that folder, so every path in configs and messages is relative to it."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import test
import train
from utils.errors import run_command

ROOT = Path(__file__).parents[2]
STEMS = ("mask1", "mask2", "mask3", "mask4", "mask5", "incorrect_mask", "normal")
PEOPLE = (
    ("000001", "male", 20), ("000002", "female", 25), ("000003", "male", 45), ("000004", "female", 35),
    ("000005", "male", 60), ("000006", "female", 60), ("000007", "male", 29), ("000008", "female", 59),
)  # fmt: skip
EVALUATION_NAMES = tuple(f"{letter * 8}.jpg" for letter in "febdca")
SIZE_HW = (40, 30)

_RESIZE, _NORMALISE = {"type": "Resize"}, {"type": "Normalize"}
TINY: dict[str, Any] = {
    "extends": str(ROOT / "config.json"),
    "name": "Tiny",
    "n_gpu": 0,
    "split": {"args": {"validation_share": 0.25}},
    "transforms": {"train": [_RESIZE, {"type": "HorizontalFlip"}, _NORMALISE], "eval": [_RESIZE, _NORMALISE]},
    "data_loader": {
        "args": {"input_size": 32, "batch_size": 8, "valid_batch_size": 16, "num_workers": 0, "cache": "none"}
    },
    "arch": {"type": "BaselineCNN", "args": {"width": 4}},
    "lr_scheduler": {"type": "StepLR", "args": {"step_size": 5}},
    "trainer": {"epochs": 1, "verbosity": 1, "tensorboard": False},
}
"""The smallest sensible run, over the config.json that users begin with; its schedule lets a run be extended."""

Lines = list[tuple[str, ...]]
"""The expected lines of an error, each as its beginning and further fragments."""

TextChange = Callable[[str], str]


@dataclass(frozen=True)
class Outcome:
    """The result of a command."""

    exit_code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """The lines on stderr."""
        return self.err.splitlines()

    def check_refusal(self, exit_code: int, *lines: Sequence[str] | str) -> None:
        """Exactly these lines on stderr, each given by the fragments that it must hold, and the exit code.

        The first fragment of each begins its line."""
        assert self.exit_code == exit_code, f"exit code {self.exit_code}: {self.err}"
        assert "Traceback" not in self.out + self.err
        assert len(self.lines) == len(lines), f"{len(lines)} lines were expected:\n{self.err}"
        for line, fragments in zip(self.lines, lines, strict=True):
            first, *others = [fragments] if isinstance(fragments, str) else fragments
            assert line.startswith(first), f"{line!r} does not begin with {first!r}"
            for fragment in others:
                assert fragment in line, f"{line!r} lacks {fragment!r}"

    def check_success(self) -> None:
        assert self.exit_code == 0, self.err
        assert "Traceback" not in self.out + self.err


@dataclass(frozen=True)
class Workplace:
    """One test's own folder: data/train, data/eval, saved/ and submit/ in it, and the commands run on them."""

    folder: Path
    capfd: pytest.CaptureFixture[str]

    @property
    def train_root(self) -> Path:
        return self.folder / "data" / "train"

    @property
    def photographs(self) -> Path:
        """The folder of the first person."""
        return self.train_root / "images" / person_folder(*PEOPLE[0])

    @property
    def info_dir(self) -> Path:
        return self.folder / "data" / "eval"

    @property
    def save_dir(self) -> Path:
        return self.folder / "saved"

    @property
    def runs(self) -> list[Path]:
        """The run folders, oldest first."""
        return sorted(self.save_dir.glob("models/*/*"))

    @property
    def run(self) -> Path:
        """The one run folder there is, as the commands take it."""
        (run,) = self.runs
        return run.relative_to(self.folder)

    @property
    def submissions(self) -> list[Path]:
        return sorted(self.folder.glob("submit/*.csv"))

    def only(self, pattern: str) -> Path:
        """The one file that a pattern fits."""
        (path,) = self.folder.glob(pattern)
        return path

    def config(self, changes: dict[str, Any] | None = None) -> dict[str, Any]:
        """TINY with changes by key path, {"trainer.epochs": 2}."""
        config = copy.deepcopy(TINY)
        for key_path, value in (changes or {}).items():
            *steps, last = key_path.split(".")
            part = config
            for step in steps:
                part = part.setdefault(step, {})
            part[last] = value
        return config

    def write_config(self, changes: dict[str, Any] | None = None, name: str = "tiny.json") -> Path:
        return self.write(name, json.dumps(self.config(changes), indent=4))

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return Path(name)

    def rewrite(self, path: Path, change: TextChange) -> None:
        """Changes a text file, and makes sure that this changed something."""
        before = path.read_text(encoding="utf-8")
        after = change(before)
        assert before != after
        path.write_text(after, encoding="utf-8")

    def train(self, *argv: str | Path) -> Outcome:
        return self._run(train.main, argv)

    def train_and_change_nothing(self, *argv: str | Path) -> Outcome:
        """Makes sure that no file or folder was made or changed."""
        before = self.files()
        outcome = self.train(*argv)
        assert self.files() == before
        return outcome

    def test(self, *argv: str | Path) -> Outcome:
        return self._run(test.main, argv)

    def _run(self, main: Callable[[Sequence[str]], object], argv: Sequence[str | Path]) -> Outcome:
        self.capfd.readouterr()
        exit_code = run_command(lambda: main([str(word) for word in argv]))
        captured = self.capfd.readouterr()
        return Outcome(exit_code, captured.out, captured.err)

    def files(self) -> dict[str, int]:
        """Every file with its time of change, and every folder."""
        return {str(path): path.lstat().st_mtime_ns for path in self.folder.rglob("*") if not path.is_dir()} | {
            str(path): 0 for path in self.folder.rglob("*") if path.is_dir()
        }


def replaced(old: str, new: str, count: int = -1) -> TextChange:
    return lambda text: text.replace(old, new, count)


def person_folder(identity: str, gender: str, age: int) -> str:
    return f"{identity}_{gender}_Asian_{age}"


def photograph(number: int, size_hw: tuple[int, int] = SIZE_HW) -> np.ndarray:
    """(H, W, 3) uint8, another one for each number."""
    return np.random.default_rng(number).integers(0, 256, (*size_hw, 3)).astype(np.uint8)


def save_jpeg(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photograph(number)).save(path, "JPEG")


def make_data(folder: Path) -> None:
    """data/train and data/eval in the competition's layout."""
    rows = ["id,gender,race,age,path"]
    for person, (identity, gender, age) in enumerate(PEOPLE):
        name = person_folder(identity, gender, age)
        rows.append(f"{identity},{gender},Asian,{age},{name}")
        for number, stem in enumerate(STEMS):
            save_jpeg(folder / "data/train/images" / name / f"{stem}.jpg", person * len(STEMS) + number)
    (folder / "data/train/train.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    for number, name in enumerate(EVALUATION_NAMES):
        save_jpeg(folder / "data/eval/images" / name, 1000 + number)
    names = "".join(f"{name},0\n" for name in EVALUATION_NAMES)
    (folder / "data/eval/info.csv").write_text(f"ImageID,ans\n{names}", encoding="utf-8")


def copy_into(source: Path, target: Path) -> None:
    shutil.copytree(source, target, dirs_exist_ok=True)
