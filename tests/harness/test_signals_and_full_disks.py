"""Both harnesses in short; their commands do it at length."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.harness import disk_full, signals
from tests.integration.drawn_road import draw_small_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    signals.import_late()
    return draw_small_data(tmp_path_factory.mktemp("data"))


@pytest.mark.long  # test_resume.py stops trainings, too
def test_commands_that_are_asked_to_stop_go_on_later(data: Path, tmp_path: Path) -> None:
    trials = [*signals.run_trials(1, 5, ["training"], tmp_path, data)]
    assert [str(trial) for trial in trials if trial.wrong] == []


def test_commands_survive_full_disks(data: Path, tmp_path: Path) -> None:
    """In a process of its own, for it mounts."""
    child = os.fork()
    if not child:
        code = 1
        try:
            disk_full.have_own_mounts()
            wrong = [str(trial) for trial in disk_full.run_trials(1, 2, ["train"], tmp_path, data) if trial.wrong]
            (tmp_path / "wrong").write_text("\n".join(wrong))
            code = 0
        except OSError:
            code = 2
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == 2:
        pytest.skip("mounting is not allowed here")
    assert code == 0
    assert (tmp_path / "wrong").read_text() == ""
