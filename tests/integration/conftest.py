"""The fixtures of whole runs: a small data set, and a model trained on it, each made once."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.drawn_road import draw_small_data, write_config
from tests.integration.workplace import TINY, Workplace, copy_into, make_data
from train import main
from utils.images import decoding


@pytest.fixture(scope="session")
def made_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/; to be copied, never changed."""
    folder = tmp_path_factory.mktemp("made data")
    make_data(folder)
    return folder


@pytest.fixture(scope="session")
def made_run(made_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder saved/ with one finished run of a tiny model; to be copied, never changed."""
    folder = tmp_path_factory.mktemp("made run")
    copy_into(made_data, folder)
    (folder / "tiny.json").write_text(json.dumps(TINY), encoding="utf-8")
    with contextlib.chdir(folder):
        main(["--config", "tiny.json"])
    return folder / "saved"


@pytest.fixture
def empty_workplace(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """A folder without any data: whatever looks for some fails, with another message and exit code 3."""
    monkeypatch.chdir(tmp_path)
    return Workplace(tmp_path, capfd)


@pytest.fixture
def workplace(empty_workplace: Workplace, made_data: Path) -> Workplace:
    """A folder with data of its own, which a test may spoil."""
    copy_into(made_data, empty_workplace.folder)
    return empty_workplace


@pytest.fixture
def trained(workplace: Workplace, made_run: Path) -> Workplace:
    """A folder with data and with a finished run of its own."""
    copy_into(made_run, workplace.save_dir)
    return workplace


@pytest.fixture
def no_image_is_opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is refused is refused before that."""
    opened: list[Path] = []
    monkeypatch.setattr(decoding, "_read_bytes", opened.append)
    yield
    assert opened == []


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `draw_small_data`."""
    return draw_small_data(tmp_path_factory.mktemp("drawn") / "data")


@pytest.fixture
def config(tmp_path: Path, drawn: Path) -> Path:
    """A config of a few lines over config.json, for a small model on small images."""
    return write_config(tmp_path, drawn)
