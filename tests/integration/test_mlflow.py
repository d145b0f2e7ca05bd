"""Trainings that MLflow tracks, read back with its own client from a server that the test starts."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.workplace import ROOT, Workplace

mlflow = pytest.importorskip("mlflow")


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


@contextmanager
def server(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """An MLflow server on a database and a folder of artifacts, as its URL and process."""
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    store = ["--backend-store-uri", f"sqlite:///{folder}/m.db", "--artifacts-destination", str(folder / "artifacts")]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # no further processes
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, *store], stdout=log, stderr=log, env=environment, start_new_session=True)
        try:
            uri = f"http://127.0.0.1:{port}"
            while True:
                try:
                    urllib.request.urlopen(f"{uri}/health", timeout=2).close()
                    break
                except OSError:
                    assert process.poll() is None, (folder / "log").read_text()
                    time.sleep(0.1)
            yield uri, process
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def after_epoch(workplace: Workplace, run: str, epoch: int, act: Any) -> None:
    """Does something once a run has so many epochs."""

    def wait() -> None:
        metrics = workplace.save_dir / "log/Tiny" / run / "metrics.jsonl"
        while not metrics.exists() or len(metrics.read_bytes().splitlines()) < epoch:
            time.sleep(0.005)
        act()

    threading.Thread(target=wait, daemon=True).start()


def test_a_training_is_one_run_of_the_server_which_may_also_die(workplace: Workplace) -> None:
    """Stopped and resumed it has one id, with the config, every metric of every epoch and the files. Then another is
    trained as the server is killed: one warning, and it is trained to its end."""
    with server(workplace.folder / "server") as (uri, process):
        mlflow_settings = {"tracking_uri": uri, "experiment": "faces", "user": "me"}
        config = workplace.write_config({"mlflow": mlflow_settings, "trainer.epochs": 12, "trainer.early_stop": 0})
        after_epoch(workplace, "one", 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert workplace.train("-c", config, "--run-id", "one").exit_code == 75
        models = workplace.save_dir / "models/Tiny/one"
        workplace.train("--resume", models).check_success()

        client = mlflow.MlflowClient(uri)
        experiment = client.get_experiment_by_name("faces")
        (run,) = client.search_runs([experiment.experiment_id])
        assert (run.info.run_name, run.info.status) == ("one", "FINISHED")
        assert run.data.tags["mlflow.user"] == "me"
        assert run.data.params["optimizer.type"] == "AdamW"
        lines = (workplace.save_dir / "log/Tiny/one/metrics.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        assert len(rows) == 12
        for name in rows[0].keys() - {"epoch"}:
            accepted = name.replace("<", "_").replace(">=", "__")  # of class names
            tracked = sorted((each.step, each.value) for each in client.get_metric_history(run.info.run_id, accepted))
            assert tracked == [(row["epoch"], row[name]) for row in rows if row[name] is not None], name
        files = {file.path for file in client.list_artifacts(run.info.run_id)}
        assert {"config.json", "model_best.pth", "report.html"} <= files
        report = Path(client.download_artifacts(run.info.run_id, "report.html", str(workplace.folder)))
        assert report.read_bytes() == (models / "report.html").read_bytes()
        (confusion,) = client.list_artifacts(run.info.run_id, "val/confusion")
        pictures = {Path(file.path).name for file in client.list_artifacts(run.info.run_id, confusion.path)}
        assert {"0.png", "captions.txt"} <= pictures
        best = Path(client.download_artifacts(run.info.run_id, "model_best.pth", str(workplace.folder)))
        assert best.read_bytes() == (models / "model_best.pth").read_bytes()

        after_epoch(workplace, "two", 2, lambda: os.killpg(process.pid, signal.SIGKILL))
        outcome = workplace.train("-c", config, "--run-id", "two")
        outcome.check_success()
        assert outcome.out.count("warning: mlflow failed") == 1
        lines = (workplace.save_dir / "log/Tiny/two/metrics.jsonl").read_text().splitlines()
        assert len(lines) == 12


def test_what_mlflow_run_starts_is_the_run_that_it_made(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command of MLproject, with the variables that `mlflow run` sets; folds are runs below it."""
    from mlflow.projects._project_spec import load_project

    database = f"sqlite:///{workplace.folder}/m.db"
    client = mlflow.MlflowClient(database)
    experiment = client.create_experiment("project", str(workplace.folder / "artifacts"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    folds = {"split": {"type": "KFoldSplit", "args": {"folds": 2, "stratify": []}}}
    for changes in ({}, folds):
        outer = client.create_run(experiment).info.run_id
        monkeypatch.setenv("MLFLOW_RUN_ID", outer)
        given = {"config": str(workplace.write_config(changes)), "set": "trainer.epochs=2"}
        for name, value in given.items():
            client.log_param(outer, name, value)
        command = load_project(str(ROOT)).get_entry_point("main").compute_command(given, None)
        assert command.startswith("python train.py ")
        workplace.train(*shlex.split(command)[2:]).check_success()
        runs = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{outer}'")
        own = client.get_run(outer)
        if changes:
            assert [len(client.get_metric_history(run.info.run_id, "val/loss")) for run in runs] == [2, 2]
            assert "val/loss" not in own.data.metrics
        else:
            assert runs == []
            assert len(client.get_metric_history(outer, "val/loss")) == 2
            assert own.data.params["trainer.epochs"] == "2"
            assert "config.json" in {file.path for file in client.list_artifacts(outer)}
