"""Makes the report of a run of what the run has kept: its config, its record, its metrics, its log, what it predicts of
its validation images, and what test.py measured."""

from __future__ import annotations

import csv
import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import experiment.report.charts as charts
from base.batch import UNKNOWN
from base.label_space import LabelSpace
from data_loader.records import Record
from data_loader.records.tables import from_cell
from experiment.duplicates import DUPLICATES_FILE
from experiment.folds import is_run_of_folds
from experiment.report.findings import WorstImage, find
from experiment.report.history import LOG_FILE, charts_of_folds, charts_of_model, sparklines, speed, warnings_of
from experiment.report.pictures import thumbnail
from experiment.run_record import read_record
from experiment.runs import RunSummary, log_folder, summarise_run
from inference.out_of_fold import OUT_OF_FOLD_FILE, PredictionTable
from inference.run_predictions import RunPredictions, read_run_records, rows_by_id
from inference.scoring.evaluation import JOINT
from inference.scoring.scores import TestScores, read_scores
from logger.json_lines_tracker import read_metrics
from logger.log import FOR_FILE_ALONE
from trainer.monitor import Monitor
from utils.errors import UserError
from utils.files import short_path, write_output
from utils.run_folders import fold_number, folds_in
from utils.wording import first_line, format_value

if TYPE_CHECKING:
    from jinja2 import Template

logger = logging.getLogger(__name__)

REPORT_FILE = "report.html"
TEMPLATE = Path(__file__).with_name(REPORT_FILE)
DUPLICATE_COLUMNS = ("relation", "kind", "difference", "path", "other_path")
MOST_DUPLICATES = 20
MOST_COMMANDS = 3
"""That began or resumed the run, the last ones; each once."""
MOST_CALLS = 6
"""Of test.py, the newest, are shown."""
_OUTCOMES = {
    "StopSignal": "stopped by a signal",
    "KeyboardStop": "stopped by Ctrl-C",
    "DivergenceError": "diverged",
    "StorageFullError": "the disk was full",
}
"""How a session ended, by what run.json has."""
_UNKNOWN = {"device": None, "cores": None, "processes": None}
"""What runs of earlier versions do not know of a session."""


def write_report(folder: Path, records: Sequence[Record] = ()) -> None:
    """As `make_report`, after other work, which must not fail with it: what is wrong is one warning."""
    try:
        make_report(folder, records)
    except Exception as error:
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {first_line(error)}"
        remedy = f"python -m scripts.report {short_path(folder)} tries again"
        logger.warning("no report: %s; %s", reason, remedy)
        logger.debug("the report failed", exc_info=True, extra=FOR_FILE_ALONE)


def make_report(folder: Path, records: Sequence[Record] = ()) -> Path:
    """Writes report.html into the folder of a run, or of a fold, and returns its path.

    records: the validation images; none: they are read from the run's data, and where that is gone there are no
        pictures

    Raises CheckpointError where the folder is no run; ConfigError, or StorageFullError, where it cannot be written."""
    file = folder / REPORT_FILE
    write_output(file, _template().render(_contents(folder, records)))
    return file


@lru_cache
def _template() -> Template:
    """Kept: to compile it takes as long as all else."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "percent": _percent, "duration": _duration}
    return environment.get_template(TEMPLATE.name)


def _contents(folder: Path, records: Sequence[Record]) -> dict[str, Any]:
    """What the template shows."""
    run = summarise_run(folder)
    folds = folds_in(folder) if is_run_of_folds(run.config) else {}
    models = [*folds.values()] or [folder]
    record = read_record(models[0])
    labels = LabelSpace(**run.config["labels"])
    logs = [log_folder(each) for each in dict.fromkeys([folder, *models])]
    table, is_nested = _predictions(folder, labels, has_epochs=any(map(read_metrics, logs)))
    found = None if table is None or not _is_known(table) else find(table)
    pictures, no_pictures = _pictures(folder, run.config, labels, found.worst if found else [], records)
    rows = run.history[0] if run.history else []
    sessions = [_UNKNOWN | session for each in models for session in read_record(each).get("sessions", [])]
    is_chosen = Monitor(run.config["trainer"]["monitor"]).is_on
    return {
        "title": _title(folder, run),
        "run": run,
        "folder": short_path(folder),
        "folds": [*folds],
        "labels": labels,
        "joint": JOINT,
        "found": found,
        "is_nested": is_nested,
        "num_predicted": 0 if table is None else len(table),
        "pictures": pictures,
        "no_pictures": no_pictures,
        "tests": [_shown_test(each) for each in reversed(read_scores(folder)[-MOST_CALLS:])],
        "sessions": sessions,
        "outcome": _outcome(models),
        "commands": [*dict.fromkeys(session["command"] for session in sessions)][-MOST_COMMANDS:],
        "sides": record.get("sides", {}),
        "changes": _changes(run, record),
        "data": _data(run.config),
        "config": json.dumps(run.config, indent=2, ensure_ascii=False),
        "checkpoint": "best" if is_chosen else "last",
        "chosen_by_validation": is_chosen and run.monitored.startswith("val/"),
        "charts": charts_of_folds(dict(zip(folds, run.history, strict=False)))
        if folds
        else charts_of_model(rows, [*labels.predicted_attributes], run.best_epoch if is_chosen else None),
        "sparklines": {} if folds else sparklines(rows),
        "duplicates": _duplicates(folder),
        "speed": speed(logs),
        "warnings": warnings_of(logs),
        "has_log": any((log / LOG_FILE).exists() for log in logs),
        "geometry": charts,
        "made": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
    }


def _outcome(models: Sequence[Path]) -> str:
    """How the models' last sessions ended; of folds that ended in several ways, each with its number."""
    ends: dict[str, list[str]] = {}
    for model in models:
        for session in read_record(model).get("sessions", [])[-1:]:
            ends.setdefault(_OUTCOMES.get(session["outcome"], session["outcome"]), []).append(model.name)
    if len(ends) < 2:
        return "".join(ends)
    return ", ".join(f"{end} ({', '.join(names)})" for end, names in ends.items())


def _title(folder: Path, run: RunSummary) -> str:
    name = folder.resolve().name
    if fold_number(name) is not None:
        name = f"{folder.resolve().parent.name}/{name}"
    return f"{run.config['name']}/{name}"


def _predictions(folder: Path, labels: LabelSpace, has_epochs: bool) -> tuple[PredictionTable | None, bool]:
    """What the run predicts of its validation images, None where it has nothing; and whether a soup that was chosen
    without a person predicts the person's images, as those of a greedy soup are."""
    file = folder / OUT_OF_FOLD_FILE
    if not file.is_file():
        return None, False
    try:
        table = PredictionTable.read(file, labels)
        if _is_known(table) and has_epochs:
            return table, False
        kept = RunPredictions.read(folder)  # a soup, which has logged no epochs, or a run of an earlier version
    except (UserError, OSError, ValueError) as error:
        logger.warning("%s: is left out of the report: %s", short_path(file), error)
        return None, False
    return kept.table, kept.is_nested


def _is_known(table: PredictionTable) -> bool:
    """Whether anything is known of its images."""
    return any(bool((classes != UNKNOWN).any()) for classes in table.truth.values())


@dataclass(frozen=True)
class ShownTest:
    """A call of test.py.

    models: the checkpoints that answered; of several folds their run, with their number
    rows: by classification its name, macro F1 and accuracy, each with its interval
    """

    scores: TestScores
    when: str
    of: str
    models: list[str]
    rows: Sequence[tuple[str, float, Sequence[float], float, Sequence[float]]]


def _shown_test(scores: TestScores) -> ShownTest:
    rows = [
        (name, scores.metrics[f1], scores.intervals[f1], scores.metrics[accuracy], scores.intervals[accuracy])
        for name, f1, accuracy in scores.rows()
    ]
    of = f"the {scores.split} side" if scores.images is None else scores.images
    return ShownTest(scores, scores.when[:16].replace("T", " "), of, _answering(scores), rows)


def _answering(scores: TestScores) -> list[str]:
    """The checkpoints that answered; the folds of a run as one."""
    checkpoints: dict[Path, list[Path]] = {}
    for path in (Path(model["checkpoint"]) for model in scores.models):
        is_fold = fold_number(path.parent.name) is not None
        checkpoints.setdefault(path.parent.parent if is_fold else path, []).append(path)
    return [str(each[0]) if len(each) == 1 else f"{run} ({len(each)} folds)" for run, each in checkpoints.items()]


@dataclass(frozen=True)
class Change:
    """A value that differs from what the config extends. before: there; None: it has none, or the run kept none"""

    key: str
    before: str | None
    after: str
    origin: str


def _changes(run: RunSummary, record: Mapping[str, Any]) -> list[Change]:
    origins, before = record.get("origins", {}), record.get("changed_from", {})
    return [
        Change(key, format_value(before[key]) if key in before else None, format_value(value), origins.get(key, ""))
        for key, value in run.changes.items()
    ]


def _data(config: Mapping[str, Any]) -> list[str]:
    """Where the images come from."""
    lines = []
    for source in config["data"]:
        arguments = source["args"]
        places = [str(arguments[name]) for name in ("root", "path") if arguments.get(name)]
        lines.append(" ".join([source["type"], *places]))
    return [*lines, *([f"label fixes {config['label_fixes']}"] if config.get("label_fixes") else [])]


@dataclass(frozen=True)
class Duplicates:
    """by_relation: how many pairs of each, such as "between train and validation"; first: the first rows"""

    by_relation: dict[str, int]
    first: list[dict[str, str]]


def _duplicates(folder: Path) -> Duplicates | None:
    """Those that scripts.find_duplicates --output <the run's folder> listed; None where it did not, or what lies
    there is no such table."""
    try:
        with (folder / DUPLICATES_FILE).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        relations = [row["relation"] for row in rows]
        shown = [{name: from_cell(row[name]) for name in DUPLICATE_COLUMNS} for row in rows[:MOST_DUPLICATES]]
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return None
    return Duplicates(dict(Counter(relations)), shown)


@dataclass(frozen=True)
class Picture:
    """path: as messages have it; None: it is not known; image: a data URI; None: it cannot be read"""

    worst: WorstImage
    path: str | None
    image: str | None


def _pictures(
    folder: Path, config: Mapping[str, Any], labels: LabelSpace, worst: Sequence[WorstImage], records: Sequence[Record]
) -> tuple[list[Picture], str | None]:
    """The worst errors with their photographs, and why there are none."""
    reason = None
    if worst and not records:
        try:
            with _nothing_logged("data_loader"):  # training has logged what there is to say
                records = read_run_records(config, labels, folder).records
        except UserError as error:
            reason = first_line(error)
    row_of = rows_by_id(records)
    found = []
    for each in worst:
        record = records[row_of[each.id]] if each.id in row_of else None
        image = None
        if record is not None:
            try:
                image = thumbnail(record.path, config["data_loader"]["args"].get("bits_used_of_16", 16))
            except UserError as error:
                reason = reason or first_line(error)
        found.append(Picture(each, None if record is None else short_path(record.path), image))
    return found, reason


@contextmanager
def _nothing_logged(name: str) -> Iterator[None]:
    """By the loggers of a package while it is entered."""
    package = logging.getLogger(name)
    level = package.level
    package.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        package.setLevel(level)


# --- numbers as they are shown ---


def _number(value: float | None, digits: int = 3) -> str:
    """A dash where there is none."""
    return "–" if value is None or value != value else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "–" if value is None or value != value else f"{100 * value:.0f} %"


def _duration(seconds: float) -> str:
    """Such as "42 s", "4 min 10 s", "3 h 5 min"."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"
