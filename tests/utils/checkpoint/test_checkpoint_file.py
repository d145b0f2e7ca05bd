"""A checkpoint file is whole, checked and never run."""

from __future__ import annotations

import io
import os
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from utils.checkpoint import checkpoint_file, read_checkpoint, write_checkpoint
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
    for position in range(0, len(data), 7):
        damaged = bytearray(data)
        damaged[position] ^= 1 << (position % 8)
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"last\.pth: "):
            read_checkpoint(file)


def zeroed_page(data: bytes) -> bytes:
    return data[:200] + bytes(200) + data[400:]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data[: len(data) // 10], "truncated"),
        (lambda data: data[: len(data) * 99 // 100], "truncated"),
        (lambda data: data[:-1], "truncated"),
        (zeroed_page, "damaged"),
        (lambda _: b"", "empty"),
        (lambda _: b"<!DOCTYPE html><html></html>", "<!DOCTYPE html>"),
    ],
)
def test_55_57_a_damaged_file_says_so(file: Path, change: Any, reason: str) -> None:
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(CheckpointError, match=rf"last\.pth: .*{reason}"):
        read_checkpoint(file)


def test_67_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.pth"):
        read_checkpoint(tmp_path / "none.pth")


def test_a_missing_checksum_is_not_trusted(file: Path) -> None:
    buffer = io.BytesIO()
    torch.save(torch.load(file, weights_only=True), buffer)
    file.write_bytes(buffer.getvalue())
    with pytest.raises(CheckpointError, match="checksum"):
        read_checkpoint(file)


class Hostile:
    """Unpickled with full trust, it makes a folder."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.canary),)


def test_58_a_hostile_file_with_a_right_checksum_is_refused_and_not_executed(tmp_path: Path) -> None:
    canary = tmp_path / "executed"
    write_checkpoint(tmp_path / "hostile.pth", {"model": Hostile(canary)})
    with pytest.raises(CheckpointError, match="nothing was executed"):
        read_checkpoint(tmp_path / "hostile.pth")
    assert not canary.exists()
    torch.load(tmp_path / "hostile.pth", weights_only=False)
    assert canary.exists()


def test_65_a_newer_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_file, "VERSION", checkpoint_file.VERSION + 1)
        write_checkpoint(tmp_path / "newer.pth", {})
    with pytest.raises(CheckpointError, match="update the program"):
        read_checkpoint(tmp_path / "newer.pth")


@pytest.mark.parametrize(
    "content", [{"arch": "Net", "epoch": 3, "state_dict": {}, "optimizer": {}}, {"weight": torch.zeros(2)}]
)
def test_66_another_programs_checkpoint_says_how_to_import_it(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "old.pth")
    with pytest.raises(CheckpointError, match=r"import_checkpoint .*old\.pth -c"):
        read_checkpoint(tmp_path / "old.pth")
