"""Progress of long work: a bar on a terminal, and elsewhere a line in the log every minute."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

SECONDS_BETWEEN_LINES = 60


def with_progress(
    items: Iterable[Item],
    total: int,
    description: str,
    is_shown: bool,
    done: int = 0,
    images_of: Callable[[Item], int] = lambda _: 1,
) -> Iterator[Item]:
    """Yields the items, and reports how many images are done, how fast, and how long the rest will take.

    total: number of all images
    is_shown: False reports nothing
    done: images that were done before
    images_of: number of images of an item"""
    started = last_line = time.monotonic()
    before = done
    disable = None if is_shown else True  # None: tqdm looks whether stderr is a terminal
    with tqdm(
        total=total, initial=done, desc=description, unit="image", leave=False, disable=disable, dynamic_ncols=True
    ) as bar:
        for item in items:
            yield item
            done += images_of(item)
            bar.update(images_of(item))
            now = time.monotonic()
            if is_shown and bar.disable and now >= last_line + SECONDS_BETWEEN_LINES:
                last_line, rate = now, (done - before) / (now - started)
                seconds_left = max(0, total - done) / rate
                logger.info(
                    "%s: %d of %d images, %.0f images/s, %.0f s left", description, done, total, rate, seconds_left
                )
