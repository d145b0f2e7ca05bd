"""Damages the files of stopped and of finished runs, resumes them, and compares their end with that of a run that
nothing disturbed: python -m tests.harness.corrupt --trials 500 --seed 1

Damage is what disks, networks and people do: flipped bits, a cut, zeroed pages, an empty file, a web page, a missing, a
wrong or a moved checksum. What a trial looks at is drawn:

choice: which checkpoint the run resumes from, and that each damaged one that is read is one warning; nothing is trained
end: the run is resumed, and ends as the undisturbed one; where nothing sound is left, exit code 4, a line a file
answer: test.py with a damaged checkpoint: exit code 4 and one line
other: the log, the configs, run.json, out-of-fold predictions, the image cache: the run ends as the undisturbed one
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiment.resume import ResumePoint, resume_from
from tests.harness.forked import TEST, TRAIN, Point, run_forked
from tests.harness.kill import Reference, difference, end_of, make_reference
from tests.integration.drawn_road import draw_small_data
from trainer.checkpoint import BEST, LAST
from trainer.monitor import Monitor
from utils.checkpoint.checkpoint_file import read_checkpoint
from utils.errors import CheckpointError, run_command
from utils.random_streams import numpy_stream

MODES, SHARES = ("choice", "end", "answer", "other"), (0.5, 0.2, 0.1, 0.2)
STATES: dict[str, tuple[str, int | None]] = {
    "in epoch 2": ("training", 8),
    "in epoch 3": ("training", 14),
    "finished": ("training", None),
    "in fold 1": ("folds", 18),
    "folds finished": ("folds", None),
}
"""Prepared runs: their scenario, and the update after which SIGTERM stopped them."""

WEB_PAGE = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>Please sign in</body></html>"
PAGE_BYTES = 4096


def flip(data: bytes, stream: np.random.Generator) -> bytes:
    """One to eight bits."""
    damaged = bytearray(data)
    for position in stream.integers(len(data), size=int(stream.integers(1, 9))):
        damaged[position] ^= 1 << int(stream.integers(8))
    return bytes(damaged) if bytes(damaged) != data else flip(data, stream)


def cut(data: bytes, stream: np.random.Generator) -> bytes:
    return data[: int(stream.integers(len(data)))]


def zero_pages(data: bytes, stream: np.random.Generator) -> bytes:
    first = int(stream.integers(max(1, len(data) // PAGE_BYTES))) * PAGE_BYTES
    damaged = bytearray(data)
    end = min(len(data), first + PAGE_BYTES * int(stream.integers(1, 4)))
    damaged[first:end] = bytes(end - first)
    return bytes(damaged)


def empty(_data: bytes, _stream: np.random.Generator) -> bytes:
    return b""


def web_page(_data: bytes, _stream: np.random.Generator) -> bytes:
    return WEB_PAGE


def no_checksum(data: bytes, stream: np.random.Generator) -> bytes:
    """As torch.save had written it."""
    end = data.rfind(b"sha256:")
    return cut(data, stream) if end < 0 else data[: end - 2] + bytes(2)


def wrong_checksum(data: bytes, stream: np.random.Generator) -> bytes:
    position = len(data) - 64 + int(stream.integers(64))
    return data[:position] + (b"0" if data[position : position + 1] != b"0" else b"1") + data[position + 1 :]


def appended(data: bytes, stream: np.random.Generator) -> bytes:
    return data + stream.bytes(int(stream.integers(1, 200)))


ANY_FILE: tuple[Callable[[bytes, np.random.Generator], bytes], ...] = (flip, cut, zero_pages, empty, web_page)
CHECKPOINT = (flip, *ANY_FILE, no_checksum, wrong_checksum, appended)

OTHER = {
    "log": ("saved/log/**/metrics.jsonl", (flip, cut, empty, web_page)),
    "times": ("saved/log/**/times.jsonl", (cut, empty, web_page)),
    "config": ("saved/models/**/config.json", ANY_FILE),
    "record": ("saved/models/**/run.json", ANY_FILE),
    "predictions": ("saved/models/**/out_of_fold.csv", (cut, zero_pages, empty, web_page)),
    "cache's index": ("saved/image_cache/*.json", ANY_FILE),
    "cache's array": ("saved/image_cache/*.npy", (cut, empty, web_page, appended)),
    "known images": ("saved/checked_images.json", ANY_FILE),
}
"""Files by pattern, and the damage that each is to survive. (A flipped bit in an image of the cache is not noticed.)"""


@dataclass
class Trial:
    """One damaged run.

    damage: what was done, to which files
    wrong: what is not as it should be; "" for nothing
    """

    number: int
    mode: str
    state: str
    damage: list[str] = field(default_factory=list)
    outcome: str = ""
    wrong: str = ""

    def __str__(self) -> str:
        told = self.wrong or self.outcome
        return f"trial {self.number} ({self.mode}, {self.state}; {', '.join(self.damage) or 'no file'}): {told}"


@dataclass
class Prepared:
    """A run to be damaged. models: of its folder, relative to `folder`"""

    folder: Path
    models: Path
    reference: Reference


def prepare(folder: Path, data: Path, states: Sequence[str]) -> dict[str, Prepared]:
    """A run in each of the states. Raises AssertionError."""
    scenarios = {STATES[state][0] for state in states}
    references = {name: make_reference(name, folder / name, data) for name in sorted(scenarios)}
    prepared = {}
    for state in states:
        scenario, update = STATES[state]
        reference, own = references[scenario], folder / state
        own.mkdir()
        shutil.copyfile(reference.config, own / reference.config.name)
        arguments = ["-c", reference.config.name, "--run-id", "run"]
        point = None if update is None else Point("update", update, signal.SIGTERM)
        code, _ = run_forked(TRAIN, arguments, own, point)
        assert code == (0 if update is None else 75), (own / "output.txt").read_text()
        (own / "output.txt").unlink()
        prepared[state] = Prepared(own, Path("saved/models/Road/run"), reference)
    return prepared


def spoil(files: list[Path], stream: np.random.Generator, kinds: Any, folder: Path) -> list[str]:
    """Damages one to four of the files; half of the times in place, so that other names of a file (hard links) share
    the damage. Returns what was done."""
    done = []
    for number in stream.permutation(len(files))[: int(stream.choice([1, 1, 2, 3, 4]))]:
        file, kind = files[number], kinds[int(stream.integers(len(kinds)))]
        if file.stat().st_size < PAGE_BYTES // 64:  # it was emptied under its other name
            continue
        data = kind(before := file.read_bytes(), stream)
        if data == before:
            continue
        is_in_place = bool(stream.integers(2))
        if not is_in_place:
            file.unlink()
        file.write_bytes(data)
        done.append(f"{file.relative_to(folder)} {kind.__name__}{' in place' if is_in_place else ''}")
    return done


def run_trial(number: int, seed: int, prepared: dict[str, Prepared], folder: Path) -> Trial:
    """A copy of a prepared run is damaged, and looked at."""
    stream = numpy_stream(seed, "corrupt", number)
    trial = Trial(number, str(stream.choice(MODES, p=SHARES)), str(stream.choice([*prepared])))
    run = prepared[trial.state]
    _copy(run.folder, folder)
    before = {path: path.read_bytes() for path in sorted((folder / run.models).rglob("*.pth"))}
    try:
        if trial.mode == "other":
            kind = str(stream.choice([*OTHER]))
            pattern, kinds = OTHER[kind]
            trial.damage = spoil(sorted(folder.glob(pattern)), stream, kinds, folder)
        else:
            trial.damage = spoil([*before], stream, CHECKPOINT, folder)
        damaged = {path for path, data in before.items() if path.read_bytes() != data}
        look = {"choice": _look_at_choice, "answer": _look_at_answer}.get(trial.mode, _look_at_end)
        trial.outcome = look(run, folder, damaged, before, stream)
    except (AssertionError, TimeoutError, CheckpointError) as error:
        trial.wrong = str(error) or "an assertion"
    return trial


def _copy(source: Path, target: Path) -> None:
    """With the hard links between its files."""
    copied: dict[int, Path] = {}
    for path in sorted(source.rglob("*")):
        own = target / path.relative_to(source)
        if path.is_dir():
            own.mkdir(parents=True)
        elif path.stat().st_ino in copied:
            os.link(copied[path.stat().st_ino], own)
        else:
            own.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, own)
            copied[path.stat().st_ino] = own


def expected_choice(folder: Path, damaged: set[Path], whole: dict[Path, bytes]) -> tuple[int, int] | None:
    """Epochs and batches from which the run or the fold in a folder resumes; None where it is refused.

    whole: by path, the bytes that each checkpoint had before it was damaged"""
    contents = {}
    for path, data in whole.items():
        if path.parent == folder and path not in damaged:
            copy = folder / ".as_it_was"
            copy.write_bytes(data)
            contents[path.name] = read_checkpoint(copy)
            copy.unlink()
    if not contents:
        return None
    chosen = contents.get(LAST) or max(contents.values(), key=_progress)
    names = [BEST, *(Monitor(f"{each['mode']} {each['metric']}").file_name for each in chosen["monitors"][1:])]
    epochs = {folder / name: each["best_epoch"] for name, each in zip(names, chosen["monitors"], strict=True)}
    lost = [epoch for path, epoch in epochs.items() if path in damaged and epoch is not None]
    if lost:
        return max((each for each in map(_progress, contents.values()) if each <= (min(lost), 0)), default=None)
    return _progress(chosen)


def _progress(content: dict[str, Any]) -> tuple[int, int]:
    return content["completed_epochs"], content["batches_done"]


class Heard(logging.Handler):
    """The warnings of the code that resumes."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def _look_at_choice(
    _run: Prepared, _folder: Path, damaged: set[Path], before: dict[Path, bytes], _stream: np.random.Generator
) -> str:
    outcomes = []
    for models in sorted({path.parent for path in before}):
        own = {path for path in damaged if path.parent == models}
        expected = expected_choice(models, own, before)
        heard, logger = Heard(), logging.getLogger("trainer")
        logger.addHandler(heard)
        point: Any = None
        refused: list[str] = []
        try:
            point, _ = resume_from(models)
        except CheckpointError as error:
            refused = str(error).splitlines()
        logger.removeHandler(heard)
        if refused:
            assert expected is None, f"refused, and not resumed from {expected}: {refused}"
            assert all(any(line.startswith(f"{path}: ") for path in own) for line in refused), f"refused by {refused}"
            outcomes.append("refused")
            continue
        assert isinstance(point, ResumePoint)
        assert point.path not in damaged, f"resumes from {point.path}, which is damaged"
        assert _progress(point.content) == expected, f"resumes from {_progress(point.content)}, not {expected}"
        named = [path for path in own for line in heard.lines if line.startswith(f"{path}: ")]
        assert len(named) == len(set(named)) == len(heard.lines), f"warnings: {heard.lines}"
        assert {path for path in own if path.name in (LAST, BEST)} <= set(named), f"no warning: {heard.lines}"
        outcomes.append(f"from {point.path.name}, {len(named)} warned of")
    return "; ".join(outcomes)


def _look_at_answer(
    run: Prepared, folder: Path, damaged: set[Path], _before: dict[Path, bytes], stream: np.random.Generator
) -> str:
    if not damaged:
        return "nothing was damaged"
    path = sorted(damaged)[int(stream.integers(len(damaged)))].relative_to(folder)
    target = str(path.parent if path.name == BEST and path.parent == run.models else path)
    code, _ = run_forked(TEST, ["--resume", target, "--output", "answers.csv"], folder)
    lines = _output(folder)
    assert code == 4, f"test.py --resume {target}: exit code {code}: {lines[-1]}"
    assert lines[-1].startswith((f"{path}: ", f"error: {path}: ")) or f"{path}: " in lines[-1], lines[-1]
    assert not (folder / "answers.csv").exists()
    return "refused by test.py"


def _look_at_end(
    run: Prepared, folder: Path, damaged: set[Path], before: dict[Path, bytes], stream: np.random.Generator
) -> str:
    folders = sorted({path.parent for path in before})
    choices = [
        expected_choice(models, {path for path in damaged if path.parent == models}, before) for models in folders
    ]
    how = ["--resume", "auto", "-c", run.reference.config.name] if stream.integers(2) else ["--resume", str(run.models)]
    workers = ["--set", f"data_loader.args.num_workers={int(stream.integers(3))}"]
    code, _ = run_forked(TRAIN, [*how, *workers], folder)
    lines = _output(folder)
    assert not any(line.startswith("Traceback") for line in lines), f"a traceback: {lines[-1]}"
    if None in choices:
        assert code == 4, f"exit code {code}, and nothing sound is left: {lines[-1]}"
        return "refused by train.py"
    assert code == 0, f"exit code {code}: {lines[-1]}"
    end = dict(run.reference.end)
    for path in damaged & set(before):  # copies of epochs that were not trained again
        if path.exists() and not _is_sound(path):
            epoch = re.fullmatch(r"checkpoint-epoch(\d+)\.pth", path.name)
            assert epoch, f"{path} is still damaged"
            choice = choices[folders.index(path.parent)]
            assert choice is not None
            assert int(epoch[1]) <= choice[0], f"{path} is still damaged"
            path.unlink()
            del end[f"0/{path.relative_to(folder / run.models)}"]
    wrong = difference(end, end_of(folder))
    assert not wrong, wrong
    return "equal"


def _is_sound(path: Path) -> bool:
    try:
        read_checkpoint(path)
    except CheckpointError:
        return False
    return True


def _output(folder: Path) -> list[str]:
    return (folder / "output.txt").read_text().strip().splitlines() or [""]


def run_trials(
    trials: int, seed: int, folder: Path, states: Sequence[str] = tuple(STATES), first: int = 0
) -> Iterator[Trial]:
    """Each in a folder of its own, which stays where the trial failed."""
    prepared = prepare(folder, draw_small_data(folder / "data"), states)
    for number in range(first, first + trials):
        trial = run_trial(number, seed, prepared, folder / str(number))
        if not trial.wrong:
            shutil.rmtree(folder / str(number))
        yield trial


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.harness.corrupt", description=(__doc__ or "").split(":")[0])
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--first", type=int, default=0, help="the number of the first trial, to share them out")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="for the runs; those that fail stay there (default: a new one)")
    parser.add_argument("--verbose", action="store_true", help="a line for each trial, not for failures alone")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it tells what is no longer shown after a resume
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="corrupt-"))
    folder.mkdir(exist_ok=True)
    begin = told = time.monotonic()
    good, outcomes = 0, Counter[str]()
    for trial in run_trials(arguments.trials, arguments.seed, folder, first=arguments.first):
        good += not trial.wrong
        outcomes[f"{trial.mode}: {re.sub(r'from .*', 'resumed', trial.outcome)}" if not trial.wrong else "failed"] += 1
        if trial.wrong or arguments.verbose or time.monotonic() - told > 60:
            told = time.monotonic()
            print(f"{trial} [{told - begin:.0f} s]", flush=True)
    print("; ".join(f"{number} {outcome}" for outcome, number in outcomes.most_common()))
    print(f"corrupt, seed {arguments.seed}: {good} of {arguments.trials}")
    if good < arguments.trials:
        sys.exit(f"the runs that failed are in {folder}")


if __name__ == "__main__":
    sys.exit(run_command(main))
