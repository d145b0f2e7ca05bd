"""Several trackers as one: all are called, and one that fails does not stop a run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from logger.tracker import Tracker, Trackers


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


def test_all_trackers_get_everything() -> None:
    one, two = Recorder(), Recorder()
    trackers = Trackers([one, two])
    trackers.log_images(1, "worst", [(np.zeros((2, 2, 3), np.uint8), "a")])
    trackers.log_metrics(1, {"a": 1.0})
    assert trackers.state() == {"recorder": {"calls": 2}}
    trackers.close(75)
    assert one.calls == two.calls == [("images", 1, "worst", 1), ("metrics", 1, {"a": 1.0}), ("close", 75)]


def test_an_optional_tracker_that_fails_is_dropped_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    failing, healthy = Failing(), Recorder()
    trackers = Trackers([failing, healthy])
    with caplog.at_level(logging.WARNING):
        for epoch in (1, 2):
            trackers.log_metrics(epoch, {})
        trackers.close(0)
    assert len(failing.calls) == 1
    assert len(healthy.calls) == 3
    (message,) = caplog.messages
    assert "failing" in message
    assert "server gone" in message


def test_a_tracker_that_cannot_start_keeps_its_state_for_a_resumed_run(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unreachable(Recorder):
        def start(self) -> None:
            raise ConnectionError("key s3cret-key was refused\nby the server")

    monkeypatch.setenv("SOME_SERVER_KEY", "s3cret-key")
    tracker = Unreachable()
    trackers = Trackers([tracker])
    trackers.log_metrics(1, {})
    trackers.close(0)
    assert tracker.calls == []
    assert trackers.state() == {"recorder": {"calls": 0}}
    (message,) = caplog.messages
    assert "\n" not in message
    assert "s3cret" not in message


def test_the_error_of_a_needed_tracker_is_raised_after_all_were_called() -> None:
    needed, healthy = Needed(), Recorder()
    trackers = Trackers([needed, healthy])
    for epoch in (1, 2):
        with pytest.raises(OSError, match="No space left"):
            trackers.log_metrics(epoch, {})
    assert len(needed.calls) == len(healthy.calls) == 2
