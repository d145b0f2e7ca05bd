"""Statistics of a set of images: classes, numbers, sizes and pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from base.batch import UNKNOWN
from data_loader.records.label_table import LabelTable
from data_loader.records.records import Record
from utils.images import BitsUsed, visit_rgb
from utils.progress import with_progress
from utils.threads import thread_pool


def mean_and_std(level_counts: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of all pixels, by channel, in units of 0 to 1.

    level_counts: (3, 256), how often each level occurs in each channel"""
    levels = np.arange(256) / 255
    means = [float(np.average(levels, weights=counts)) for counts in level_counts]
    variances = [np.average((levels - mean) ** 2, weights=row) for mean, row in zip(means, level_counts, strict=True)]
    return means, np.sqrt(variances).tolist()


def label_statistics(table: LabelTable) -> dict[str, Any]:
    """Images, persons, the scored classes of each attribute and of the answer, the heads' training classes.

    table: of one side. An attribute with bins also has its lowest, median and highest number."""
    labels = table.label_space
    attributes = {
        name: _class_shares(table.scoring_classes[name], attribute.class_names)
        for name, attribute in labels.attributes.items()
    }
    for name, numbers in table.numbers.items():
        attributes[name]["numbers"] = spread(numbers[~numbers.isnan()].numpy())
    answer = {}
    if labels.has_joint_class:
        answer = {"answer": _class_shares(labels.joint_classes(table.scoring_targets), labels.joint_class_names)}
    counts = table.class_counts()
    training_classes = {
        name: dict(zip(head.class_names, counts[name].tolist(), strict=True)) for name, head in labels.heads.items()
    }
    return {
        "images": len(table),
        "persons": table.num_persons,
        "attributes": attributes,
        **answer,
        "training_classes": training_classes,
    }


def spread(values: np.ndarray) -> dict[str, float]:
    """The lowest, median and highest of some numbers; empty where there are none."""
    if not len(values):
        return {}
    return {"lowest": values.min().item(), "median": float(np.median(values)), "highest": values.max().item()}


def _class_shares(classes: Tensor, names: Sequence[str]) -> dict[str, Any]:
    """classes: (N,), -1 = unknown. A class's share is of the images whose class is known."""
    unknown, *counts = (classes - UNKNOWN).bincount(minlength=len(names) + 1).tolist()
    known = max(sum(counts), 1)
    return {
        "classes": {name: {"images": n, "share": n / known} for name, n in zip(names, counts, strict=True)},
        "unknown": {"images": unknown, "share": unknown / len(classes)},
    }


def measure_images(
    sides: Mapping[str, Sequence[Record]], bits_used_of_16: BitsUsed = 16, show_progress: bool = False
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Decodes every image once; however many threads do so, one large image is in memory at a time.

    Returns by side the (height, width) of each image, (N, 2), and (3, 256) int64 how often each level occurs in each
    channel of the side "train"."""
    sizes: dict[str, list[tuple[int, int]]] = {side: [] for side in sides}
    level_counts = np.zeros((3, 256), np.int64)
    images = [(side, record.path) for side, records in sides.items() for record in records]
    with thread_pool() as pool:
        measured = pool.map(lambda image: visit_rgb(image[1], _measured, bits_used_of_16), images)
        for (side, _), (size, counts) in zip(
            images, with_progress(measured, len(images), "measuring images", show_progress), strict=True
        ):
            sizes[side].append(size)
            if side == "train":
                level_counts += counts
    return {side: np.array(found) for side, found in sizes.items()}, level_counts


def _measured(image: np.ndarray) -> tuple[tuple[int, int], np.ndarray]:
    """(height, width), and (3, 256): how often each level occurs in each channel."""
    return (image.shape[0], image.shape[1]), np.array(Image.fromarray(image).histogram()).reshape(3, 256)
