"""TensorBoard's event files."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from logger.tracker import CaptionedImage, Tracker


class TensorBoardTracker(Tracker):
    """Scalars and pictures as TensorBoard's event files."""

    name = "tensorboard"

    def __init__(self, log_dir: Path, purge_epoch: int | None = None) -> None:
        """Events of `purge_epoch` and later that an earlier start left in `log_dir` are no longer shown."""
        self._log_dir, self._purge_epoch = log_dir, purge_epoch
        self._writer: Any = None

    def start(self) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        before = set(threading.enumerate())
        self._writer = SummaryWriter(str(self._log_dir), purge_step=self._purge_epoch)
        _writing.update(set(threading.enumerate()) - before)

    def log_metrics(self, epoch: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def log_images(self, epoch: int, name: str, images: Sequence[CaptionedImage]) -> None:
        """The pictures as name/0, name/1, ...; the captions as a list, name/captions."""
        for index, (image, _) in enumerate(images):
            self._writer.add_image(f"{name}/{index}", image, epoch, dataformats="HWC")
        captions = "\n".join(f"{index}. {caption}" for index, (_, caption) in enumerate(images))
        self._writer.add_text(f"{name}/captions", captions, epoch)
        self._writer.flush()

    def close(self, exit_code: int) -> None:  # noqa: ARG002
        self._writer.close()


_writing: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
"""TensorBoard's threads, which write. What ends one, such as a full disk, is raised by the next `flush`: it need not be
printed as well."""
_print_error = threading.excepthook


def _print_error_of_others(error: threading.ExceptHookArgs) -> None:
    if error.thread not in _writing:
        _print_error(error)


threading.excepthook = _print_error_of_others
