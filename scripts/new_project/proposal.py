"""A config for a table that nobody has described yet: its attributes, their classes, and how to train on them."""

from __future__ import annotations

import math
import re
import statistics
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from base.batch import EMBEDDING, UNKNOWN
from data_loader.records.image_root import IMAGE_EXTENSIONS, ImageRoot
from data_loader.records.sources import DEFAULT_SPLIT_VALUES
from data_loader.records.tables import SYNONYMS, find_column, plain, read_table
from data_loader.splits import Split
from experiment.builders import read_label_table
from experiment.checks import check_config
from experiment.monitored import refuse_unusable_split
from experiment.schema import SECTIONS
from parse_config import ConfigParser
from utils.errors import ConfigError, DataError
from utils.images import read_rgb
from utils.wording import format_value

MOST_CLASSES = 40
IMAGES_PER_CLASS = 2
"""On average; a column with fewer holds texts or names, not classes."""
LONGEST_CLASS = 60
MOST_NUMBERS = 12
"""A column of more different numbers is divided into bins."""
BINS = 3
ID_HEADERS = ("id", "ids", "index", "idx", "no", "nr", "number", "key", "uuid", "guid", "url", "hash", "md5")
ID_ENDINGS = ("id", "index", "number", "code", "no")
UNKNOWN_WORDS = ("na", "n/a", "nan", "null", "none", "unknown", "?", "-")
FEWEST_TO_TELL_IDS = 10
SIZES_READ = 50
SMALLEST_SIDE, LARGEST_SIDE = 64, 224
FEWEST_UPDATES = 500
SIDED = re.compile(r"\b(left|right)\b|왼|오른|좌측|우측", re.IGNORECASE)
"""Classes that a mirrored image would not have."""


@dataclass(frozen=True)
class Proposal:
    """A config, and what each column of the table was taken for.

    config: complete, for train.py
    notes: lines for the user
    """

    config: dict[str, Any]
    notes: list[str]


def propose_config(
    table: Path,
    name: str,
    root: Path | None = None,
    image_column: str | None = None,
    heads: Sequence[str] | None = None,
    person_column: str | None = None,
) -> Proposal:
    """A config that trains on a table of images, whose rows, files and split were checked.

    table: with a column of image paths, and one for each attribute
    name: of the config
    root: the folder that paths are relative to; None: the table's own, or the one folder in it that has the images
    image_column, person_column: None: found by their headers
    heads: the columns that are predicted; None: each that holds classes or numbers

    Raises DataError where the table cannot be read, its images are missing, or nothing in it can be predicted;
    ConfigError for columns that are named twice."""
    image_column, person_column = _composed(image_column), _composed(person_column)
    asked = None if heads is None else [str(_composed(head)) for head in heads]
    _refuse_named_twice(image_column, person_column, asked or ())
    rows = read_table(table, [column for column in (image_column, person_column, *(asked or ())) if column])
    columns = {column: [cells[column] for _, cells in rows] for column in rows[0][1] if column}
    free = {column: cells for column, cells in columns.items() if column not in (asked or ())}
    others = {column: cells for column, cells in free.items() if column != person_column}
    path = image_column or _find_image_column(table, others)
    free.pop(path)
    person = person_column or find_column(table, free, "person", "--person-column")
    notes = [f'images: column "{path}"']
    if person is None:
        notes.append(
            "persons: no such column, so each image counts by itself; --person-column names what no split cuts"
        )
    else:
        count = len(set(filter(None, free.pop(person))))
        notes.append(f'persons: column "{person}", {count} of them, each on one side of the split')
    split = _find_split_column(free, columns[person] if person is not None else None, notes)
    attributes = _attributes(table, free if asked is None else {head: columns[head] for head in asked}, asked, notes)
    folder = root or _find_root(table.parent, columns[path])
    source: dict[str, Any] = {"path": str(table)} | ({"root": str(folder)} if folder != table.parent else {})
    source |= {"path_column": path, "person_column": person, "split_column": split}
    renamed = {attribute: column for attribute, (column, _) in attributes.items() if attribute != column}
    source |= {"columns": renamed} if renamed else {}
    has_own_split = split is not None and "validation" in map(_side, columns[split]) and all(columns[split])
    config = _config(name, source, {attribute: spec for attribute, (_, spec) in attributes.items()}, has_own_split)
    _fit_to_images(config, notes)
    return Proposal(config, notes)


def _composed(text: str | None) -> str | None:
    """As headers are read, whatever the keyboard has made of a letter."""
    return None if text is None else unicodedata.normalize("NFC", text)


def _refuse_named_twice(image_column: str | None, person_column: str | None, heads: Sequence[str]) -> None:
    for flag, column in (("--image-column", image_column), ("--person-column", person_column)):
        if column in heads:
            raise ConfigError(f'{flag}: "{column}" is one of --heads, too; take it out of one of them')
    if image_column == person_column and image_column is not None:
        raise ConfigError(f'--person-column: "{person_column}" is the column of the images, too; name another')


def _find_image_column(table: Path, columns: Mapping[str, Sequence[str]]) -> str:
    """The one column whose cells all end as images do, or else the one that is headed so."""
    ends = [column for column, cells in columns.items() if all(map(_looks_like_an_image, filter(None, cells)))]
    ends = [column for column in ends if any(columns[column])]
    found = ends[0] if len(ends) == 1 else find_column(table, columns, "path", "--image-column")
    if found is None:
        raise DataError(f"{table}: which column has the images, {', '.join(columns)}? name it with --image-column")
    return found


def _looks_like_an_image(cell: str) -> bool:
    return cell.lower().endswith(IMAGE_EXTENSIONS)


def _side(cell: str) -> str | None:
    return DEFAULT_SPLIT_VALUES.get(cell.lower())


def _find_split_column(free: dict[str, list[str]], persons: Sequence[str] | None, notes: list[str]) -> str | None:
    """The column that gives the training and another side, and no person to two, if there is one; takes it, and others
    that name sides, out of `free`.

    free: cells by column
    persons: by row, "" where unknown"""
    found = None
    for column in [each for each in free if plain(each) in ("split", *SYNONYMS["split"])]:
        sides = [_side(cell) for cell in free[column] if cell]
        if not sides or None in sides:  # a set of something else
            continue
        cells = free.pop(column)
        given = {(person, _side(cell)) for person, cell in zip(persons or (), cells, strict=False) if person and cell}
        is_cut = len(given) > len({person for person, _ in given})
        if found is None and "train" in sides and len(set(sides)) > 1 and not is_cut:
            found = column
            notes.append(f'split: column "{column}"')
        else:
            why = "it gives a person to two sides" if is_cut else "it does not give the training and another side"
            notes.append(f"{column}: is not used: {why}")
    return found


def _find_root(folder: Path, paths: Sequence[str]) -> Path:
    """The table's folder, or the one folder in it that has the first image."""
    first = next(filter(None, paths), "")
    inside = sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))
    having = [each for each in (folder, *inside) if _has_image(each, first)]
    return having[0] if len(having) == 1 else folder


def _has_image(folder: Path, path: str) -> bool:
    try:
        ImageRoot(folder).find(path)
    except ValueError:
        return False
    return True


def _attributes(
    table: Path, columns: Mapping[str, Sequence[str]], asked: Sequence[str] | None, notes: list[str]
) -> dict[str, tuple[str, dict[str, Any]]]:
    """By attribute, its column and its spec; adds a line for each column to `notes`."""
    attributes: dict[str, tuple[str, dict[str, Any]]] = {}
    for column, cells in columns.items():
        spec, note = _propose_attribute(column, cells, asked is not None)
        if spec is not None:
            attributes[_attribute_name(column, attributes)] = (column, spec)
        elif asked is not None:
            raise DataError(f"{table}: {column} cannot be predicted: {note}")
        notes.append(f"{column}: {note}" if spec is not None else f"{column}: is not used: {note}")
    if not attributes:
        reasons = "; ".join(notes[-len(columns) :]) if columns else "it has no other column"
        raise DataError(f"{table}: nothing in it can be predicted ({reasons}); name a column with --heads")
    return attributes


def _attribute_name(column: str, taken: Iterable[str]) -> str:
    """The header with the letters that a name may have."""
    name = re.sub(r"[^\w-]+", "_", column).strip("_") or "attribute"
    while name in taken or name == EMBEDDING:
        name += "_"
    return name


def _propose_attribute(column: str, cells: Sequence[str], asked: bool) -> tuple[dict[str, Any] | None, str]:
    """The spec of a column's attribute, None if it has none, and what it holds.

    asked: the user has named it, so it is no column of ids or texts"""
    counts = Counter(filter(None, cells))
    known = counts.total()
    unknown = f", {len(cells) - known} unknown" if known < len(cells) else ""
    if len(counts) < 2:
        return None, f"every cell is {format_value(next(iter(counts)))}" if counts else "its cells are empty"
    if not asked and _is_id(column, [cell for cell in cells if cell]):
        return None, "it looks like an id; if it says whose images they are, name it with --person-column"
    numbers = _numbers(counts.elements())
    if numbers is not None:
        values = sorted(set(numbers))
        if len(values) < 2:
            return None, f"every cell is {values[0]:g}"
        are_few = len(values) <= MOST_NUMBERS and known >= IMAGES_PER_CLASS * len(values)
        if not are_few or len(values) < len(counts):  # "1" and "1.0" are one number, but two classes
            edges = values[1:] if are_few else _edges(numbers)
            bins = [int(edge) if float(edge).is_integer() else edge for edge in edges]
            return {"bins": bins}, f"numbers, with bins at {', '.join(map(str, bins))}{unknown}"
    elif len(wrong := [cell for cell in counts if _numbers([cell]) is None]) * 5 <= len(counts) > MOST_NUMBERS:
        return (
            None,
            f"it holds numbers, but also {format_value(wrong[0])}; leave cells empty where the value is unknown",
        )
    if not asked and (len(counts) > MOST_CLASSES or known < IMAGES_PER_CLASS * len(counts)):
        return None, f"it holds {len(counts)} different values in {known} rows"
    if not asked and max(map(len, counts)) > LONGEST_CLASS:
        return None, "it holds texts"
    classes = sorted(counts, key=float if numbers is not None else _natural_order)
    described = ", ".join(f"{each} {counts[each]}" for each in classes[:8]) + (", ..." if len(classes) > 8 else "")
    note = f"{len(classes)} classes ({described}){unknown}"
    for cell in classes:
        if cell.lower() in UNKNOWN_WORDS:
            note += f'; "{cell}" counts as a class: leave such cells empty if it means unknown'
    return {"classes": classes}, note


def _natural_order(text: str) -> list[str | int]:
    """Sorts "3-9" before "10-19"."""
    return [int(part) if number % 2 else part for number, part in enumerate(re.split(r"([0-9]+)", text))]


def _is_id(column: str, cells: Sequence[str]) -> bool:
    """Whether a column numbers or names its rows: by its header, or where each value is another and they count up."""
    header = plain(column)
    if header in ID_HEADERS:
        return True
    if len(cells) < FEWEST_TO_TELL_IDS or len(set(cells)) < len(cells):
        return False
    numbers = _numbers(cells)
    if numbers is None or not all(number.is_integer() for number in numbers):
        return False
    if header.endswith(ID_ENDINGS):
        return True
    return numbers == sorted(numbers) or max(numbers) - min(numbers) == len(numbers) - 1


def _numbers(cells: Iterable[str]) -> list[float] | None:
    """None where a cell is no finite number."""
    try:
        numbers = [float(cell) for cell in cells]
    except ValueError:
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def _edges(numbers: Sequence[float]) -> list[float]:
    """Edges of up to BINS bins with about equally many numbers, none of them empty; rounded where that keeps it so."""
    lowest = min(numbers)
    exact = statistics.quantiles(numbers, n=BINS, method="inclusive")
    exact = [edge for edge in exact if edge > lowest] or [min(each for each in numbers if each > lowest)]
    whole = all(number.is_integer() for number in numbers)
    rounded = [float(math.ceil(edge)) if whole else float(f"{edge:.3g}") for edge in exact]
    found = _without_empty_bins(numbers, rounded)
    return found if len(found) == len(set(exact)) else _without_empty_bins(numbers, exact)


def _without_empty_bins(numbers: Sequence[float], edges: Iterable[float]) -> list[float]:
    kept: list[float] = []
    for edge in sorted(set(edges)):
        lower = kept[-1] if kept else -math.inf
        if edge <= max(numbers) and any(lower <= number < edge for number in numbers):
            kept.append(edge)
    return kept


def _config(
    name: str, source: Mapping[str, Any], attributes: Mapping[str, Mapping[str, Any]], has_own_split: bool
) -> dict[str, Any]:
    """The config before the images are known."""
    classes = " ".join(each for spec in attributes.values() for each in spec.get("classes", ()))
    mirrored = [] if SIDED.search(classes) else [{"type": "HorizontalFlip", "args": {"p": 0.5}}]
    split = {"type": "PersonSplit", "args": {"validation_share": 0.2, "stratify": [*attributes], "seed": 42}}
    head = {"type": "CrossEntropyLoss", "args": {"class_weights": "sqrt"}, "weight": 1.0}
    return {
        "name": name,
        "seed": 42,
        "n_gpu": 1,
        "labels": {"attributes": {attribute: dict(spec) for attribute, spec in attributes.items()}},
        "data": [{"type": "AttributeTable", "args": dict(source)}],
        "split": {"type": "GivenSplit"} if has_own_split else split,
        "transforms": {
            "train": [
                {"type": "Resize"},
                {"type": "ShiftScaleRotate", "args": {"shift_limit": 0.1, "scale_limit": 0.1, "rotate_limit": 5}},
                {"type": "RandomBrightnessContrast", "args": {"p": 0.5}},
                *mirrored,
                {"type": "Normalize"},
            ],
            "eval": [{"type": "Resize"}, {"type": "Normalize"}],
        },
        "data_loader": {
            "type": "AttributeDataLoader",
            "args": {"input_size": LARGEST_SIDE, "batch_size": 8, "num_workers": "auto", "cache": "disk"},
        },
        "arch": {"type": "TimmModelMulti", "args": {"model_name": "resnet18", "pretrained": True}},
        "loss": {"heads": {attribute: dict(head) for attribute in attributes}},
        "metrics": ["accuracy", "f1"],
        "optimizer": {"type": "AdamW", "args": {"lr": 0.0005, "weight_decay": 0.01}},
        "lr_scheduler": {"type": "OneCycleLR", "args": {"max_lr": 0.002}},
        "trainer": {"epochs": 15, "save_dir": "saved/", "save_best": [], "monitor": "min val/loss"},
    }


def _fit_to_images(config: dict[str, Any], notes: list[str]) -> None:
    """Sets what depends on the images: their size, batches, epochs, and the metrics that the validation side has.

    Raises what train.py would raise for the table, before an image is trained on."""
    parser = _parser(config)
    labels = parser.shared("labels")
    split = parser.build("split").divide(read_label_table(parser, labels), parser.extra().seed)
    images = len(split.train)
    batch_size = min(images, 64, max(8, 2 ** int(math.log2(max(1, images / 16)))))
    epochs = min(50, max(15, math.ceil(FEWEST_UPDATES / (images // batch_size))))
    height, width = _typical_size([record.path for record in split.train.records])
    config["data_loader"]["args"] |= {
        "input_size": height if height == width else [height, width],
        "batch_size": batch_size,
    }
    config["trainer"] |= {"epochs": epochs, "save_best": _bests(split)}
    parser = _parser(config)
    check_config(parser)
    refuse_unusable_split(parser, split)
    notes.append(
        f"{images} images to train, {len(split.validation)} to validate, {len(split.test)} to test; "
        f"input {height} x {width}, batches of {batch_size}, {epochs} epochs"
    )


def _parser(config: Mapping[str, Any]) -> ConfigParser:
    """Of the config, but for where runs are saved: that is in the new project."""
    trainer = {**config["trainer"], "save_dir": tempfile.gettempdir()}
    return ConfigParser.from_dict({**config, "trainer": trainer}, SECTIONS, "the proposed config")


def _bests(split: Split) -> list[str]:
    """The joint macro F1 where most validation images have all labels, else that of each head that has some."""
    labels, targets = split.validation.label_space, split.validation.scoring_targets
    if labels.has_joint_class and (labels.joint_classes(targets) != UNKNOWN).float().mean() > 0.5:
        return ["max val/f1"]
    return [f"max val/{name}_f1" for name, target in targets.items() if (target != UNKNOWN).any()]


def _typical_size(paths: Sequence[Path]) -> tuple[int, int]:
    """Height and width in pixels, multiples of 32 from SMALLEST_SIDE to LARGEST_SIDE, of about the images' shape."""
    sizes = []
    for path in paths[:: max(1, len(paths) // SIZES_READ)]:
        try:
            sizes.append(read_rgb(path).shape[:2])
        except DataError:  # training names all of them
            continue
    if not sizes:
        return LARGEST_SIDE, LARGEST_SIDE
    height, width = (statistics.median(each) for each in zip(*sizes, strict=True))
    scale = min(1.0, LARGEST_SIDE / max(height, width))
    sides = [max(SMALLEST_SIDE, round(side * scale / 32) * 32) for side in (height, width)]
    return sides[0], sides[1]
