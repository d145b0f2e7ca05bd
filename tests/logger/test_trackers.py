"""What each tracker wrote, read back with other eyes: a JSON reader, TensorBoard's event accumulator."""

from __future__ import annotations

import json
import logging
import math
import resource
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from logger.trackers import JsonLinesTracker, TensorBoardTracker, Tracker, Trackers
from utils.errors import ConfigError


def _metrics(epoch: int) -> dict[str, float]:
    return {"val/f1": 0.1 * epoch, "train/loss": 1 / (epoch + 2), "epochs_seen": epoch}


def _written(path: Path, *epochs: int, **options: Any) -> bytes:
    tracker = JsonLinesTracker(path, **options)
    for epoch in epochs:
        tracker.log_metrics(epoch, _metrics(epoch))
    tracker.close(0)
    return path.read_bytes()


def test_each_epoch_is_one_line_that_reads_back_exactly(tmp_path: Path) -> None:
    path = tmp_path / "new" / "metrics.jsonl"
    _written(path, 1, 2, 3)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows == [{"epoch": epoch, **_metrics(epoch)} for epoch in (1, 2, 3)]
    assert [list(row) for row in rows] == [["epoch", "epochs_seen", "train/loss", "val/f1"]] * 3
    assert isinstance(rows[0]["epochs_seen"], int)


def test_numpy_values_and_those_that_json_has_not(tmp_path: Path) -> None:
    tracker = JsonLinesTracker(tmp_path / "m.jsonl")
    tracker.log_metrics(
        1, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": cast(float, np.float32(0.1)), "e": np.float64(0.1)}
    )

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    row = json.loads((tmp_path / "m.jsonl").read_text(), parse_constant=refuse)
    assert row == {"epoch": 1, "a": None, "b": None, "c": None, "d": float(np.float32(0.1)), "e": 0.1}


def test_the_same_numbers_make_the_same_bytes(tmp_path: Path) -> None:
    first = _written(tmp_path / "a.jsonl", 1, 2)
    tracker = JsonLinesTracker(tmp_path / "b.jsonl")
    for epoch in (1, 2):
        tracker.log_metrics(epoch, dict(reversed(_metrics(epoch).items())))
    assert (tmp_path / "b.jsonl").read_bytes() == first


def test_a_line_is_in_the_file_before_the_next_step(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    tracker = JsonLinesTracker(path)
    tracker.log_metrics(1, _metrics(1))
    assert len(path.read_text().splitlines()) == 1


@pytest.mark.parametrize("epochs_written", range(6))
@pytest.mark.parametrize("torn", [b"", b'{"epoch": 6, "val', b"\xff\n", b'{"no epoch": 1}\n'])
def test_resuming_after_any_epoch_gives_the_uninterrupted_file(
    tmp_path: Path, epochs_written: int, torn: bytes
) -> None:
    whole = _written(tmp_path / "whole.jsonl", 1, 2, 3, 4, 5)
    for checkpoint in range(epochs_written + 1):
        path = tmp_path / "resumed.jsonl"
        path.unlink(missing_ok=True)
        _written(path, *range(1, epochs_written + 1))
        with path.open("ab") as file:
            file.write(torn)
        assert _written(path, *range(checkpoint + 1, 6), resume_after_epoch=checkpoint) == whole
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["resumed.jsonl", "whole.jsonl"]


def test_a_line_without_its_end_is_torn_even_if_it_reads(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(_written(path, 1, 2)[:-1])
    _written(path, 2, resume_after_epoch=2)
    assert [json.loads(line)["epoch"] for line in path.read_text().splitlines()] == [1, 2]


def test_a_new_run_begins_an_empty_file_and_resuming_needs_none(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    _written(path, 1, 2)
    assert _written(path) == b""
    path.unlink()
    assert _written(path, 4, resume_after_epoch=3).startswith(b'{"epoch": 4')


@pytest.fixture
def file_size_limit() -> Iterator[Any]:
    """A function that sets the size that no file may pass, as a full disk would."""
    import signal

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def limit(size: int | None) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft if size is None else size, hard))

    yield limit
    limit(None)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_raised_and_leaves_whole_lines_and_nothing_is_lost(tmp_path: Path, file_size_limit: Any) -> None:
    whole = _written(tmp_path / "whole.jsonl", 1, 2, 3)
    path = tmp_path / "m.jsonl"
    tracker = JsonLinesTracker(path)
    tracker.log_metrics(1, _metrics(1))
    first = path.read_bytes()
    file_size_limit(len(first) + 20)
    with pytest.raises(OSError, match="File too large"):
        tracker.log_metrics(2, _metrics(2))
    file_size_limit(None)
    assert path.read_bytes() == first
    tracker.log_metrics(3, _metrics(3))
    assert path.read_bytes() == whole


def _events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0, "scalars": 0})
    accumulator.Reload()
    return accumulator


def test_tensorboard_reads_back_scalars_and_pictures(tmp_path: Path) -> None:
    tracker = TensorBoardTracker(tmp_path)
    picture = np.zeros((5, 7, 3), np.uint8)
    picture[0, 0] = (255, 0, 10)
    for epoch in (1, 2, 3):
        tracker.log_images(epoch, "worst", [(picture, "true 3, said 5"), (picture, "two")])
        tracker.log_metrics(epoch, _metrics(epoch))
    tracker.close(0)
    events = _events(tmp_path)
    scalars = [(event.step, event.value) for event in events.Scalars("val/f1")]
    assert scalars == [(epoch, pytest.approx(0.1 * epoch)) for epoch in (1, 2, 3)]
    assert sorted(events.Tags()["scalars"]) == sorted(_metrics(1))
    stored = events.Images("worst/0")[-1]
    assert (stored.step, stored.width, stored.height) == (3, 7, 5)
    from utils.images.decoding import decode_rgb

    np.testing.assert_array_equal(decode_rgb(stored.encoded_image_string, "stored"), picture)
    assert len(events.Images("worst/1")) == 3
    assert b"true 3, said 5" in events.Tensors("worst/captions/text_summary")[0].tensor_proto.string_val[0]


def test_tensorboard_forgets_the_epochs_that_a_resumed_run_repeats(tmp_path: Path) -> None:
    first = TensorBoardTracker(tmp_path)
    for epoch in (1, 2, 3, 4):
        first.log_metrics(epoch, {"val/f1": epoch})
    first.close(75)
    resumed = TensorBoardTracker(tmp_path, purge_epoch=3)
    for epoch in (3, 4, 5):
        resumed.log_metrics(epoch, {"val/f1": 10 * epoch})
    resumed.close(0)
    files = sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert len(files) == 2
    values = [(event.step, event.value) for event in _events(tmp_path).Scalars("val/f1")]
    assert values == [(1, 1), (2, 2), (3, 30), (4, 40), (5, 50)]


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match="pip install tensorboard"):
        TensorBoardTracker(tmp_path)


class Recorder(Tracker):
    name = "recorder"

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def log_metrics(self, epoch: int, metrics: Mapping[str, float]) -> None:
        self.calls.append(("metrics", epoch, dict(metrics)))

    def log_images(self, epoch: int, name: str, images: Any) -> None:
        self.calls.append(("images", epoch, name, len(images)))

    def close(self, exit_code: int) -> None:
        self.calls.append(("close", exit_code))

    def state(self) -> dict[str, Any]:
        return {"calls": len(self.calls)}


class Failing(Recorder):
    name = "failing"

    def log_metrics(self, epoch: int, metrics: Mapping[str, float]) -> None:
        super().log_metrics(epoch, metrics)
        raise RuntimeError("server gone")


class Needed(Failing):
    name = "needed"
    optional = False

    def log_metrics(self, epoch: int, metrics: Mapping[str, float]) -> None:
        self.calls.append(("metrics", epoch, dict(metrics)))
        raise OSError(28, "No space left on device")


def test_all_trackers_are_told_all() -> None:
    one, two = Recorder(), Recorder()
    trackers = Trackers([one, two])
    trackers.log_images(1, "worst", [(np.zeros((2, 2, 3), np.uint8), "a")])
    trackers.log_metrics(1, {"a": 1.0})
    assert trackers.state() == {"recorder": {"calls": 2}}
    trackers.close(75)
    assert one.calls == two.calls == [("images", 1, "worst", 1), ("metrics", 1, {"a": 1.0}), ("close", 75)]


def test_no_trackers_are_a_tracker_too() -> None:
    trackers = Trackers([])
    trackers.log_metrics(1, {"a": 1.0})
    trackers.log_images(1, "worst", [])
    assert trackers.state() == {}
    trackers.close(0)


def test_an_optional_tracker_that_fails_is_dropped_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    failing, healthy = Failing(), Recorder()
    trackers = Trackers([failing, healthy])
    with caplog.at_level(logging.WARNING):
        for epoch in (1, 2):
            trackers.log_metrics(epoch, {})
        trackers.close(0)
    assert len(failing.calls) == 1
    assert len(healthy.calls) == 3
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [
        "failing failed (RuntimeError: server gone) and is left out from here on; metrics.jsonl keeps everything"
    ]


def test_the_failure_of_a_needed_tracker_passes_after_the_rest_were_told() -> None:
    needed, healthy = Needed(), Recorder()
    trackers = Trackers([needed, healthy])
    for epoch in (1, 2):
        with pytest.raises(OSError, match="No space left"):
            trackers.log_metrics(epoch, {})
    assert len(needed.calls) == len(healthy.calls) == 2
