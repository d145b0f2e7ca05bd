"""An old run keeps its meaning when a default changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from utils.config import former_defaults
from utils.config.former_defaults import CONFIG_FORMAT, FormerDefault, upgraded
from utils.config.sections import NamedSections, Sections, TypedList, TypedSection
from utils.run_folders import read_kept_config


class Focal:
    def __init__(self, gamma: float = 3.0) -> None:
        self.gamma = gamma


class Other:
    def __init__(self, gamma: float = 5.0) -> None:
        self.gamma = gamma


SECTION = TypedSection({"Focal": Focal, "Other": Other})
SECTIONS = Sections({"heads": NamedSections(SECTION), "list": TypedList(SECTION)})
OLD: dict[str, Any] = {
    "heads": {"a": {"type": "Focal"}, "b": {"type": "Focal", "args": {"gamma": 1}}, "c": {"type": "Other"}},
    "list": [{"type": "Focal", "args": {}}],
}


@pytest.fixture(autouse=True)
def gamma_was_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Focal's default, which is 3 now, was 2 in the first format."""
    earlier = tuple(FormerDefault(1, f"{name}.*.args.gamma", 2.0, "Focal") for name in ("heads", "list"))
    monkeypatch.setattr(former_defaults, "FORMER_DEFAULTS", earlier)


def gammas(config: dict[str, Any]) -> list[float]:
    filled = SECTIONS.with_defaults(config)
    return [each["args"]["gamma"] for each in (*filled["heads"].values(), *filled["list"])]


def test_what_an_old_config_left_unsaid_means_what_it_meant() -> None:
    assert gammas(upgraded(OLD)) == [2.0, 1, 5.0, 2.0]
    assert gammas(OLD) == [3.0, 1, 5.0, 3.0], "as a file that a user writes today"
    assert upgraded(OLD)["config_format"] == CONFIG_FORMAT
    assert "args" not in OLD["heads"]["a"], "the saved one is left alone"


def test_a_config_of_this_format_is_left_alone() -> None:
    now = {**OLD, "config_format": CONFIG_FORMAT}
    assert upgraded(now) == now


def test_kept_configs_are_upgraded_when_they_are_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(OLD))
    kept = read_kept_config(tmp_path)
    assert kept is not None
    assert gammas(kept) == [2.0, 1, 5.0, 2.0]
