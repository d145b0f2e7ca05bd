"""An old run keeps its meaning when a default changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from utils.config import former_defaults
from utils.config.former_defaults import CONFIG_FORMAT, upgraded
from utils.run_folders import read_kept_config

OLD: dict[str, Any] = {
    "heads": {"a": {"type": "Focal"}, "b": {"type": "Focal", "args": {"gamma": 1}}, "c": {"type": "Other"}},
    "list": [{"type": "Focal", "args": {}}],
}
UPGRADED: dict[str, Any] = {
    "heads": {
        "a": {"type": "Focal", "args": {"gamma": 2.0}},
        "b": {"type": "Focal", "args": {"gamma": 1}},
        "c": {"type": "Other", "args": {}},
    },
    "list": [{"type": "Focal", "args": {"gamma": 2.0}}],
    "config_format": CONFIG_FORMAT,
}


@pytest.fixture(autouse=True)
def gamma_was_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(former_defaults, "FORMER_DEFAULTS", ((1, "Focal", "gamma", 2.0),))


def test_what_an_old_config_left_unsaid_means_what_it_meant(tmp_path: Path) -> None:
    assert upgraded(OLD) == UPGRADED
    assert "args" not in OLD["heads"]["a"], "the saved one is left alone"
    (tmp_path / "config.json").write_text(json.dumps(OLD))
    assert read_kept_config(tmp_path) == UPGRADED


def test_a_config_of_this_format_is_left_alone() -> None:
    now = {**OLD, "config_format": CONFIG_FORMAT}
    assert upgraded(now) == now
