"""Where nobody watches a terminal, the log tells how far the work is."""

from __future__ import annotations

import logging
import sys
from io import StringIO
from types import SimpleNamespace

import pytest

from utils import progress
from utils.progress import with_progress


@pytest.mark.parametrize(("done", "rate", "left"), [(0, "2 images/s", "100 s left"), (120, "2 images/s", "40 s left")])
def test_a_line_a_minute_says_what_is_done_and_what_is_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, done: int, rate: str, left: str
) -> None:
    """Items of 8 images, each of which takes 4 seconds."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock.now))
    caplog.set_level(logging.INFO)
    total = 320
    for _ in with_progress(range((total - done) // 8), total, "epoch 2", True, done, images_of=lambda _: 8):
        clock.now += 4
    lines = [message for message in caplog.messages if message.startswith("epoch 2")]
    assert len(lines) == int(clock.now // 60)
    assert all(part in lines[0] for part in (f"{done + 120} of 320 images", rate, left))


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "is_shown", "has_bar"), [(Terminal, True, True), (Terminal, False, False), (StringIO, True, False)]
)
def test_a_bar_is_on_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch, stream: type[StringIO], is_shown: bool, has_bar: bool
) -> None:
    stderr = stream()
    monkeypatch.setattr(sys, "stderr", stderr)
    assert list(with_progress(iter("cde"), 5, "epoch 2", is_shown, done=2)) == ["c", "d", "e"]
    assert ("epoch 2" in stderr.getvalue() and "2/5" in stderr.getvalue()) == has_bar
    assert has_bar or stderr.getvalue() == ""
