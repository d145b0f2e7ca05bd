"""Weights & Biases: curves, the best values and pictures on its server, or offline until `wandb sync`."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from logger.log import LOG_NAME
from logger.tracker import CaptionedImage, Tracker

START_SECONDS = 30
"""How long the server may take to answer at the start; then wandb is given up."""
FINISH_SECONDS = 60
"""How long it may take to receive what is left at the end."""


class WandbTracker(Tracker):
    """One wandb run, whose x axis is the epoch and whose summary shows the best of each validation metric.

    Where no credentials are found and WANDB_MODE is not set, the run is recorded offline, for `wandb sync` to send.

    directory: wandb keeps its files in the folder "wandb" there
    config: the run's resolved config
    monitor: such as "min val/error_rate", which way that metric gets better; of others, the name decides
    resume_id: an earlier run's `state()["run_id"]`
    """

    name = "wandb"

    def __init__(
        self,
        project: str,
        run_name: str,
        directory: Path,
        config: Mapping[str, Any],
        monitor: str = "off",
        resume_id: str | None = None,
    ) -> None:
        import wandb  # slow

        self._wandb = wandb
        self._project, self._run_name, self._directory, self._config = project, run_name, directory, config
        self._run_id = resume_id or uuid.uuid4().hex[:8]
        mode, _, metric = monitor.partition(" ")
        self._better = {metric: mode}
        self._defined: set[str] = set()
        self._logged_epoch = 0
        self._run: Any = None

    def start(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        settings = self._wandb.setup(settings=self._wandb.Settings(silent=True, console="off")).settings
        mode_is_chosen = bool(os.environ.get("WANDB_MODE")) or settings.mode != "online"
        is_offline = not mode_is_chosen and not _has_credentials(settings)
        if is_offline:
            note = "offline, for there is no WANDB_API_KEY; `wandb sync` sends what is in"
            logging.getLogger(LOG_NAME).info("wandb: %s %s", note, self._directory / "wandb")
        self._run = self._wandb.init(
            project=self._project,
            name=self._run_name,
            id=self._run_id,
            resume="allow",
            dir=str(self._directory),
            config=dict(self._config),
            mode="offline" if is_offline else None,
            settings=self._wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                reinit="create_new",
                login_timeout=START_SECONDS,
                init_timeout=START_SECONDS,
                finish_timeout=FINISH_SECONDS,
            ),
        )
        self._run.define_metric("epoch")
        self._run.define_metric("*", step_metric="epoch")

    def log_metrics(self, epoch: int, metrics: Mapping[str, float]) -> None:
        for name in metrics:
            if name.startswith("val/") and name not in self._defined:
                better = self._better.get(name, "min" if "loss" in name else "max")
                self._run.define_metric(name, step_metric="epoch", summary=better)
                self._defined.add(name)
        # The epoch is the step too, so that epochs a resumed run repeats are not there twice.
        self._run.log({"epoch": epoch, **metrics}, step=epoch, commit=True)
        self._logged_epoch = epoch

    def log_images(self, epoch: int, name: str, images: Sequence[CaptionedImage]) -> None:
        """Sent with the epoch's metrics; where those have been sent, as the summary of the run."""
        pictures = [self._wandb.Image(image, caption=caption) for image, caption in images]
        if epoch <= self._logged_epoch:
            self._run.summary[name] = pictures
            return
        self._run.log({name: pictures}, step=epoch, commit=False)

    def close(self, exit_code: int) -> None:
        self._run.finish(exit_code=exit_code)

    def state(self) -> dict[str, Any]:
        return {"run_id": self._run_id}


def _has_credentials(settings: Any) -> bool:
    """Whether wandb would find a key without asking: in the environment, its settings, or a netrc file."""
    from requests.utils import get_netrc_auth

    return bool(settings.api_key or os.environ.get("WANDB_IDENTITY_TOKEN_FILE") or get_netrc_auth(settings.base_url))
