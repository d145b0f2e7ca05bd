"""What the MLflow tracker logged, read back with MLflow's own client: from a database, and from a server."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from logger.mlflow_tracker import MlflowSettings, MlflowTracker
from logger.tracker import Trackers

mlflow = pytest.importorskip("mlflow")

CONFIG = {"name": "faces", "seed": 42, "optimizer": {"type": "AdamW", "args": {"lr": 1e-3}}, "data": [{"type": "A"}]}


def _tracker(directory: Path, uri: str | None = None, **options: Any) -> MlflowTracker:
    settings: MlflowSettings = {"user": "me", "tracking_uri": uri} if uri else {"user": "me"}
    return MlflowTracker(settings, "faces", "20261130-1", directory, CONFIG, **options)


def _history(client: Any, run_id: str, name: str) -> list[tuple[int, float]]:
    return sorted((metric.step, metric.value) for metric in client.get_metric_history(run_id, name))


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One for all, for it is made in seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('database')}/mlflow.db"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    store = ["--backend-store-uri", f"sqlite:///{folder}/m.db", "--artifacts-destination", str(folder / "artifacts")]
    with (folder / "log").open("wb") as log, subprocess.Popen([*command, *store], stdout=log, stderr=log) as process:
        uri = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{uri}/health", timeout=2).close()
                break
            except OSError:
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.2)
        yield uri
        process.terminate()


@pytest.mark.parametrize("where", ["own database", "server"])
def test_a_run_and_its_resumption_are_one_run_with_parameters_curves_and_files(
    where: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    uri = request.getfixturevalue("server") if where == "server" else None
    checkpoint = tmp_path / "model_best.pth"
    checkpoint.write_bytes(b"weights")
    missing = tmp_path / "report.html"
    first = _tracker(tmp_path / "runs", uri)
    first.start()
    first.log_metrics(1, {"val/f1": 0.25, "val/loss": float("nan")})
    first.log_images(1, "val/worst", [(np.full((4, 4, 3), 9, np.uint8), "a mask")])
    first.close(75)
    again = _tracker(tmp_path / "runs", uri, resume_id=first.state()["run_id"], artifacts=[checkpoint, missing])
    again.start()
    again.log_metrics(2, {"val/f1": 0.5})
    again.close(0)

    assert again.state() == first.state()
    client = mlflow.MlflowClient(uri or f"sqlite:///{tmp_path}/runs/mlflow.db")
    experiment = client.get_experiment_by_name("faces")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_id, run.info.run_name) == (first.state()["run_id"], "20261130-1")
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.user"] == "me"
    assert run.data.params["optimizer.args.lr"] == "0.001"
    assert run.data.params["data.0.type"] == "A"
    assert _history(client, run.info.run_id, "val/f1") == [(1, 0.25), (2, 0.5)]
    assert "val/loss" not in run.data.metrics
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert files == {"model_best.pth", "val"}
    images = [file.path for file in client.list_artifacts(run.info.run_id, "val/worst/epoch_1")]
    assert sorted(images) == ["val/worst/epoch_1/0.png", "val/worst/epoch_1/captions.txt"]
    client.delete_experiment(experiment.experiment_id)


@pytest.mark.parametrize(("exit_code", "status"), [(0, "FINISHED"), (5, "FAILED"), (75, "KILLED"), (130, "KILLED")])
def test_the_exit_code_is_the_status(exit_code: int, status: str, tmp_path: Path, database: str) -> None:
    tracker = _tracker(tmp_path, database)
    tracker.start()
    tracker.close(exit_code)
    client = mlflow.MlflowClient(database)
    assert client.get_run(tracker.state()["run_id"]).info.status == status


def test_a_resumed_run_that_the_server_does_not_know_begins_a_new_one(tmp_path: Path, database: str) -> None:
    tracker = _tracker(tmp_path, database, resume_id="0" * 32)
    tracker.start()
    assert tracker.state()["run_id"] != "0" * 32


def test_a_config_of_more_values_than_one_call_takes(tmp_path: Path, database: str) -> None:
    config = {f"key {number}": "x" * (9000 if number == 7 else 1) for number in range(250)} | {"a/b": 1, "ü": "ü"}
    tracker = MlflowTracker({"tracking_uri": database}, "many", "run", tmp_path, config)
    tracker.start()
    tracker.close(0)
    client = mlflow.MlflowClient(database)
    assert len(client.get_run(tracker.state()["run_id"]).data.params) == len(config)


def test_a_server_that_is_down_costs_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    began = time.monotonic()
    trackers = Trackers([_tracker(tmp_path, "http://127.0.0.1:9")])
    trackers.log_metrics(1, {"val/f1": 0.5})
    trackers.close(0)
    (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "mlflow" in record.getMessage()
    assert time.monotonic() - began < 60
