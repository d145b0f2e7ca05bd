"""What every tracker does, and `Trackers`, several of them as one."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from logger.log import LOG_NAME
from utils.config.credentials import without_credentials
from utils.wording import first_line

TIMES = "time/"
"""The beginning of the names of numbers that another run of the same config has not the same of."""

CaptionedImage = tuple[np.ndarray, str]
"""A picture, uint8 (H, W, 3), and its caption."""


class Tracker(ABC):
    """Records a run's numbers and pictures, an epoch at a time. Only the main process of a run has trackers.

    A method may raise whatever its library raises: see `Trackers`.

    optional: whether a run continues without it after an error
    """

    name: ClassVar[str]
    optional: ClassVar[bool] = True

    def start(self) -> None:  # noqa: B027
        """Called once, before anything is logged: where a tracker connects to its server."""

    @abstractmethod
    def log_metrics(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """All numbers of an epoch, by name, such as "val/f1"; called once an epoch, the epochs rising."""

    def log_images(self, epoch: int, name: str, images: Sequence[CaptionedImage]) -> None:  # noqa: B027
        """Pictures of an epoch, logged before its metrics; those of the whole run after the last epoch's."""

    @abstractmethod
    def close(self, exit_code: int) -> None:
        """Ends the tracking. exit_code: of the run, 0 when it is finished"""

    def state(self) -> dict[str, Any]:
        """Plain data for the checkpoint: what a resumed run must give the constructor."""
        return {}


class Trackers(Tracker):
    """Several trackers as one; none of them in processes other than the main one.

    An optional tracker that raises is dropped with one warning in the log, and training continues. The error of any
    other (OSError of the JSON lines when the disk is full) is raised after all have been called.
    """

    name = "all"

    def __init__(self, trackers: Sequence[Tracker] = ()) -> None:
        self._trackers = list(trackers)
        self._all = tuple(trackers)
        self._call(lambda tracker: tracker.start())

    def log_metrics(self, epoch: int, metrics: Mapping[str, float]) -> None:
        self._call(lambda tracker: tracker.log_metrics(epoch, metrics))

    def log_images(self, epoch: int, name: str, images: Sequence[CaptionedImage]) -> None:
        self._call(lambda tracker: tracker.log_images(epoch, name, images))

    def close(self, exit_code: int) -> None:
        self._call(lambda tracker: tracker.close(exit_code))

    @property
    def take_images(self) -> bool:
        """Whether some tracker does something with pictures."""
        return any(type(tracker).log_images is not Tracker.log_images for tracker in self._trackers)

    def state(self) -> dict[str, Any]:
        """By tracker's name; also of a dropped one, whose server a resumed run may reach again."""
        return {tracker.name: state for tracker in self._all if (state := tracker.state())}

    def _call(self, method: Callable[[Tracker], None]) -> None:
        failure: Exception | None = None
        for tracker in list(self._trackers):
            try:
                method(tracker)
            except Exception as error:
                if not tracker.optional:
                    failure = error
                    continue
                self._trackers.remove(tracker)
                wrong = f"{type(error).__name__}: {without_credentials(first_line(error))}"
                reason = f"failed ({wrong}) and is left out from here on"
                logging.getLogger(LOG_NAME).warning("%s %s; metrics.jsonl keeps everything", tracker.name, reason)
        if failure is not None:
            raise failure
