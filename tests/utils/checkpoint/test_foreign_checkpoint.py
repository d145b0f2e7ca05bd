"""Other programs' files are read where they hold weights, and else say what they are."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from utils.checkpoint import read_checkpoint, read_foreign_checkpoint, write_checkpoint
from utils.errors import CheckpointError

WEIGHTS = {"fc.weight": torch.arange(6.0).view(2, 3), "fc.bias": torch.tensor([1.0, -1.0])}


@pytest.mark.parametrize(
    "save",
    [
        lambda path: torch.save(WEIGHTS, path),
        lambda path: torch.save(WEIGHTS, path, _use_new_zipfile_serialization=False),
        lambda path: safetensors.torch.save_file(WEIGHTS, path),
        lambda path: write_checkpoint(path, WEIGHTS),
    ],
    ids=["zip", "legacy", "safetensors", "ours"],
)
def test_weights_are_read_from_every_format(tmp_path: Path, save: Callable[[Path], object]) -> None:
    save(tmp_path / "old.pth")
    content = read_foreign_checkpoint(tmp_path / "old.pth")
    assert all(torch.equal(content[name], tensor) for name, tensor in WEIGHTS.items())


def test_a_flipped_bit_in_a_weight_is_noticed(tmp_path: Path) -> None:
    """torch reads such a file without a word."""
    path = tmp_path / "old.pth"
    torch.save({"state_dict": {"a": torch.zeros(2), "fc.weight": torch.full((50, 60), 1.5)}}, path)
    data = bytearray(path.read_bytes())
    data[data.index(torch.full((9,), 1.5).numpy().tobytes()) + 4000] ^= 64
    path.write_bytes(data)
    assert (torch.load(path, weights_only=True)["state_dict"]["fc.weight"] != 1.5).sum() == 1
    with pytest.raises(CheckpointError, match=r"old\.pth: is .*damaged"):
        read_foreign_checkpoint(path)


def torchscript(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), str(path))


def foreign_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "text")


def cut_safetensors(path: Path) -> None:
    path.write_bytes(safetensors.torch.save(WEIGHTS)[:-5])


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda path: torch.save(nn.Linear(2, 2), path), r"torch\.save\(model\.state_dict\(\)"),
        (torchscript, "TorchScript.*nothing was executed"),
        (foreign_zip, "nothing was executed"),
        (cut_safetensors, "cannot be read"),
        (lambda path: path.write_bytes(pickle.dumps(WEIGHTS, protocol=2)), "nothing was executed"),
        (lambda path: path.write_bytes(pickle.dumps(print, protocol=4)), r"builtins\.print.*nothing was executed"),
        (lambda path: path.write_bytes(b"<!DOCTYPE html><html>"), "<!DOCTYPE html>.*download the file"),
        (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "git-lfs.*git lfs pull"),
        (lambda path: path.mkdir(), "cannot be read"),
        (lambda _: None, "no such checkpoint"),
    ],
    ids=["module", "torchscript", "zip", "half-safetensors", "bare-pickle", "bare-pickle-4", "html", "lfs",
         "folder", "missing"],
)  # fmt: skip
def test_57_59_60_66_what_holds_no_weights_says_why(
    tmp_path: Path, write: Callable[[Path], object], reason: str
) -> None:
    write(tmp_path / "old.pth")
    for read in (read_foreign_checkpoint, read_checkpoint):
        with pytest.raises(CheckpointError, match=rf"old\.pth: .*{reason}") as error:
            read(tmp_path / "old.pth")
        assert "\n" not in str(error.value)
        assert "weights_only" not in str(error.value)  # torch's advice is to read the file with all trust
