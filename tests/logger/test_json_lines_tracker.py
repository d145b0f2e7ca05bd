"""metrics.jsonl read back with Python's JSON reader, whole after any interruption."""

from __future__ import annotations

import json
import math
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from logger.json_lines_tracker import JsonLinesTracker, read_metrics


def _metrics(epoch: int) -> dict[str, float]:
    return {"val/f1": 0.1 * epoch, "train/loss": 1 / (epoch + 2), "lr": 0.5}


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
    assert [list(row) for row in rows] == [["epoch", "lr", "train/loss", "val/f1"]] * 3


def test_numpy_values_and_those_that_json_has_not(tmp_path: Path) -> None:
    """They are in the file when `log_metrics` returns."""
    tracker = JsonLinesTracker(tmp_path / "m.jsonl")
    tracker.log_metrics(
        1, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": cast(float, np.float32(0.1)), "e": np.float64(0.1)}
    )

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    row = json.loads((tmp_path / "m.jsonl").read_text(), parse_constant=refuse)
    assert row == {"epoch": 1, "a": None, "b": None, "c": None, "d": float(np.float32(0.1)), "e": 0.1}


def test_times_have_a_file_of_their_own(tmp_path: Path) -> None:
    """metrics.jsonl has the same bytes in another run of the same config."""
    numbers = {"time/epoch_seconds": 3.5, "val/f1": 0.5}
    for name, of_times in (("metrics.jsonl", False), ("times.jsonl", True)):
        tracker = JsonLinesTracker(tmp_path / name, of_times=of_times)
        tracker.log_metrics(1, numbers)
        tracker.close(0)
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"epoch": 1, "val/f1": 0.5}
    assert json.loads((tmp_path / "times.jsonl").read_text()) == {"epoch": 1, "time/epoch_seconds": 3.5}


@pytest.mark.parametrize("epochs_written", range(6))
@pytest.mark.parametrize("torn", [b"", b'{"epoch": 6, "val', b"\xff\n", b'{"no epoch": 1}\n', b'{"epoch": 1}'])
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


@pytest.mark.parametrize("damage", [b"", b"<html>", b"without its last line", b"another digit"])
def test_a_damaged_file_is_written_again_from_the_checkpoint(tmp_path: Path, damage: bytes) -> None:
    """Of which a line has not reached the disk."""
    whole = _written(tmp_path / "whole.jsonl", 1, 2, 3)
    path = tmp_path / "m.jsonl"
    tracker = JsonLinesTracker(path)
    tracker.log_metrics(1, _metrics(1))
    tracker.log_metrics(2, _metrics(2))
    saved = tracker.state()["lines"]
    tracker.log_metrics(3, _metrics(3))  # after the checkpoint
    tracker.close(0)
    stored = path.read_bytes()
    damaged = {
        b"without its last line": stored[: stored.index(b"\n") + 4],
        b"another digit": stored.replace(b"5", b"7"),
    }
    path.write_bytes(damaged.get(damage, damage))
    assert _written(path, 3, resume_after_epoch=2, saved=saved) == whole
    assert JsonLinesTracker(path, of_times=True).state() == {}


def test_a_damaged_line_is_left_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = _written(tmp_path / "metrics.jsonl", 1, 2, 3).splitlines(keepends=True)
    for damaged in (b'{"epoch": "x"}\n', b"\xff\n", b"[]\n"):
        caplog.clear()
        (tmp_path / "metrics.jsonl").write_bytes(b"".join([lines[0], damaged, lines[2], b'{"epo']))
        assert [row["epoch"] for row in read_metrics(tmp_path)] == [1, 3]
        (text,) = caplog.messages
        assert text.startswith(f"{tmp_path / 'metrics.jsonl'}: line 2 ")


def test_a_new_run_begins_an_empty_file_and_resuming_needs_none(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    _written(path, 1, 2)
    assert _written(path) == b""
    path.unlink()
    assert _written(path, 4, resume_after_epoch=3).startswith(b'{"epoch": 4')


@pytest.fixture
def file_size_limit() -> Iterator[Any]:
    """A function that sets the size that no file may pass, as a full disk would."""
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
    with pytest.raises(OSError, match="File too large") as caught:
        tracker.log_metrics(2, _metrics(2))
    assert caught.value.filename == str(path)
    file_size_limit(None)
    assert path.read_bytes() == first
    tracker.log_metrics(3, _metrics(3))
    assert path.read_bytes() == whole
