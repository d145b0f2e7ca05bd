"""How far long work is."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

SECONDS_BETWEEN_LINES = 60


def with_progress(items: Iterable[Item], total: int, description: str, is_shown: bool) -> Iterator[Item]:
    """Passes the items on, with a bar on a terminal, and elsewhere with a line of the log a minute."""
    bar = tqdm(items, total=total, desc=description, leave=False, disable=None if is_shown else True)
    started = last_line = time.monotonic()
    for done, item in enumerate(bar, start=1):
        yield item
        now = time.monotonic()
        if is_shown and bar.disable and now >= last_line + SECONDS_BETWEEN_LINES:
            last_line, rate = now, done / (now - started)
            logger.info("%s: %d of %d, %.0f/s, %.0f s left", description, done, total, rate, (total - done) / rate)
