"""What test.py measured, kept in the run's folder: scores.jsonl, a line for each call that knew the truth."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from base.batch import UNKNOWN
from data_loader.records.records import Record
from inference.inputs import EnsembleMember, evaluation_folder
from inference.predictor import CHECKPOINT_NAMES, EXPORTED_FILE
from inference.scoring.evaluation import JOINT, SetScores, with_interval
from utils.run_folders import CONFIG_FILE

logger = logging.getLogger(__name__)

SCORES_FILE = "scores.jsonl"
PREFIXES = {"train": "train/", "validation": "val/", "test": "test/"}
"""By side of a split, of its metrics' names; an evaluation folder's are those of "test"."""


@dataclass(frozen=True)
class TestScores:
    """What one call of test.py measured.

    when: ISO 8601
    images: the evaluation folder; None: a side of the run's split
    split: that side; None: an evaluation folder
    answers: the table of true answers, where one was named
    images_digest: equal for scores of the same images with the same truth
    submission: the CSV of answers
    models: checkpoint, run, epochs, split_digest and weight of each model that answered
    alone: they are all of the run in whose folder this stands
    tta: the variants of an image
    vote: of several models
    decision: the file of scripts.tune that decided; None: the most probable class
    num_images: of so many something is known
    metrics: by name as in metrics.jsonl, such as "test/f1" and "test/mask_accuracy"
    intervals: by the same names, 95 % by persons
    """

    __test__ = False  # not a test of pytest's

    when: str
    images: str | None
    split: str | None
    answers: str | None
    images_digest: str
    submission: str
    models: list[dict[str, Any]]
    alone: bool
    tta: list[str]
    vote: str
    decision: str | None
    num_images: int
    metrics: dict[str, float]
    intervals: dict[str, list[float]]

    def __str__(self) -> str:
        """The F1 of the joint class, or else of the first attribute whose truth is known."""
        name = next(iter(self.metrics))
        return f"{name.rpartition('/')[2]} {self.with_interval(name)}"

    def rows(self) -> list[tuple[str, str, str]]:
        """Of each classification its name, "" of the joint class, and the names of its macro F1 and its accuracy."""
        stems = [name.removesuffix("f1") for name in self.metrics if name.endswith("f1")]
        return [(stem.rpartition("/")[2].removesuffix("_"), f"{stem}f1", f"{stem}accuracy") for stem in stems]

    def with_interval(self, metric: str) -> str:
        """Such as "0.8134 [0.7725, 0.8481]"."""
        low, high = self.intervals[metric]
        return with_interval(self.metrics[metric], (low, high))


def keep_scores(
    members: Sequence[EnsembleMember],
    arguments: Namespace,
    submission: Path,
    records: Sequence[Record],
    truth: Mapping[str, Tensor],
    scores: Sequence[SetScores],
) -> list[Path]:
    """Adds a line to scores.jsonl in the folder of each run, or exported model, that answered; a checkpoint that lies
    elsewhere has none. A folder that cannot be written costs a warning: the scores stand in the log. Returns the
    folders of runs that have one more.

    arguments: of test.py
    truth: by attribute, (N,) int64, -1 = unknown"""
    if not scores:
        return []
    runs = list(dict.fromkeys(member.run_of_folds or member.path.parent for member in members))
    side = arguments.split
    folder = None if side else evaluation_folder(members, arguments.info_dir)
    prefix = PREFIXES[side or "test"]
    names = [prefix if row.name == JOINT else f"{prefix}{row.name}_" for row in scores]
    found = TestScores(
        when=datetime.now().astimezone().isoformat(timespec="seconds"),
        images=folder,
        split=side if folder or side else "test",
        answers=arguments.answers,
        images_digest=_digest(records, truth),
        submission=str(submission),
        models=[
            {
                **member.describe(),
                "epochs": member.predictor.completed_epochs,
                "split_digest": member.predictor.split_digest,
            }
            for member in members
        ],
        alone=len(runs) == 1,
        tta=list(members[0].predictor.tta),
        vote=arguments.vote,
        decision=arguments.decision and str(arguments.decision),
        num_images=int(torch.stack([each != UNKNOWN for each in truth.values()]).any(dim=0).sum()),
        metrics={f"{name}f1": row.macro_f1 for name, row in zip(names, scores, strict=True)}
        | {f"{name}accuracy": row.accuracy for name, row in zip(names, scores, strict=True)},
        intervals={f"{name}f1": list(row.interval) for name, row in zip(names, scores, strict=True)}
        | {f"{name}accuracy": list(row.accuracy_interval) for name, row in zip(names, scores, strict=True)},
    )
    kept = [
        run
        for run in runs
        if any((run / name).is_file() for name in (CONFIG_FILE, EXPORTED_FILE, CHECKPOINT_NAMES["best"]))
        and _append(run / SCORES_FILE, found)
    ]
    return [run for run in kept if (run / CONFIG_FILE).is_file()]


def _append(file: Path, scores: TestScores) -> bool:
    """Returns whether it could be written."""
    try:
        with file.open("a+b") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            stream.seek(0)
            torn = stream.read()[-1:] not in (b"", b"\n")
            stream.write(b"\n" * torn + f"{json.dumps(asdict(scores), ensure_ascii=False)}\n".encode())
        logger.info("scores: %s", file)
    except OSError as error:
        logger.warning("%s: the scores could not be kept (%s)", file, error.strerror)
        return False
    return True


def _digest(records: Sequence[Record], truth: Mapping[str, Tensor]) -> str:
    rows = zip((record.name for record in records), *(truth[name].tolist() for name in sorted(truth)), strict=True)
    text = json.dumps([sorted(truth), sorted(rows)])
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def read_scores(folder: Path) -> list[TestScores]:
    """What test.py measured of the run in a folder, the newest last. A line that is damaged is skipped with a
    warning."""
    file = folder / SCORES_FILE
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        logger.warning("%s: cannot be read (%s)", file, error)
        return []
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(_parsed(line))
        except (ValueError, TypeError, KeyError, AttributeError):
            logger.warning("%s line %d: is damaged, and skipped", file, number)
    return found


def _parsed(line: str) -> TestScores:
    """Raises ValueError, TypeError, KeyError or AttributeError where a line has another form."""
    values = json.loads(line)
    scores = TestScores(**{name: values[name] for name in TestScores.__dataclass_fields__})
    numbers = list(scores.metrics.values())
    for name in scores.metrics:
        low, high = scores.intervals[name]
        numbers += [low, high]
    if not numbers or not all(isinstance(number, float | int) for number in numbers):
        raise TypeError
    return scores


def own_test_scores(folder: Path, checkpoint: tuple[str, int] | None = None) -> TestScores | None:
    """The newest scores on test images that the run in a folder has by itself, not as one of several nor by a tuned
    decision; None if there are none.

    checkpoint: only those of this file, by name, as it was after so many epochs"""
    for scores in reversed(read_scores(folder)):
        of = [(Path(model["checkpoint"]).name, model["epochs"]) for model in scores.models]
        is_own = scores.alone and scores.decision is None
        if is_own and scores.split in (None, "test") and checkpoint in (None, *of):
            return scores
    return None
