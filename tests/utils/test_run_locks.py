"""Names and locks of run folders, with a second process that holds one and is killed."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from utils.errors import CheckpointError, ConfigError
from utils.run_folders import locked, new_run, refuse_unusable_run_id

HOLDER = """
import sys, time
from pathlib import Path
from utils.run_folders import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


def test_a_second_process_is_refused_by_name_until_the_first_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "locked\n"
        with pytest.raises(CheckpointError, match=f"process {first.pid} "), locked(tmp_path):
            pass
        first.send_signal(signal.SIGKILL)
        first.wait()
    for _ in range(2):
        with locked(tmp_path):
            pass


def test_a_file_system_without_locks_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_lock(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_lock)
    with locked(tmp_path):
        assert [text for text in caplog.messages if "No locks available" in text]


def test_a_run_may_have_a_name_of_its_own_once(tmp_path: Path) -> None:
    run = new_run(tmp_path, "faces", "first try")
    assert run.models == tmp_path / "models" / "faces" / "first try"
    with pytest.raises(ConfigError, match="--resume"):
        new_run(tmp_path, "faces", "first try")
    for name in ("../x", "a/b", "", ".hidden", "a\0b", "a\nb", "a" * 101, "\N{HANGUL SYLLABLE GA}" * 34):
        with pytest.raises(ConfigError, match="--run-id") as refused:
            refuse_unusable_run_id(name)
        assert len(str(refused.value).splitlines()) == 1
