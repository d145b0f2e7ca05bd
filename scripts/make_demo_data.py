"""Draws a data set of faces in the competition's layout: `python -m scripts.make_demo_data --output data/demo`.

    <output>/train/train.csv, train/images/<id>_<gender>_<race>_<age>/{mask1..mask5,incorrect_mask,normal}.<ext>
    <output>/eval/info.csv (every answer 0), eval/images/<name>
    <output>/eval_answers.csv (ImageID,ans,person), the true answers, beside what a model may see
    <output>/demo_data.json, what was asked for; "finished" once every file is there

All of it is drawn: nobody's photograph is in it. A person's pictures depend on the seed and the person's number alone.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import cv2
from PIL import Image
from tqdm import tqdm

from scripts.demo_data.faces import contact_sheet, draw_photograph
from scripts.demo_data.people import Person
from scripts.demo_data.plan import Drawing, Plan, plan_people, plan_tables
from utils.errors import ConfigError, run_and_exit, write_error
from utils.files import write_atomically

VERSION = 1
"""Raised whenever the same arguments give other pixels."""
MARKER = "demo_data.json"
NOTE = """# Drawn faces

Everything here was drawn by `python -m scripts.make_demo_data`; there is no photograph of anyone in it. It has the mask
competition's layout, so that the project can be tried where the competition's data is not at hand. Scores on drawn
faces say nothing about scores on photographs. `eval_answers.csv` holds the true answers to `eval/info.csv`.
"""


def make_demo_data(output: Path, people: int, eval_people: int, seed: int, workers: int | None = None) -> None:
    """Draws `people` for training and `eval_people` others for evaluation; nothing if they lie there already.

    workers: processes, default one a core; the files are the same for any number.
    Raises ConfigError for a wrong number, or if `output` holds anything else."""
    for name, number in (("people", people), ("eval-people", eval_people)):
        if number < 1:
            raise ConfigError(f"--{name} {number}: must be at least 1")
    plan = plan_people(people, eval_people, seed)
    _draw(output, plan, {"people": people, "eval_people": eval_people, "seed": seed}, workers)


def make_from_tables(
    output: Path, train_table: Path, train_files: Path, eval_table: Path, seed: int, workers: int | None = None
) -> None:
    """Draws the very people and files of three tables: id,gender,race,age,path; path,label; ImageID,ans.

    A file's label says how its mask is worn. Raises ConfigError as `make_demo_data`, DataError for a wrong table."""
    plan = plan_tables(train_table, train_files, eval_table, seed)
    arguments: dict[str, Any] = {"seed": seed}
    for name, table in (("train_table", train_table), ("train_files", train_files), ("eval_table", eval_table)):
        arguments[name] = hashlib.sha256(table.read_bytes()).hexdigest()
    _draw(output, plan, arguments, workers)


def _draw(output: Path, plan: Plan, arguments: dict[str, Any], workers: int | None) -> None:
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers {workers}: must be at least 1")
    contents = {"data": "drawn faces; no photograph of anyone", "version": VERSION, "arguments": arguments}
    try:
        if _is_finished(output, contents) and all((output / path).is_file() for path in plan.paths()):
            print(f"{output}: already drawn")
            return
        _write_tables(output, plan, contents)
        _draw_files([(person, [(output / d.path, d) for d in own]) for person, own in plan.people], workers)
        _write(output / MARKER, json.dumps({**contents, "finished": True}, indent=2) + "\n")
    except OSError as error:
        raise write_error(f"--output {error.filename or output}", error) from None
    print(f"{output}: drew {len(plan.train_rows)} people for training, {len(plan.answers)} photographs for evaluation")


def _is_finished(output: Path, contents: dict[str, Any]) -> bool:
    """Whether `output` holds all of the drawn data. Raises ConfigError for a folder that holds anything else."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return False
    try:
        found = json.loads((output / MARKER).read_text(encoding="utf-8"))
        finished = bool(found.pop("finished"))
    except (OSError, ValueError, KeyError, AttributeError):
        raise ConfigError(
            f"--output {output} is not empty and holds no drawn data ({MARKER} is missing or unreadable): "
            "name another folder"
        ) from None
    if found != contents:
        raise ConfigError(
            f"--output {output} holds other drawn data (version {found.get('version')}, {found.get('arguments')}): "
            "delete it, or name another folder"
        )
    return finished


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.encode())


def _table_text(header: list[str], rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def _write_tables(output: Path, plan: Plan, contents: dict[str, Any]) -> None:
    """All but the pictures, the marker first: from then on the folder is known as ours."""
    _write(output / MARKER, json.dumps({**contents, "finished": False}, indent=2) + "\n")
    _write(output / "README.md", NOTE)
    columns = ["id", "gender", "race", "age", "path"]
    rows = ([row[column] for column in columns] for row in plan.train_rows)
    _write(output / "train" / "train.csv", _table_text(columns, rows))
    _write(output / "eval" / "info.csv", _table_text(["ImageID", "ans"], ((name, 0) for name, _, _ in plan.answers)))
    _write(output / "eval_answers.csv", _table_text(["ImageID", "ans", "person"], plan.answers))
    for folder in {(output / path).parent for path in plan.paths()}:
        folder.mkdir(parents=True, exist_ok=True)


Job = tuple[Person, list[tuple[Path, Drawing]]]


def _start_worker() -> None:
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer


def _draw_job(job: Job) -> int:
    """Draws one person's files; returns how many."""
    person, drawings = job
    for path, drawing in drawings:
        picture = draw_photograph(person, drawing.stem, drawing.mask_state)
        suffix = path.suffix.lower()
        options = [cv2.IMWRITE_PNG_COMPRESSION, 1] if suffix == ".png" else [cv2.IMWRITE_JPEG_QUALITY, 90]
        _, data = cv2.imencode(suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)
        path.write_bytes(data.tobytes())
    return len(drawings)


def _draw_files(jobs: list[Job], workers: int | None) -> None:
    workers = min(workers or os.cpu_count() or 1, len(jobs))
    total = sum(len(drawings) for _, drawings in jobs)
    with tqdm(total=total, desc="drawing faces", unit="image", disable=not sys.stderr.isatty()) as bar:
        if workers == 1:
            for job in jobs:
                bar.update(_draw_job(job))
            return
        # Not forked: a copy of a process whose OpenCV has threads running waits for them for ever.
        with multiprocessing.get_context("spawn").Pool(workers, _start_worker) as pool:
            for count in pool.imap_unordered(_draw_job, jobs, chunksize=4):
                bar.update(count)


def _write_contact_sheet(path: Path, seed: int) -> None:
    """One PNG of 256 colours, which keeps it small enough for a README."""
    if path.suffix.lower() != ".png":
        raise ConfigError(f"--contact-sheet {path}: the name must end in .png")
    data = io.BytesIO()
    Image.fromarray(contact_sheet(seed)).quantize(256, dither=Image.Dither.NONE).save(data, "png", optimize=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data.getvalue())
    except OSError as error:
        raise write_error(f"--contact-sheet {path}", error) from None


class _Parser(argparse.ArgumentParser):
    """Argument errors as one line, as all other errors."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.prog}: {message} (see --help)")


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = _Parser(prog="scripts.make_demo_data", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, help="folder for the data set")
    parser.add_argument("--people", type=int, help="people to train on (default 200)")
    parser.add_argument("--eval-people", type=int, help="other people to evaluate on (default 40)")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--workers", type=int, help="processes (default: one a core)")
    tables = parser.add_argument_group("draw the very people and files of tables, all three together")
    tables.add_argument("--train-table", type=Path, help="CSV: id,gender,race,age,path")
    tables.add_argument("--train-files", type=Path, help="CSV: path,label")
    tables.add_argument("--eval-table", type=Path, help="CSV: ImageID,ans")
    parser.add_argument("--contact-sheet", type=Path, metavar="PATH", help="only write one picture of drawn samples")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """The command line. Raises ConfigError and DataError."""
    options = _parse(arguments)
    if options.contact_sheet is not None:
        _write_contact_sheet(options.contact_sheet, options.seed)
        return
    if options.output is None:
        raise ConfigError("--output is missing: name the folder for the data set")
    tables = (options.train_table, options.train_files, options.eval_table)
    if any(tables):
        if not all(tables) or options.people is not None or options.eval_people is not None:
            raise ConfigError(
                "--train-table, --train-files and --eval-table go together, and without --people or --eval-people"
            )
        make_from_tables(options.output, *tables, seed=options.seed, workers=options.workers)
        return
    people = 200 if options.people is None else options.people
    eval_people = 40 if options.eval_people is None else options.eval_people
    make_demo_data(options.output, people, eval_people, options.seed, options.workers)


if __name__ == "__main__":
    run_and_exit(main)
