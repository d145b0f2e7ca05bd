"""A checkpoint file is whole, checked and never run."""

from __future__ import annotations

import ast
import io
import os
import pickle
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path

import pytest
import torch

from utils.checkpoint import checkpoint_file
from utils.checkpoint.checkpoint_file import read_checkpoint, write_checkpoint
from utils.errors import CheckpointError


def example_content() -> dict[str, object]:
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


class Hostile:
    """Unpickled with full trust, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


def test_what_was_written_is_read(file: Path) -> None:
    content = read_checkpoint(file)
    assert torch.equal(content["model"]["weight"], torch.arange(12.0).view(3, 4))
    assert content["schedule"] == {"milestones": Counter([1, 2]), "last_epoch": 7}
    assert content["texts"] == ["a", None, True, 0.5]


def test_torch_itself_reads_the_file(file: Path) -> None:
    assert torch.equal(torch.load(file, weights_only=True)["model"]["counter"], torch.tensor(3))


def test_equal_content_gives_equal_bytes(file: Path, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "other name.pth", example_content())
    assert (tmp_path / "other name.pth").read_bytes() == file.read_bytes()


def test_no_temporary_stays(file: Path) -> None:
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_every_flipped_bit_is_noticed(file: Path) -> None:
    data = file.read_bytes()
    for position in range(0, len(data), 7):
        damaged = bytearray(data)
        damaged[position] ^= 1 << (position % 8)
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"last\.pth"):
            read_checkpoint(file)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_55_truncated(file: Path, share: float) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError, match=r"last\.pth: is truncated or damaged"):
        read_checkpoint(file)


def test_55_zeroed_page(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[200:400] = bytes(200)
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(file)


def test_57_empty(file: Path) -> None:
    file.write_bytes(b"")
    with pytest.raises(CheckpointError, match="is empty"):
        read_checkpoint(file)


def test_67_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        read_checkpoint(tmp_path / "none.pth")


def test_an_html_page(file: Path) -> None:
    file.write_bytes(b"<!DOCTYPE html><html></html>")
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        read_checkpoint(file)


def _bare_pickle(path: Path, content: object) -> None:
    path.write_bytes(pickle.dumps(content))


def _zip_container(path: Path, content: object) -> None:
    torch.save(content, path)


def _legacy_container(path: Path, content: object) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def _with_our_checksum(path: Path, content: object) -> None:
    write_checkpoint(path, {"model": content})


@pytest.mark.parametrize("save", [_bare_pickle, _zip_container, _legacy_container, _with_our_checksum])
def test_58_hostile_pickles_are_refused_and_nothing_is_executed(tmp_path: Path, save) -> None:  # type: ignore[no-untyped-def]
    mark = tmp_path / "executed"
    save(tmp_path / "hostile.pth", Hostile(mark))
    with pytest.raises(CheckpointError, match="nothing was executed"):
        read_checkpoint(tmp_path / "hostile.pth")
    assert not mark.exists()


def test_the_hostile_pickle_would_have_acted(tmp_path: Path) -> None:
    _bare_pickle(tmp_path / "hostile.pth", Hostile(tmp_path / "executed"))
    pickle.loads((tmp_path / "hostile.pth").read_bytes())
    assert (tmp_path / "executed").exists()


def test_59_torchscript(tmp_path: Path) -> None:
    path = tmp_path / "script.pth"
    with zipfile.ZipFile(path, "w") as archive:  # what torch.jit.save lays down
        archive.writestr("script/data.pkl", b"\x80\x02}.")
        archive.writestr("script/code/__torch__.py", b"class Module(Module):\n  pass\n")
        archive.writestr("script/constants.pkl", b"\x80\x02).")
    with pytest.raises(CheckpointError, match="TorchScript"):
        read_checkpoint(path)


def test_60_a_whole_module(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    with pytest.raises(CheckpointError, match=r"whole nn\.Module.*save its state_dict"):
        read_checkpoint(tmp_path / "module.pth")


def test_65_a_newer_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_file, "VERSION", checkpoint_file.VERSION + 1)
    write_checkpoint(tmp_path / "newer.pth", {})
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="update the program"):
        read_checkpoint(tmp_path / "newer.pth")


def test_66_a_template_checkpoint_says_how_to_convert(tmp_path: Path) -> None:
    content = {"arch": "Net", "epoch": 3, "state_dict": {}, "optimizer": {}, "monitor_best": 0.1}
    torch.save(content, tmp_path / "old.pth")
    with pytest.raises(CheckpointError, match=r"pytorch-template checkpoint .*import_checkpoint .*old\.pth -c"):
        read_checkpoint(tmp_path / "old.pth")


def test_66_another_file_of_tensors(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="a dict with keys weight"):
        read_checkpoint(tmp_path / "weights.pth")


def test_a_missing_checksum_is_not_trusted(file: Path) -> None:
    buffer = io.BytesIO()
    torch.save(torch.load(file, weights_only=True), buffer)
    file.write_bytes(buffer.getvalue())
    with pytest.raises(CheckpointError, match="has no checksum"):
        read_checkpoint(file)


def test_one_call_loads_and_it_is_the_restricted_one() -> None:
    """Ours and others' files alike: bytes become objects in one place."""
    tree = ast.parse(Path(checkpoint_file.__file__).read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    (load,) = [call for call in calls if ast.unparse(call.func).endswith(".load")]
    assert ast.unparse(load.func) == "torch.load"
    assert "weights_only=True" in ast.unparse(load)
    assert not [call for call in calls if ast.unparse(call.func).endswith((".loads", "Unpickler"))]
