"""What the MLflow tracker logged, read back with MLflow's own client; tests/integration has a server."""

from __future__ import annotations

import time
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
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A save_dir whose database all tests use, for it is made in seconds."""
    return tmp_path_factory.mktemp("saved")


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


def _client(directory: Path) -> Any:
    return mlflow.MlflowClient(f"sqlite:///{directory}/mlflow.db")


def _ended(tracker: MlflowTracker) -> str:
    tracker.start()
    tracker.close(0)
    run_id: str = tracker.state()["run_id"]
    return run_id


def test_a_run_and_its_resumption_are_one_run_with_parameters_curves_and_files(tmp_path: Path, directory: Path) -> None:
    checkpoint = tmp_path / "model_best.pth"
    checkpoint.write_bytes(b"weights")
    missing = tmp_path / "report.html"
    first = _tracker(directory)
    first.start()
    first.log_metrics(1, {"val/f1": 0.25, "val/loss": float("nan")})
    first.log_images(1, "val/worst", [(np.full((4, 4, 3), 9, np.uint8), "a mask")])
    first.close(75)
    again = _tracker(directory, resume_id=first.state()["run_id"], artifacts=[checkpoint, missing])
    again.start()
    again.log_metrics(2, {"val/f1": 0.5})
    again.close(0)

    assert again.state() == first.state()
    client = _client(directory)
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
def test_the_exit_code_is_the_status(exit_code: int, status: str, directory: Path) -> None:
    tracker = _tracker(directory)
    tracker.start()
    tracker.close(exit_code)
    assert _client(directory).get_run(tracker.state()["run_id"]).info.status == status


def test_a_resumed_run_that_the_server_does_not_know_begins_a_new_one(directory: Path) -> None:
    assert _ended(_tracker(directory, resume_id="0" * 32)) != "0" * 32


def test_many_long_and_oddly_named_values_are_taken(directory: Path) -> None:
    config = {f"key {number}": "x" * (9000 if number == 7 else 1) for number in range(250)} | {"a/b(c)": 1, "ü": "ü"}
    tracker = MlflowTracker({}, "many", "run", directory, config)
    tracker.start()
    tracker.log_metrics(1, {"val/kleidung (größe)_f1": 0.5, "val/color+kind_f1": 0.25})
    tracker.close(0)
    data = _client(directory).get_run(tracker.state()["run_id"]).data
    assert len(data.params) == len(config)
    assert data.params["a_b_c_"] == "1"
    assert data.metrics == {"val/kleidung _größe__f1": 0.5, "val/color_kind_f1": 0.25}


def test_the_run_of_mlflow_run_is_joined_and_a_fold_is_below_it(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = _client(directory)
    outer = client.create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{directory}/mlflow.db")
    monkeypatch.setenv("MLFLOW_RUN_ID", outer)
    assert _ended(_tracker(tmp_path)) == outer
    assert client.get_run(outer).data.params["seed"] == "42"
    fold = client.get_run(_ended(_tracker(tmp_path, is_fold=True)))
    assert fold.info.run_id != outer
    assert fold.data.tags["mlflow.parentRunId"] == outer
    assert fold.info.experiment_id == "0"
    assert [*tmp_path.iterdir()] == []


def test_a_server_that_is_down_costs_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    began = time.monotonic()
    trackers = Trackers([_tracker(tmp_path, "http://127.0.0.1:9")])
    trackers.log_metrics(1, {"val/f1": 0.5})
    trackers.close(0)
    (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "mlflow" in record.getMessage()
    assert time.monotonic() - began < 60
