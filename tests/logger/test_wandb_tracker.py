"""What the wandb tracker recorded offline, read from the `.wandb` file that `wandb sync` would send; no network."""

from __future__ import annotations

import json
import logging
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from logger import wandb_tracker
from logger.log import LOG_NAME
from logger.tracker import Trackers
from logger.wandb_tracker import WandbTracker
from utils.images.decoding import read_rgb

wandb = pytest.importorskip("wandb")

KEY = "0123456789" * 4
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No settings, keys or caches of whoever runs the tests, and no server."""
    for variable in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(variable)
    for variable in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / "wandb_home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", NOWHERE)
    monkeypatch.setattr(wandb_tracker, "START_SECONDS", 1)
    wandb.teardown()
    yield
    wandb.teardown()


def _tracker(directory: Path, **options: Any) -> WandbTracker:
    tracker = WandbTracker("project", "run name", directory, {"seed": 42}, **options)
    tracker.start()
    return tracker


def _records(directory: Path) -> list[list[Any]]:
    """The records of each run in `directory`, oldest first. The file is LevelDB's log: blocks of 32 KiB, of pieces with
    a checksum (4 bytes), a length (2) and a kind (1: whole, 2 first, 3 middle, 4 last), after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    wandb.teardown()  # its process writes on for a moment after a run's finish, and is done when it ends
    runs = []
    for path in sorted(directory.glob("wandb/offline-run-*/*.wandb")):
        data, position, whole, records = path.read_bytes(), 7, b"", []
        while position + 7 <= len(data):
            if 32768 - position % 32768 < 7:
                position += 32768 - position % 32768
                continue
            _, length, kind = struct.unpack_from("<IHB", data, position)
            whole += data[position + 7 : position + 7 + length]
            position += 7 + length
            if kind in (1, 4):
                records.append(wandb_internal_pb2.Record.FromString(whole))
                whole = b""
        runs.append(records)
    return runs


def _values(items: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def _of(records: list[Any], kind: str) -> list[Any]:
    return [getattr(record, kind) for record in records if record.WhichOneof("record_type") == kind]


def test_without_a_key_the_run_is_recorded_offline_with_a_line_in_the_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    tracker = _tracker(tmp_path / "log", monitor="min val/error_rate")
    rows = [
        {"train/loss": 3.0, "val/loss": 2.0, "val/f1": 0.1, "val/error_rate": 0.5},
        {"train/loss": 2.0, "val/loss": 1.0, "val/f1": 0.4, "val/error_rate": 0.6},
        {"train/loss": 1.0, "val/loss": 1.5, "val/f1": 0.2, "val/error_rate": 0.7},
    ]
    for epoch, row in enumerate(rows, start=1):
        tracker.log_metrics(epoch, row)
    tracker.close(0)
    assert capfd.readouterr() == ("", "")
    (record,) = [record for record in caplog.records if record.name == LOG_NAME]
    assert record.levelno == logging.INFO
    assert "offline" in record.getMessage()
    assert "WANDB_API_KEY" in record.getMessage()

    (records,) = _records(tmp_path / "log")
    (run,) = _of(records, "run")
    assert (run.run_id, run.project, run.display_name) == (tracker.state()["run_id"], "project", "run name")
    assert _values(run.config.update)["seed"] == 42
    history = [_values(row.item) for row in _of(records, "history")]
    assert [{name: row[name] for name in ("epoch", *rows[0])} for row in history] == [
        {"epoch": epoch, **row} for epoch, row in enumerate(rows, start=1)
    ]
    assert [row["_step"] for row in history] == [1, 2, 3]
    summary: dict[str, Any] = {}
    for update in _of(records, "summary"):
        summary |= _values(update.update)
    assert summary["val/loss"] == {"min": 1.0}
    assert summary["val/f1"] == {"max": 0.4}
    assert summary["val/error_rate"] == {"min": 0.5}
    assert summary["train/loss"] == 1.0
    assert _of(records, "exit")[0].exit_code == 0


def test_pictures_go_with_the_metrics_of_their_epoch(tmp_path: Path) -> None:
    picture = np.zeros((6, 9, 3), np.uint8)
    picture[2, 3] = (255, 0, 10)
    tracker = _tracker(tmp_path)
    tracker.log_images(1, "worst", [(picture, "true 3, predicted 5"), (picture, "two")])
    tracker.log_metrics(1, {"val/f1": 0.1})
    tracker.close(0)
    (records,) = _records(tmp_path)
    (row,) = (_values(row.item) for row in _of(records, "history"))
    assert (row["epoch"], row["val/f1"]) == (1, 0.1)
    assert row["worst.captions"] == ["true 3, predicted 5", "two"]
    (path,) = tmp_path.glob(f"wandb/offline-*/files/{row['worst.filenames'][0]}")
    np.testing.assert_array_equal(read_rgb(path), picture)


def test_pictures_of_the_whole_run_are_its_summary(tmp_path: Path) -> None:
    """The step of the last epoch is over, and a further one would be another epoch's."""
    tracker = _tracker(tmp_path)
    tracker.log_metrics(1, {"val/f1": 0.1})
    tracker.log_images(1, "val/confusion", [(np.zeros((6, 9, 3), np.uint8), "mask")])
    tracker.close(0)
    (records,) = _records(tmp_path)
    assert len(_of(records, "history")) == 1
    summary: dict[str, Any] = {}
    for update in _of(records, "summary"):
        summary |= _values(update.update)
    (name,) = (value for key, value in summary.items() if key == "val/confusion")
    assert name["captions"] == ["mask"]
    assert len([*tmp_path.glob(f"wandb/offline-*/files/{name['filenames'][0]}")]) == 1


@pytest.mark.parametrize(
    ("netrc", "is_found"),
    [
        ("machine other.example.org login a password b", False),
        (f"machine 127.0.0.1 login user password {KEY}", True),
        ("nonsense {", False),
    ],
)
def test_a_key_is_found_where_wandb_looks(
    tmp_path: Path, netrc: str, is_found: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """With a key it asks the server, which does not answer here."""
    caplog.set_level(logging.INFO)
    (tmp_path / "netrc").write_text(netrc)
    trackers = Trackers([WandbTracker("project", "run name", tmp_path, {})])
    trackers.close(0)
    (message,) = [record.getMessage() for record in caplog.records if record.name == LOG_NAME]
    assert message.startswith("wandb failed (" if is_found else "wandb: offline")
