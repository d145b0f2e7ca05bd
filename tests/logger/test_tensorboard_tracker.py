"""TensorBoard's event files, read back with its own event accumulator."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.summary.writer.record_writer import RecordWriter

from logger import tensorboard_tracker
from logger.tensorboard_tracker import TensorBoardTracker
from logger.tracker import Trackers
from utils.images.decoding import decode_rgb


def _events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0, "scalars": 0})
    accumulator.Reload()
    return accumulator


def test_tensorboard_reads_back_scalars_and_pictures(tmp_path: Path) -> None:
    tracker = TensorBoardTracker(tmp_path)
    tracker.start()
    picture = np.zeros((5, 7, 3), np.uint8)
    picture[0, 0] = (255, 0, 10)
    for epoch in (1, 2, 3):
        tracker.log_images(epoch, "worst", [(picture, "true 3, predicted 5"), (picture, "two")])
        tracker.log_metrics(epoch, {"val/f1": 0.1 * epoch, "train/loss": 1 / (epoch + 2)})
    tracker.close(0)
    events = _events(tmp_path)
    scalars = [(event.step, event.value) for event in events.Scalars("val/f1")]
    assert scalars == [(epoch, pytest.approx(0.1 * epoch)) for epoch in (1, 2, 3)]
    assert sorted(events.Tags()["scalars"]) == ["train/loss", "val/f1"]
    stored = events.Images("worst/0")[-1]
    assert (stored.step, stored.width, stored.height) == (3, 7, 5)
    np.testing.assert_array_equal(decode_rgb(stored.encoded_image_string, "stored"), picture)
    assert len(events.Images("worst/1")) == 3
    assert b"true 3, predicted 5" in events.Tensors("worst/captions/text_summary")[0].tensor_proto.string_val[0]


def test_epochs_that_a_resumed_run_repeats_are_replaced(tmp_path: Path) -> None:
    first = TensorBoardTracker(tmp_path)
    first.start()
    for epoch in (1, 2, 3, 4):
        first.log_metrics(epoch, {"val/f1": epoch})
    first.close(75)
    resumed = TensorBoardTracker(tmp_path, purge_epoch=3)
    resumed.start()
    for epoch in (3, 4, 5):
        resumed.log_metrics(epoch, {"val/f1": 10 * epoch})
    resumed.close(0)
    files = sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert len(files) == 2
    values = [(event.step, event.value) for event in _events(tmp_path).Scalars("val/f1")]
    assert values == [(1, 1), (2, 2), (3, 30), (4, 40), (5, 50)]


def test_events_that_cannot_be_written_leave_the_run_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its folder is a file."""
    (tmp_path / "log").write_text("in the way")
    trackers = Trackers([TensorBoardTracker(tmp_path / "log")])
    trackers.log_metrics(1, {"val/f1": 0.5})
    trackers.close(0)
    assert [text.partition(" ")[0] for text in caplog.messages] == ["tensorboard"]


def test_a_full_disk_is_a_warning_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The thread that writes prints no traceback of its own; those of other threads are printed."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    printed: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(tensorboard_tracker, "_print_error", printed.append)
    monkeypatch.setattr(threading, "excepthook", tensorboard_tracker._print_error_of_others)  # pytest has its own
    trackers = Trackers([TensorBoardTracker(tmp_path)])
    with monkeypatch.context() as patched:
        patched.setattr(RecordWriter, "write", full)
        trackers.log_metrics(1, {"val/f1": 0.5})
    trackers.log_metrics(2, {"val/f1": 0.5})
    trackers.close(0)
    assert [text.partition(" ")[0] for text in caplog.messages] == ["tensorboard"]
    assert printed == []
    other = threading.Thread(target=full)
    other.start()
    other.join()
    assert [each.thread for each in printed] == [other]
