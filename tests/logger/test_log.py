"""What reaches the console and the file, by verbosity and rank."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest

from logger.log import close_log, open_log


@pytest.fixture(autouse=True)
def _closed_log() -> Iterator[None]:
    close_log()  # what an earlier test left open
    yield
    close_log()


def _log_all(log: logging.Logger) -> None:
    log.debug("small 한글")
    log.info("epoch 1")
    log.warning("careful")


@pytest.mark.parametrize(
    ("verbosity", "shown"),
    [
        (0, ["warning: careful"]),
        (1, ["epoch 1", "warning: careful"]),
        (2, ["small 한글", "epoch 1", "warning: careful"]),
    ],
)
def test_the_console_follows_verbosity_and_the_file_holds_everything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verbosity: int, shown: list[str]
) -> None:
    path = tmp_path / "new" / "info.log"
    _log_all(open_log(path, verbosity))
    out, err = capsys.readouterr()
    assert out.splitlines() == shown
    assert err == ""
    lines = path.read_text("utf-8").splitlines()
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}"
    for line, rest in zip(lines, ["DEBUG small 한글", "INFO epoch 1", "WARNING careful"], strict=True):
        assert re.fullmatch(f"{stamp} {rest}", line)


def test_opening_again_continues_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "info.log"
    assert open_log(None, 1) is open_log(path, 1)
    open_log(path, 1).info("once")
    assert capsys.readouterr().out == "once\n"
    close_log()
    log = open_log(path, 1)
    log.info("twice")
    assert [line.split()[-1] for line in path.read_text().splitlines()] == ["once", "twice"]
    close_log()
    assert log.handlers == []


def test_other_processes_only_warn_with_their_rank(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "info.log"
    _log_all(open_log(path, 2, rank=3))
    assert capsys.readouterr().out == "[rank 3] warning: careful\n"
    assert not path.exists()


def test_handlers_of_the_root_logger_do_not_double_the_lines() -> None:
    stream = StringIO()
    handler = logging.StreamHandler(stream)
    logging.getLogger().addHandler(handler)
    try:
        open_log(None, 2).warning("careful")
    finally:
        logging.getLogger().removeHandler(handler)
    assert stream.getvalue() == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_reported_once_and_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    log = open_log(Path("/dev/full"), 0)
    for _ in range(3):
        log.info("lost")
    close_log()
    err = capsys.readouterr().err
    assert err == "warning: /dev/full: cannot be written (No space left on device)\n"


def test_a_closed_pipe_is_no_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class ClosedPipe(StringIO):
        def write(self, text: str) -> int:  # noqa: ARG002
            raise BrokenPipeError

    log = open_log(None, 2)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", ClosedPipe())
        log.info("to no one")
    assert capsys.readouterr().err == ""


def test_what_was_logged_before_the_run_had_a_folder_is_in_its_file_once(tmp_path: Path) -> None:
    open_log(None, verbosity=2)
    logging.getLogger("data_loader.splits").warning("early")
    for _ in range(2):
        open_log(tmp_path / "info.log", verbosity=2).info("late")
    close_log()
    lines = [line.split()[-1] for line in (tmp_path / "info.log").read_text().splitlines()]
    assert lines == ["early", "late", "late"]


def test_a_warning_of_an_earlier_fold_is_not_repeated_on_the_console(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for fold in range(3):
        log = open_log(tmp_path / f"fold_{fold}" / "info.log", verbosity=1)
        log.warning("doubtful images")
        log.warning("fold %d lacks a class", fold)
    close_log()
    out = capsys.readouterr().out
    assert out.count("doubtful images") == 1
    assert out.count("lacks a class") == 3
    for file in tmp_path.rglob("info.log"):
        assert file.read_text().count("doubtful images") == 1


def test_keys_and_passwords_are_not_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in the errors of libraries that name the address which they could not reach."""
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef" * 2)
    monkeypatch.setenv("SHORT_KEY", "1")
    monkeypatch.setenv("PWD", "/home/me/faces")
    monkeypatch.setenv("A_TOKEN_FILE_KEY", str(tmp_path))
    log = open_log(tmp_path / "info.log", 2)
    for text in ("API request to https://me:Pa55w0rd@tracking.example/api failed", f"bad key {'0123456789abcdef' * 2}"):
        log.warning(text)
    log.warning("/home/me/faces and %s are 11 paths", tmp_path)
    close_log()
    for text in (capsys.readouterr().out, (tmp_path / "info.log").read_text()):
        assert "https://***@tracking.example/api failed" in text
        assert "bad key ***" in text
        assert f"/home/me/faces and {tmp_path} are 11 paths" in text
        assert "Pa55w0rd" not in text
        assert "0123456789abcdef" not in text
