"""Pictures of a table or folder, prepared into files of the same names in another folder.

A journal in the new folder, prepared.csv, lists what is done, so that what was stopped is taken up again.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from data_loader.preparation.build import PREPARATION
from data_loader.preparation.preparation import Preparation, fallback_report
from data_loader.records.image_root import IMAGE_EXTENSIONS, READ_EXTENSIONS, ImageRoot
from data_loader.records.tables import columns_are, find_column, raise_problems, read_table
from utils.config.layers import Layers
from utils.errors import ConfigError, DataError, InvalidConfig, write_error
from utils.files import write_atomically
from utils.images import read_rgb
from utils.images.contact_sheet import ENCODINGS, JPEG, encode, evenly, grid, tile_of
from utils.progress import with_progress
from utils.run_folders import obstacle_to_writing
from utils.threads import thread_pool

logger = logging.getLogger(__name__)

TABLES = (".csv", ".tsv")
JOURNAL, MARKER, CONTACT_SHEET = "prepared.csv", "preparation.json", "contact_sheet.jpg"
COLUMNS = ["path", "size", "changed_ns", "fallbacks"]

SHEET_PICTURES, SHEET_COLUMNS = 48, 6


def read_preparation(path: Path) -> Preparation:
    """The preparation of a config file, or of those that it extends. Raises ConfigError."""
    layers = Layers.from_file(path)
    if layers.problems:
        raise ConfigError("\n".join(layers.problems))
    steps = layers.values.get("preparation")
    if not steps:
        remedy = 'name a config that has one, as with -c configs/face_crop.json, or add steps: [{"type": "FaceCrop"}]'
        raise ConfigError(f"{path}: preparation is missing; {remedy}")
    problems = PREPARATION.problems(steps, ("preparation",))
    try:
        built = [] if problems else PREPARATION.build(PREPARATION.with_defaults(steps), ("preparation",), {})
    except InvalidConfig as error:
        problems = error.problems
    if problems:
        raise ConfigError("\n".join(f"{path}: {problem}" for problem in problems), problems)
    return Preparation(built)


def find_pictures(source: Path) -> list[str]:
    """The pictures below a folder, or of a table's rows, relative to the folder, or to that of the table.

    source: an absolute path

    Raises DataError if there are none, or a table's rows are wrong."""
    if source.is_dir():
        files = [path for path in sorted(source.rglob("*")) if not path.name.startswith(".")]
        found = [str(path.relative_to(source)) for path in files if path.suffix.lower() in READ_EXTENSIONS]
        unread = [path.relative_to(source) for path in files if path.suffix.lower() in (".tif", ".tiff")]
        if unread:
            logger.warning("%s: TIFF is not read: %d left out, such as %s; save as PNG", source, len(unread), unread[0])
    elif source.suffix.lower() in IMAGE_EXTENSIONS:
        raise DataError(f"{source}: is a picture, not a table; give the folder that it is in")
    else:
        rows = read_table(source)
        column = find_column(source, rows[0][1], "path", "a column named path")
        if column is None:
            raise DataError(f'{source}: has no column "path" ({columns_are(rows[0][1])})')
        root, found, problems = ImageRoot(source.parent), [], []
        for number, row in rows:
            try:
                found.append(str(root.find(row[column]).relative_to(source.parent)))
            except ValueError as error:
                problems.append(f"{source} row {number}: {error}")
        raise_problems(problems)
    if not found:
        raise DataError(f"{source}: holds no pictures ({', '.join(READ_EXTENSIONS)})")
    return list(dict.fromkeys(found))


class Journal:
    """OUT/prepared.csv: a row for each picture that was written, with the source's size and time of change."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, list[str]] = {}
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                rows = [row for row in csv.reader(file) if len(row) == len(COLUMNS)]  # the last one may be cut short
            self.rows = {row[0]: row for row in rows[1:]}
        self.rewrite()

    def rewrite(self) -> None:
        """Writes the file anew: one row for each picture."""
        text = io.StringIO(newline="")
        csv.writer(text).writerows([COLUMNS, *self.rows.values()])
        write_atomically(self.path, text.getvalue().encode())

    def is_done(self, name: str, source: Path, target: Path) -> bool:
        """Whether the picture was prepared from the source file as it is."""
        return name in self.rows and self.rows[name][1:3] == _signature(source) and target.is_file()

    def add(self, name: str, source: Path, fallbacks: Sequence[str]) -> None:
        """Notes that a picture was written."""
        self.rows[name] = [name, *_signature(source), "; ".join(fallbacks)]
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(self.rows[name])

    def fallbacks(self, names: Sequence[str]) -> list[tuple[str, list[str]]]:
        """Of each picture its name and its fallbacks."""
        return [(name, self.rows[name][3].split("; ") if self.rows[name][3] else []) for name in names]


def _signature(path: Path) -> list[str]:
    status = path.stat()
    return [str(status.st_size), str(status.st_mtime_ns)]


def prepare(source: Path, output: Path, preparation: Preparation, contact_sheet: bool = False) -> list[str]:
    """Prepares all pictures of a table or folder and returns the report's lines.

    Raises ConfigError where the output cannot be used or a network cannot be loaded; DataError, at the end, for
    pictures that cannot be read."""
    source = source.resolve() if source.is_dir() else source.parent.resolve() / source.name
    root = source if source.is_dir() else source.parent
    names = find_pictures(source)
    _begin(root, output, preparation)
    journal = Journal(output / JOURNAL)
    left = [name for name in names if not journal.is_done(name, root / name, output / name)]
    problems: list[str] = []
    done = _prepared(left, root, output, preparation)
    for name, fallbacks in with_progress(done, len(names), "preparing images", True, len(names) - len(left)):
        if isinstance(fallbacks, DataError):
            problems.append(str(fallbacks))
        else:
            journal.add(name, root / name, fallbacks)
    journal.rewrite()
    for table in _tables(source):
        (output / table.relative_to(root)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(table, output / table.relative_to(root))
    written = journal.fallbacks([name for name in names if name in journal.rows])
    if contact_sheet and written:
        write_atomically(output / CONTACT_SHEET, encode(draw_contact_sheet(root, output, written), JPEG))
    raise_problems(problems)
    return fallback_report(written)


def _begin(root: Path, output: Path, preparation: Preparation) -> None:
    """Makes the output folder, or sees that it is of the same preparation."""
    if output.resolve().is_relative_to(root.resolve()):
        raise ConfigError(f"{output}: is inside {root}, whose pictures are read; name another folder")
    if obstacle := obstacle_to_writing(output):
        raise ConfigError(f"{output}: cannot be written: {obstacle}")
    marker = output / MARKER
    text = json.dumps(preparation.key, indent=4)
    if marker.exists():
        if marker.read_text(encoding="utf-8") != text:
            raise ConfigError(f"{output}: holds pictures that were prepared otherwise; name another folder")
    elif output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"{output}: is not an empty folder; name another one")
    else:
        write_atomically(marker, text.encode())


def _prepared(
    names: Sequence[str], root: Path, output: Path, preparation: Preparation
) -> Iterator[tuple[str, list[str] | DataError]]:
    """Of each picture, once it is written, its name and its fallbacks, or why it cannot be read."""

    def write(name: str) -> tuple[str, list[str] | DataError]:
        try:
            image, fallbacks = preparation(read_rgb(root / name))
        except DataError as error:
            return name, error
        data = encode(image, ENCODINGS.get(Path(name).suffix.lower(), JPEG))
        try:
            write_atomically(output / name, data)
        except OSError as error:
            raise write_error(output / name, error) from error
        return name, fallbacks

    with thread_pool() as pool:
        yield from pool.map(write, names)


def _tables(source: Path) -> list[Path]:
    if not source.is_dir():
        return [source]
    tables = (path for path in source.rglob("*") if path.suffix.lower() in TABLES and path.is_file())
    return [path for path in tables if path.name != JOURNAL]


def draw_contact_sheet(root: Path, output: Path, written: Sequence[tuple[str, list[str]]]) -> np.ndarray:
    """Pairs of pictures before and after, evenly chosen; half of them fallbacks, as far as there are, framed in red."""
    fallen = [name for name, fallbacks in written if fallbacks]
    chosen = evenly(fallen, SHEET_PICTURES // 2)
    others = [name for name, fallbacks in written if not fallbacks]
    chosen += evenly(others, SHEET_PICTURES - len(chosen))
    tiles = []
    for name in chosen:
        tile = np.concatenate([tile_of(read_rgb(folder / name)) for folder in (root, output)], axis=1)
        if name in fallen:
            cv2.rectangle(tile, (0, 0), (tile.shape[1] - 1, tile.shape[0] - 1), (220, 0, 0), 4)
        tiles.append(tile)
    return grid(tiles, SHEET_COLUMNS)
