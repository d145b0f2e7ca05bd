"""Draws masks on photographs of bare faces: python -m scripts.draw_masks TABLE OUT [--contact-sheet]

From a table of bare faces (path, person, gender, age, as an AttributeTable reads it) OUT/labels.csv is made, a table of
the same form in which each face is there eight times: with five kinds of masks, twice with a mask that is worn wrongly
(below the nose, on the chin), and as it was. All eight are of the face's person, and what is unknown stays unknown.

A command that was stopped is run again and does the rest. OUT/without_face.csv lists the pictures in which no face was
found; they are left out.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import multiprocessing
import signal
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from data_loader.preparation.face_detectors import FaceDetector, choose_face, make_detector
from data_loader.records.records import Record
from data_loader.records.sources import AttributeTable
from data_loader.records.tables import raise_problems
from logger.log import LOG_NAME, close_log, open_log
from scripts.draw_masks.drawing import KINDS, WRONG_WAYS, draw_mask
from scripts.draw_masks.head import Head
from utils.command_line import CommandLine
from utils.errors import ConfigError, DataError, write_error
from utils.files import write_atomically
from utils.images import read_rgb
from utils.images.contact_sheet import ENCODINGS, JPEG, encode, evenly, tile_of
from utils.progress import with_progress
from utils.random_streams import numpy_stream
from utils.run_folders import obstacle_to_writing
from utils.threads import number_of_cores
from utils.wording import counted, not_one_of

logger = logging.getLogger(LOG_NAME)

VERSION = 1
"""Raised whenever the same arguments give other pixels."""
TABLE, MARKER, WITHOUT_FACE, CONTACT_SHEET = "labels.csv", "drawn_masks.json", "without_face.csv", "contact_sheet.jpg"
MASK_STATES = ("wear", "incorrect", "not_wear")
SHEET_FACES, LISTED = 12, 10
GENDERS, AGES = ("male", "female"), (0, 120)
"""Those that the default labels know."""


@dataclass(frozen=True)
class Drawing:
    """One of the eight pictures of a face.

    stem: of its file
    state: how the mask is worn, one of MASK_STATES
    kind, way: of the mask, see draw_mask; None for the bare face
    """

    stem: str
    state: str
    kind: str | None = None
    way: str | None = None

    @property
    def description(self) -> str:
        return " ".join(filter(None, (self.kind, self.way))) or "none"


@dataclass(frozen=True)
class Settings:
    """What decides the pixels.

    detector, weights_file, min_confidence: see make_detector
    face: which of several, see choose_face
    """

    detector: Literal["mtcnn", "yunet", "haar"]
    weights_file: Path | None
    min_confidence: float
    face: Literal["largest", "central"]
    seed: int


class FaceTable(AttributeTable):
    """An AttributeTable whose columns are named by this command's flags."""

    def setting(self, name: str) -> str:
        return f"--{name}-column" if name in ("path", "person") else f'the header "{name}"'


@dataclass(frozen=True)
class BareFace:
    """A picture of the table, and the files that are made of it."""

    record: Record
    folder: Path
    drawings: tuple[Drawing, ...]

    def file(self, drawing: Drawing) -> Path:
        source = self.record.path.suffix
        suffix = source if drawing.kind is None or source.lower() in ENCODINGS else ".jpg"
        return self.folder / f"{drawing.stem}{suffix}"

    @property
    def is_done(self) -> bool:
        """Whether all is drawn from the picture as it is now: the bare one, written last, is its copy."""
        bare = self.file(self.drawings[-1])
        return (
            bare.is_file()
            and bare.read_bytes() == self.record.path.read_bytes()
            and all(self.file(drawing).is_file() for drawing in self.drawings)
        )


@dataclass(frozen=True)
class Outcome:
    """What became of a picture: how many faces were found, or why it cannot be read."""

    number: int
    faces: int = 0
    problem: str = ""


def plan_drawings(seed: int, name: str) -> tuple[Drawing, ...]:
    """The eight pictures of a face, which follow from its name alone: the bare one is the last."""
    random = numpy_stream(seed, f"kinds of masks {name}")
    worn = [Drawing(f"mask{number}", "wear", kind) for number, kind in enumerate(KINDS, start=1)]
    wrong = [
        Drawing(f"incorrect_mask{number}", "incorrect", str(kind), way)
        for number, (kind, way) in enumerate(zip(random.choice(KINDS, 2, replace=False), WRONG_WAYS, strict=True), 1)
    ]
    return (*worn, *wrong, Drawing("normal", "not_wear"))


def read_faces(source: AttributeTable, output: Path, seed: int) -> list[BareFace]:
    """The table's bare faces. Raises DataError if its rows are wrong, or none is a bare face."""
    problems: list[str] = []
    records = source.collect(problems, ("mask", "gender", "age"))
    faces: dict[Path, BareFace] = {}
    covered = unsaid = 0
    for record in records:
        state = record.attributes.get("mask")
        if state is not None and state not in MASK_STATES:
            problems.append(f'{record.origin}: mask = "{state}" {not_one_of(str(state), MASK_STATES)}')
        elif state in ("wear", "incorrect"):
            covered += 1
        else:
            unsaid += state is None
            folder = output / "images" / Path(record.name).with_suffix("")
            if folder in faces:
                other = faces[folder].record
                same = f'"{record.name}" would be drawn into the folder of {other.origin}'
                problems.append(f"{record.origin}: {same}; remove the row, or rename the picture")
                continue
            faces[folder] = BareFace(record, folder, plan_drawings(seed, record.name))
    raise_problems(problems)
    if covered:
        logger.info("%s: left out with a mask already: %s", source, counted(covered, "face"))
    if not faces:
        raise DataError(f'{source}: has no bare face; give pictures whose mask is "not_wear", or unknown (empty)')
    if unsaid:
        logger.info("%s: taken to be bare, as the mask is unknown: %s", source, counted(unsaid, "face"))
    _warn_of_odd_labels([face.record for face in faces.values()])
    return list(faces.values())


def _warn_of_odd_labels(records: Sequence[Record]) -> None:
    """Genders and ages go into OUT as they are; a config's labels may know them, the default ones do not."""
    odd = []
    for record in records:
        gender, age = record.attributes.get("gender"), record.attributes.get("age")
        if gender not in (None, *GENDERS):
            odd.append(f'{record.origin}: gender = "{gender}" {not_one_of(str(gender), GENDERS)}')
        if age is not None and not _is_age(age):
            odd.append(f'{record.origin}: age = "{age}" is not a number from {AGES[0]} to {AGES[1]}')
    if odd:
        more = f"\n... and {len(odd) - LISTED} more" if len(odd) > LISTED else ""
        listed = "\n".join(odd[:LISTED])
        logger.warning("%s%s\nsuch values are copied as they are: correct them, or name them in labels", listed, more)


def _is_age(cell: object) -> bool:
    try:
        return AGES[0] <= float(str(cell)) <= AGES[1]
    except ValueError:
        return False


def draw_masks(
    source: AttributeTable, output: Path, settings: Settings, workers: int | None = None, contact_sheet: bool = False
) -> None:
    """Draws the table's faces into `output`.

    workers: processes, default one a core; the files are the same for any number

    Raises ConfigError where the output or the detector cannot be used; DataError for a wrong table, where no face is
    found, and, at the end, for pictures that cannot be read; StorageFullError."""
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers {workers}: must be at least 1")
    detector = _detector(settings)
    faces = read_faces(source, output, settings.seed)
    _begin(Path(source.path), output, settings, detector)
    left = [number for number, face in enumerate(faces) if not face.is_done]
    if not detector.finds_landmarks:
        logger.warning(
            "%s finds no landmarks: eyes, nose and mouth are estimated from the face's box", settings.detector
        )
    outcomes: dict[int, Outcome] = {}
    try:
        with _drawn([(number, faces[number]) for number in left], settings, workers) as drawn:
            for outcome in with_progress(drawn, len(faces), "drawing masks", True, len(faces) - len(left)):
                outcomes[outcome.number] = outcome
        bad = {number for number, outcome in outcomes.items() if outcome.problem or not outcome.faces}
        done = [face for number, face in enumerate(faces) if number not in bad]
        missing = [faces[number].record.name for number in sorted(bad) if not outcomes[number].problem]
        _write_table(output / WITHOUT_FACE, [["path"], *([name] for name in missing)])
        if done:
            _write_labels(output, done)
        if contact_sheet and done:
            write_atomically(output / CONTACT_SHEET, encode(draw_contact_sheet(done), JPEG))
    except OSError as error:
        raise write_error(error.filename or output, error) from None
    _report(output, faces, done, missing, outcomes)
    raise_problems([outcomes[number].problem for number in sorted(bad) if outcomes[number].problem])
    if not done:
        raise DataError(
            f"{source}: no face was found in any of {counted(len(faces), 'picture')}; try another --detector"
        )


def _detector(settings: Settings) -> FaceDetector:
    try:
        return make_detector(settings.detector, settings.weights_file, settings.min_confidence)
    except ValueError as error:
        raise ConfigError(f"--detector {settings.detector}: {error}") from None


def _begin(table: Path, output: Path, settings: Settings, detector: FaceDetector) -> None:
    """Makes the output folder, or sees that it is of the same table and settings."""
    if obstacle := obstacle_to_writing(output):
        raise ConfigError(f"{output}: cannot be written: {obstacle}")
    contents = {
        "data": "masks drawn on photographs",
        "version": VERSION,
        "table": str(table.resolve()),
        "seed": settings.seed,
        "detector": {"name": settings.detector, "min_confidence": settings.min_confidence, **detector.key},
        "face": settings.face,
    }
    text = json.dumps(contents, indent=4)
    marker = output / MARKER
    if marker.exists():
        if marker.read_text(encoding="utf-8") != text:
            raise ConfigError(
                f"{output}: holds masks drawn from another table or with other settings (see {marker}); "
                "name another folder"
            )
    elif output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"{output}: is not an empty folder; name another one")
    else:
        write_atomically(marker, text.encode())


Job = tuple[int, BareFace]


class _Worker:
    """Draws faces in a process of its own, or in this one.

    torch runs on one thread: the sums of several depend on their number, and the processes are many."""

    def __init__(self, settings: Settings) -> None:
        cv2.setNumThreads(1)
        if settings.detector == "mtcnn":
            import torch

            torch.set_num_threads(1)
        self.settings = settings
        self.detector = _detector(settings)

    def __call__(self, job: Job) -> Outcome:
        number, face = job
        try:
            image = read_rgb(face.record.path)
        except DataError as error:
            return Outcome(number, problem=f"{face.record.origin}: {error}")
        found = self.detector(image)
        if not found:
            return Outcome(number)
        head = Head.from_landmarks(choose_face(found, image, self.settings.face).landmarks_or_estimate)
        for drawing in face.drawings:
            target = face.file(drawing)
            if drawing.kind is None:
                write_atomically(target, face.record.path.read_bytes())
                continue
            random = numpy_stream(self.settings.seed, f"drawn mask {face.record.name} {drawing.stem}")
            drawn = draw_mask(image, head, drawing.kind, drawing.way, random)
            write_atomically(target, encode(drawn, ENCODINGS.get(target.suffix.lower(), JPEG)))
        return Outcome(number, len(found))


_worker: _Worker | None = None


def _start_worker(settings: Settings) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    _worker = _Worker(settings)


def _work(job: Job) -> Outcome:
    assert _worker is not None
    return _worker(job)


@contextmanager
def _drawn(jobs: Sequence[Job], settings: Settings, workers: int | None) -> Iterator[Iterator[Outcome]]:
    """What became of each picture, in any order."""
    workers = min(workers or number_of_cores(), len(jobs))
    if workers <= 1:
        yield map(_Worker(settings), jobs) if jobs else iter(())
        return
    # Not forked: a copy of a process whose libraries have threads running waits for them for ever.
    with multiprocessing.get_context("spawn").Pool(workers, _start_worker, (settings,)) as pool:
        yield pool.imap_unordered(_work, jobs)


def _write_labels(output: Path, faces: Sequence[BareFace]) -> None:
    """OUT/labels.csv: the eight rows of each face."""
    own = ("mask", "drawn_mask")
    attributes = [name for name in faces[0].record.attributes if name not in own]
    has_parts = any(face.record.part for face in faces)
    rows = [["path", "person", *own, *attributes, *(["split"] if has_parts else [])]]
    for face in faces:
        record = face.record
        known = ["" if record.attributes[name] is None else str(record.attributes[name]) for name in attributes]
        for drawing in face.drawings:
            path = face.file(drawing).relative_to(output).as_posix()
            row = [path, record.person or record.name, drawing.state, drawing.description, *known]
            rows.append([*row, *([record.part or ""] if has_parts else [])])
    _write_table(output / TABLE, rows)


def _write_table(path: Path, rows: Sequence[Sequence[str]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_atomically(path, text.getvalue().encode())


def draw_contact_sheet(faces: Sequence[BareFace]) -> np.ndarray:
    """Faces evenly chosen, a row each: bare, worn, and worn wrongly."""
    chosen = {str(number): face for number, face in enumerate(faces)}
    rows = []
    for number in evenly(list(chosen), SHEET_FACES):
        face = chosen[number]
        in_order = (face.drawings[-1], *face.drawings[:-1])
        rows.append(np.concatenate([tile_of(read_rgb(face.file(drawing))) for drawing in in_order], axis=1))
    return np.concatenate(rows)


def _report(
    output: Path,
    faces: Sequence[BareFace],
    done: Sequence[BareFace],
    missing: Sequence[str],
    outcomes: dict[int, Outcome],
) -> None:
    if missing:
        more = f" and {len(missing) - LISTED} more" if len(missing) > LISTED else ""
        logger.warning(
            "no face was found in %d of %s, left out: %s%s (all are in %s)",
            len(missing), counted(len(faces), "picture"), ", ".join(missing[:LISTED]), more, output / WITHOUT_FACE,
        )  # fmt: skip
    crowded = sum(outcome.faces > 1 for outcome in outcomes.values())
    if crowded:
        logger.info("several faces, of which one got the mask (--face): in %s", counted(crowded, "picture"))
    if done:
        persons = len({face.record.person or face.record.name for face in done})
        logger.info(
            "%s: %d images of %s of %s",
            output / TABLE, 8 * len(done), counted(len(done), "face"), counted(persons, "person"),
        )  # fmt: skip


def parse(argv: Sequence[str] | None) -> Namespace:
    """The command line. Raises ConfigError."""
    parser = CommandLine(prog="scripts.draw_masks", description="Draws masks on the bare faces of a table.")
    parser.add_argument("table", type=Path, help="path, person, gender, age, ..., by the rules of an AttributeTable")
    parser.add_argument("output", type=Path, help="a new folder, or that of a run of this command that was stopped")
    parser.add_argument("--root", help="the folder that the table's paths are relative to (the table's own)")
    parser.add_argument("--path-column", default="path", help="(path, or a synonym)")
    parser.add_argument("--person-column", default="auto", help="(person, or a synonym)")
    parser.add_argument(
        "--detector",
        choices=("mtcnn", "yunet", "haar"),
        default="mtcnn",
        help="mtcnn (pip install --no-deps facenet-pytorch), yunet (--weights-file), or haar, which is always there "
        "and finds no landmarks (mtcnn)",
    )
    parser.add_argument("--weights-file", type=Path, help="of yunet: face_detection_yunet_2023mar.onnx")
    parser.add_argument("--min-confidence", type=float, default=0.8, help="of a face, for mtcnn and yunet (0.8)")
    parser.add_argument(
        "--face", choices=("largest", "central"), default="central", help="which of several gets the mask (central)"
    )
    parser.add_argument("--seed", type=int, default=7, help="of all that is drawn (7)")
    parser.add_argument("--workers", type=int, help="processes (one a core)")
    parser.add_argument("--contact-sheet", action="store_true", help=f"writes {CONTACT_SHEET}: some faces, a row each")
    return parser.parse(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of this process, or `argv`."""
    arguments: Any = parse(argv)
    if not 0 <= arguments.min_confidence <= 1:
        raise ConfigError(f"--min-confidence {arguments.min_confidence}: must be from 0 to 1")
    source = FaceTable(
        str(arguments.table), arguments.root, arguments.path_column, person_column=arguments.person_column
    )
    settings = Settings(
        arguments.detector, arguments.weights_file, arguments.min_confidence, arguments.face, arguments.seed
    )
    open_log(None, 1)
    try:
        draw_masks(source, arguments.output, settings, arguments.workers, arguments.contact_sheet)
    finally:
        close_log()
