"""Weights & Biases: curves, the best values and pictures on its server, or offline until `wandb sync`."""

from __future__ import annotations

import logging
import netrc
import os
import re
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from logger.log import LOG_NAME
from logger.tracker import CaptionedImage, Tracker
from utils.errors import ConfigError

START_SECONDS = 30
FINISH_SECONDS = 60
"""How long a server may take to answer at the start, and to take what is left at the end; then wandb is given up."""

_CREDENTIAL = re.compile(r"(api_?key|password|passwd|secret|credentials?|(^|_)token)$", re.IGNORECASE)


class WandbTracker(Tracker):
    """One wandb run, whose x axis is the epoch and whose summary shows the best of each validation metric.

    Where no credentials are found and WANDB_MODE is not set, the run is recorded offline, for `wandb sync` to send.
    Raises ConfigError where the package is not installed.
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
        """directory: where wandb keeps its files, in a folder "wandb"; config: the run's resolved config, of which
        entries named like credentials are not passed on; monitor: "min val/loss", says the better direction of one
        metric (of others, the name does: a loss is better when lower); resume_id: an earlier run's `state()["run_id"]`.
        """
        try:
            import wandb
        except ImportError as error:
            raise ConfigError(
                'wandb = true needs the package "wandb": install it with "pip install wandb", or set it to false'
            ) from error
        self._wandb = wandb
        self._project, self._run_name, self._directory, self._config = project, run_name, directory, config
        self._run_id = resume_id or uuid.uuid4().hex[:8]
        self._monitor = monitor.split()
        self._defined: set[str] = set()
        self._pictures: dict[str, list[CaptionedImage]] = {}
        self._pictures_epoch = 0
        self._run: Any = None

    def start(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        settings = self._wandb.setup(settings=self._wandb.Settings(silent=True, console="off")).settings
        mode_is_chosen = bool(os.environ.get("WANDB_MODE")) or settings.mode != "online"
        is_offline = not mode_is_chosen and not _has_credentials(settings)
        if is_offline:
            logging.getLogger(LOG_NAME).info(
                "wandb: offline, for there is no WANDB_API_KEY; `wandb sync` sends what %s keeps",
                self._directory / "wandb",
            )
        self._run = self._wandb.init(
            project=self._project,
            name=self._run_name,
            id=self._run_id,
            resume="allow",
            dir=str(self._directory),
            config=_without_credentials(self._config),
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
                self._run.define_metric(name, step_metric="epoch", summary=self._better(name))
                self._defined.add(name)
        row = {"epoch": epoch, **metrics, **self._take_pictures()}
        # The epoch is the step too, so that epochs a resumed run repeats are not there twice.
        self._run.log(row, step=epoch, commit=True)

    def _better(self, name: str) -> str:
        if len(self._monitor) == 2 and self._monitor[1] == name and self._monitor[0] in ("min", "max"):
            return self._monitor[0]
        return "min" if "loss" in name else "max"

    def log_images(self, epoch: int, name: str, images: Sequence[CaptionedImage]) -> None:
        """Kept until the metrics of the epoch, or the end, and sent with them."""
        self._pictures[name] = list(images)
        self._pictures_epoch = epoch

    def _take_pictures(self) -> dict[str, Any]:
        pictures, self._pictures = self._pictures, {}
        return {
            name: [self._wandb.Image(image, caption=caption) for image, caption in images]
            for name, images in pictures.items()
        }

    def close(self, exit_code: int) -> None:
        if self._pictures:
            self._run.log({"epoch": self._pictures_epoch, **self._take_pictures()})
        self._run.finish(exit_code=exit_code)

    def state(self) -> dict[str, Any]:
        return {"run_id": self._run_id}


def _has_credentials(settings: Any) -> bool:
    """Whether wandb would find a key without asking: in the environment, its settings, or a netrc file for its host."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE") or settings.api_key:
        return True
    path = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        hosts = netrc.netrc(path).hosts
    except (OSError, netrc.NetrcParseError):
        return False
    return any(host == urlsplit(settings.base_url).netloc or "wandb" in host for host in hosts)


def _without_credentials(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_credentials(part) for key, part in value.items() if not _CREDENTIAL.search(str(key))}
    if isinstance(value, list | tuple):
        return [_without_credentials(part) for part in value]
    return value
