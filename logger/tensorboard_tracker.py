"""TensorBoard's event files."""

from __future__ import annotations

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

        self._writer = SummaryWriter(str(self._log_dir), purge_step=self._purge_epoch)

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

    def close(self, exit_code: int) -> None:  # noqa: ARG002
        self._writer.close()
