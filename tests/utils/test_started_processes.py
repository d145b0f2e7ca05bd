"""What the environment says of the processes that were started together, before anything else is asked."""

from __future__ import annotations

import pytest

from tests.utils.started import MEETING, start_as
from utils.errors import ConfigError
from utils.started_processes import StartedProcess, this_process


def test_the_variables_of_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    assert this_process() == StartedProcess(0, 1, 0, 1)
    start_as(monkeypatch, 5, 29501, 8)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert this_process() == StartedProcess(5, 8, 1, 4, "localhost", 29501)


@pytest.mark.parametrize("missing", [["RANK"], ["MASTER_ADDR", "MASTER_PORT"]])
def test_processes_that_nobody_started_together_are_refused(
    monkeypatch: pytest.MonkeyPatch, missing: list[str]
) -> None:
    start_as(monkeypatch, 0)
    for name in missing:
        monkeypatch.delenv(name)
    refused = pytest.raises(ConfigError, match=rf"WORLD_SIZE = 2 without {', '.join(missing)}: .*torchrun")
    with refused:
        this_process()


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK = 2 with WORLD_SIZE = 2"),
        ({"RANK": "1"}, "RANK = 1 with no WORLD_SIZE"),
        ({"LOCAL_RANK": "4", "LOCAL_WORLD_SIZE": "4"}, "LOCAL_RANK = 4 with LOCAL_WORLD_SIZE = 4"),
        ({"RANK": "0", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}, "LOCAL_RANK = 1 with RANK = 0"),
        ({"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "4"}, "LOCAL_WORLD_SIZE = 4 with WORLD_SIZE = 2"),
        ({"WORLD_SIZE": "0"}, "RANK = 0 with WORLD_SIZE = 0"),
        ({"RANK": "\N{SUPERSCRIPT TWO}", "WORLD_SIZE": "2"}, "RANK = "),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK = '-1'"),
        ({"WORLD_SIZE": "9" * 5000}, "WORLD_SIZE = "),
        ({"WORLD_SIZE": "2", "MASTER_PORT": "abc"}, "MASTER_PORT = 'abc'"),
        ({"WORLD_SIZE": "2", "MASTER_PORT": "65536"}, "MASTER_PORT = 65536"),
    ],
)
def test_variables_that_make_no_sense_are_refused(
    variables: dict[str, str], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    meeting = {**MEETING} if "WORLD_SIZE" in variables else {}
    for name, value in (meeting | variables).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as refused:
        this_process()
    assert named in str(refused.value)
    assert len(str(refused.value)) < 300
    assert "\n" not in str(refused.value)
