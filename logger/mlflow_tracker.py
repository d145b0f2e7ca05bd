"""MLflow: parameters, curves, pictures and files on a tracking server, or in a SQLite database beside the runs."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from pydantic import ConfigDict, with_config

from logger.tracker import CaptionedImage, Tracker
from utils.errors import ConfigError

_PARAMETERS_PER_CALL = 100
_LONGEST_PARAMETER = 6000
"""Limits of MLflow's own."""

_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # a server that is down costs seconds, not the minutes of MLflow's default
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "GIT_PYTHON_REFRESH": "quiet",
}
_STATUS = {0: "FINISHED", 75: "KILLED", 130: "KILLED"}


@with_config(ConfigDict(extra="forbid", strict=True))
class MlflowSettings(TypedDict, total=False):
    """Where MLflow keeps a run, and as what.

    tracking_uri: a server (http://...) or a database (sqlite:///...); default: the variable MLFLOW_TRACKING_URI, else a
        SQLite database in trainer.save_dir
    experiment: the MLflow experiment, which is made if it does not exist; default: the config's name
    user: a tag of the run; default: the name of the account
    """

    tracking_uri: str
    experiment: str
    user: str


class MlflowTracker(Tracker):
    """One MLflow run, whose steps are epochs. A resumed run continues under its earlier id; what `mlflow run` starts is
    the run that this has made.

    settings: where, and as what
    experiment: name of the MLflow experiment, if the settings have none
    run_name: title of the run
    directory: where the database and its artifacts are, if the settings have no tracking_uri
    config: the run's resolved config, logged flattened; it holds no credentials
    artifacts: files that are uploaded at the end, those of them that exist
    resume_id: an earlier run's `state()["run_id"]`
    is_fold: one of several that a command trains: kept below the run of `mlflow run`

    Raises ConfigError where the package is not installed.
    """

    name = "mlflow"

    def __init__(
        self,
        settings: MlflowSettings,
        experiment: str,
        run_name: str,
        directory: Path,
        config: Mapping[str, Any],
        artifacts: Sequence[Path] = (),
        resume_id: str | None = None,
        is_fold: bool = False,
    ) -> None:
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        try:
            import mlflow
        except ImportError as error:
            raise ConfigError('mlflow needs the package "mlflow": pip install mlflow, or set it to false') from error
        self._mlflow = mlflow
        self._settings, self._experiment = settings, settings.get("experiment", experiment)
        self._tracking_uri = settings.get("tracking_uri") or os.environ.get("MLFLOW_TRACKING_URI")
        self._outer_id = os.environ.get("MLFLOW_RUN_ID")
        self._run_name, self._directory = run_name, directory.resolve()
        self._config, self._artifacts = config, artifacts
        self._run_id, self._is_fold = resume_id, is_fold
        self._client: Any = None

    def start(self) -> None:
        logging.getLogger("urllib3").setLevel(logging.ERROR)  # its retries are not the user's business, nor are
        logging.getLogger("mlflow").setLevel(logging.WARNING)  # the tables of a new database
        if self._tracking_uri is None:
            self._directory.mkdir(parents=True, exist_ok=True)
        self._client = self._mlflow.MlflowClient(self._tracking_uri or f"sqlite:///{self._directory / 'mlflow.db'}")
        if self._run_id is not None:
            try:
                self._client.update_run(self._run_id, status="RUNNING")
                return
            except self._mlflow.MlflowException:  # the server does not know it: it is another one, or was emptied
                self._run_id = None
        tags = {"mlflow.user": self._settings["user"]} if "user" in self._settings else {}
        if self._outer_id is not None and not self._is_fold:
            self._run_id = self._outer_id
            for name, text in tags.items():
                self._client.set_tag(self._run_id, name, text)
        else:
            if self._outer_id is not None:
                tags["mlflow.parentRunId"] = self._outer_id
            experiment = self._experiment_id()
            self._run_id = self._client.create_run(experiment, run_name=self._run_name, tags=tags).info.run_id
        parameters = [
            self._mlflow.entities.Param(name, value[:_LONGEST_PARAMETER]) for name, value in flatten(self._config)
        ]
        for start in range(0, len(parameters), _PARAMETERS_PER_CALL):
            self._client.log_batch(self._run_id, params=parameters[start : start + _PARAMETERS_PER_CALL])

    def _experiment_id(self) -> str:
        if self._outer_id is not None:
            outer: str = self._client.get_run(self._outer_id).info.experiment_id
            return outer
        artifacts = None if self._tracking_uri else (self._directory / "mlartifacts").as_uri()
        experiment = self._client.get_experiment_by_name(self._experiment)
        if experiment is None:
            try:
                created: str = self._client.create_experiment(self._experiment, artifacts)
                return created
            except self._mlflow.MlflowException:  # another run has just made it
                experiment = self._client.get_experiment_by_name(self._experiment)
                if experiment is None:
                    raise
        if experiment.lifecycle_stage == "deleted":
            self._client.restore_experiment(experiment.experiment_id)
        found: str = experiment.experiment_id
        return found

    def log_metrics(self, epoch: int, metrics: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        rows = [
            self._mlflow.entities.Metric(_accepted(name), float(value), now, epoch)
            for name, value in metrics.items()
            if math.isfinite(value)  # databases have no NaN
        ]
        self._client.log_batch(self._run_id, metrics=rows)

    def log_images(self, epoch: int, name: str, images: Sequence[CaptionedImage]) -> None:
        for number, (image, _) in enumerate(images):
            self._client.log_image(self._run_id, image, artifact_file=f"{name}/epoch_{epoch}/{number}.png")
        captions = "\n".join(f"{number}. {caption}" for number, (_, caption) in enumerate(images))
        self._client.log_text(self._run_id, captions, f"{name}/epoch_{epoch}/captions.txt")

    def close(self, exit_code: int) -> None:
        if self._client is None or self._run_id is None:
            return
        for path in self._artifacts:
            if path.is_file():
                self._client.log_artifact(self._run_id, str(path))
        self._client.set_terminated(self._run_id, status=_STATUS.get(exit_code, "FAILED"))

    def state(self) -> dict[str, Any]:
        return {"run_id": self._run_id} if self._run_id else {}


def flatten(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """The leaves of plain data by key path: ("optimizer.args.lr", "0.001")."""
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        yield name, str(value)
        return
    for key, inner in items:
        accepted = _accepted(str(key)).replace("/", "_")
        yield from flatten(inner, f"{name}.{accepted}" if name else accepted)


def _accepted(name: str) -> str:
    """A name as MLflow takes it, which refuses some signs; the slashes of metrics group them on its page."""
    return "".join(sign if sign.isalnum() or sign in "_-. /" else "_" for sign in name)
