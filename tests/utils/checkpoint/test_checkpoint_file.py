"""A checkpoint file is whole, checked and never run."""

from __future__ import annotations

from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from utils.checkpoint import read_checkpoint, write_checkpoint
from utils.errors import CheckpointError


def example_content() -> dict[str, Any]:
    return {
        "model": OrderedDict(weight=torch.arange(12.0).view(3, 4), counter=torch.tensor(3)),
        "schedule": {"milestones": Counter([1, 2]), "last_epoch": 7},
        "texts": ["a", None, True, 0.5],
    }


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "last.pth"
    write_checkpoint(path, example_content())
    return path


def test_what_was_written_is_read_and_torch_reads_it_too(file: Path) -> None:
    for content in (read_checkpoint(file), torch.load(file, weights_only=True)):
        assert torch.equal(content["model"]["weight"], torch.arange(12.0).view(3, 4))
        assert content["schedule"] == {"milestones": Counter([1, 2]), "last_epoch": 7}
        assert content["texts"] == ["a", None, True, 0.5]
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_equal_content_gives_equal_bytes(file: Path, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "other name.pth", example_content())
    assert (tmp_path / "other name.pth").read_bytes() == file.read_bytes()


def test_every_flipped_bit_is_noticed(file: Path) -> None:
    data = file.read_bytes()
    for position in [*range(0, len(data), 7), *range(len(data) - 80, len(data))]:  # all of the checksum
        damaged = bytearray(data)
        damaged[position] ^= 1 << (position % 8)
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"last\.pth: "):
            read_checkpoint(file)
