"""What is in a set of images: classes, numbers, sizes and pixels, counted."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from base.batch import UNKNOWN
from data_loader.records.image_check import number_of_cores
from data_loader.records.label_table import LabelTable
from data_loader.records.records import Record
from utils.images import BitsUsed, visit_rgb
from utils.progress import with_progress

HISTOGRAM_BINS = 12
"""A histogram of numbers has at most so many, whose width is 1, 2 or 5 times a power of ten."""

FREQUENT_SIZES = 3
"""How many of the most frequent image sizes are named."""


def mean_and_std(level_counts: np.ndarray) -> tuple[list[float], list[float]]:
    """Of all pixels, by channel, in units of 0 to 1; the standard deviation is divided by their number N.

    level_counts: (3, 256), how often each level occurs in each channel"""
    levels = np.arange(256) / 255
    means = [float(np.average(levels, weights=counts)) for counts in level_counts]
    variances = [
        np.average((levels - mean) ** 2, weights=counts) for mean, counts in zip(means, level_counts, strict=True)
    ]
    return means, [math.sqrt(variance) for variance in variances]


def label_statistics(sides: Mapping[str, LabelTable]) -> dict[str, dict[str, Any]]:
    """By side: images, persons, the scored classes of each attribute and of the answer, the heads' training classes.

    An attribute with bins also has the lowest, median and highest number, and a histogram with the same bins on all
    sides."""
    labels = next(iter(sides.values())).label_space
    numbers = {
        name: {side: _known(table.numbers[name]) for side, table in sides.items()}
        for name, attribute in labels.attributes.items()
        if attribute.bins is not None
    }
    bins = {
        name: histogram_bins([value for known in by_side.values() for value in known])
        for name, by_side in numbers.items()
    }
    found: dict[str, dict[str, Any]] = {}
    for side, table in sides.items():
        attributes = {
            name: _class_shares(table.scoring_classes[name].tolist(), attribute.class_names)
            for name, attribute in labels.attributes.items()
        }
        for name in numbers:
            attributes[name]["numbers"] = _number_statistics(numbers[name][side], bins[name])
        counts = table.class_counts()
        joint = {}
        if labels.has_joint_class:
            classes = labels.joint_classes(table.scoring_targets).tolist()
            joint = {"answer": _class_shares(classes, labels.joint_class_names)}
        found[side] = {
            "images": len(table),
            "persons": table.num_persons,
            "attributes": attributes,
            **joint,
            "training_classes": {
                name: dict(zip(head.class_names, counts[name].tolist(), strict=True))
                for name, head in labels.heads.items()
            },
        }
    return found


def _known(numbers: Tensor) -> list[float]:
    return numbers[~numbers.isnan()].tolist()


def _class_shares(found: Sequence[int], names: Sequence[str]) -> dict[str, Any]:
    """found: the classes, -1 = unknown. Shares of classes are of the images whose class is known."""
    counts = Counter(found)
    known = len(found) - counts[UNKNOWN]
    return {
        "classes": {
            name: {"images": counts[number], "share": counts[number] / known if known else 0.0}
            for number, name in enumerate(names)
        },
        "unknown": {"images": counts[UNKNOWN], "share": counts[UNKNOWN] / len(found)},
    }


def histogram_bins(values: Sequence[float]) -> tuple[float, dict[int, str]]:
    """The width of bins that hold all values, and the bins' names by number: k width <= value < (k + 1) width.

    Whole numbers have bins of whole numbers, named by the first and the last: "15-19"."""
    if not values:
        return 1.0, {}
    low, high = min(values), max(values)
    whole = all(float(value).is_integer() for value in values)
    smallest = 10.0 ** math.floor(math.log10((high - low) / HISTOGRAM_BINS)) if high > low else 1.0
    widths = [smallest * factor for factor in (1, 2, 5, 10, 20)]
    widths = [1.0, *(each for each in widths if each > 1)] if whole else widths
    width = next(each for each in widths if math.floor(high / each) - math.floor(low / each) < HISTOGRAM_BINS)
    names = {}
    for number in range(math.floor(low / width), math.floor(high / width) + 1):
        first, last = number * width, (number + 1) * width - whole
        names[number] = f"{first:g}" if first == last else f"{first:g}-{last:g}"
    return width, names


def _number_statistics(values: Sequence[float], bins: tuple[float, dict[int, str]]) -> dict[str, Any]:
    if not values:
        return {}
    width, names = bins
    counts = Counter(math.floor(value / width) for value in values)
    return {
        "lowest": min(values),
        "median": statistics.median(values),
        "highest": max(values),
        "histogram": {name: counts[number] for number, name in names.items()},
    }


def size_statistics(sizes: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """sizes: (height, width) of each image, in pixels."""
    sides = {
        name: {"lowest": min(values), "median": statistics.median(values), "highest": max(values)}
        for name, values in zip(("height", "width"), zip(*sizes, strict=True), strict=True)
    }
    frequent = Counter(sizes).most_common(FREQUENT_SIZES)
    return {**sides, "most_frequent": [{"height": h, "width": w, "images": count} for (h, w), count in frequent]}


def measure_images(
    sides: Mapping[str, Sequence[Record]], bits_used_of_16: BitsUsed = 16, show_progress: bool = False
) -> tuple[dict[str, list[tuple[int, int]]], np.ndarray]:
    """Decodes every image once; however many threads do so, one large image is in memory at a time.

    Returns by side the (height, width) of each image, and (3, 256) int64 how often each level occurs in each channel
    of the side "train"."""
    sizes: dict[str, list[tuple[int, int]]] = {side: [] for side in sides}
    level_counts = np.zeros((3, 256), np.int64)
    images = [(side, record.path) for side, records in sides.items() for record in records]
    pool = ThreadPoolExecutor(max_workers=number_of_cores())  # decoders release the interpreter's lock
    try:
        measured = pool.map(lambda image: visit_rgb(image[1], _measured, bits_used_of_16), images)
        for (side, _), (size, counts) in zip(
            images, with_progress(measured, len(images), "measuring images", show_progress), strict=True
        ):
            sizes[side].append(size)
            if side == "train":
                level_counts += counts
    finally:
        pool.shutdown(cancel_futures=True)
    return sizes, level_counts


def _measured(image: np.ndarray) -> tuple[tuple[int, int], np.ndarray]:
    """(height, width), and (3, 256): how often each level occurs in each channel."""
    return (image.shape[0], image.shape[1]), np.array(Image.fromarray(image).histogram()).reshape(3, 256)
