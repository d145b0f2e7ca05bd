"""Other programs' checkpoints are read without running what they name."""

from __future__ import annotations

import argparse
import builtins
import datetime
import decimal
import functools
import logging
import os
import pickle
import re
import subprocess
import sys
import types
import uuid
import warnings
import zipfile
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from utils.checkpoint.checkpoint_file import read_checkpoint, read_foreign_checkpoint, write_checkpoint
from utils.checkpoint.inert_objects import InertObject
from utils.errors import CheckpointError

WEIGHTS = {"fc.weight": torch.arange(6.0).view(2, 3), "fc.bias": torch.tensor([1.0, -1.0])}


class ConfigParser:
    """As pytorch-template has it: a config, folders, levels of the log."""

    def __init__(self, mark: Path) -> None:
        self._config = OrderedDict(name="Mask_Base", arch={"type": "TimmModelMulti"})
        self.resume = None
        self._save_dir = Path("saved/models/Mask_Base")
        self.log_levels = {0: 30, 1: 20}
        self.mark = mark

    def __setstate__(self, state: dict[str, Any]) -> None:
        """What would run, if its class were asked for."""
        self.__dict__.update(state)
        self.mark.mkdir()


@pytest.fixture
def template_module() -> Iterator[types.ModuleType]:
    """A module "parse_config_of_others", as it is where the checkpoint was made."""
    module = types.ModuleType("parse_config_of_others")
    module.ConfigParser = ConfigParser  # type: ignore[attr-defined]
    place = ConfigParser.__module__
    ConfigParser.__module__ = module.__name__
    sys.modules[module.__name__] = module
    yield module
    sys.modules.pop(module.__name__, None)
    ConfigParser.__module__ = place


def template_content(mark: Path) -> dict[str, Any]:
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(2))])
    return {
        "arch": "TimmModelMulti", "epoch": 7, "state_dict": OrderedDict(WEIGHTS), "optimizer": optimizer.state_dict(),
        "monitor_best": np.float64(0.25), "config": ConfigParser(mark),
    }  # fmt: skip


@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "legacy"])
def test_a_templates_checkpoint_is_read_without_its_classes(
    tmp_path: Path, template_module: types.ModuleType, new_format: bool
) -> None:
    path, mark = tmp_path / "old.pth", tmp_path / "executed"
    torch.save(template_content(mark), path, _use_new_zipfile_serialization=new_format)
    with pytest.raises(CheckpointError):
        read_checkpoint(path)
    content = read_foreign_checkpoint(path)  # though the class could be had now
    del sys.modules[template_module.__name__]
    assert not mark.exists()
    assert content["epoch"] == 7
    for name, tensor in WEIGHTS.items():
        assert torch.equal(content["state_dict"][name], tensor)
    config = content["config"]
    assert type(config) is InertObject
    assert config.state["_config"]["arch"] == {"type": "TimmModelMulti"}
    assert config.state["_save_dir"].arguments == ("saved", "models", "Mask_Base")
    assert InertObject not in [entry[0] for entry in torch.serialization.get_safe_globals() if isinstance(entry, tuple)]


@pytest.mark.usefixtures("template_module")
def test_the_templates_class_would_have_acted(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    torch.save(template_content(mark), tmp_path / "old.pth")
    torch.load(tmp_path / "old.pth", weights_only=False)
    assert mark.exists()


class Call:
    """Unpickled with full trust, it calls a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


MARK = "executed"
HOSTILE: dict[str, tuple[Any, str]] = {
    "os.system": (Call(os.system, f"mkdir {MARK}"), "posix.system"),
    "os.mkdir": (Call(os.mkdir, MARK), "posix.mkdir"),
    "eval": (Call(builtins.eval, f"__import__('os').mkdir('{MARK}')"), "builtins.eval"),
    "exec": (Call(builtins.exec, f"import os; os.mkdir('{MARK}')"), "builtins.exec"),
    "getattr": (Call(builtins.getattr, Path(MARK), "mkdir"), "builtins.getattr"),
    "subprocess": (Call(subprocess.call, ["mkdir", MARK]), "commands.call"),
    "partial": (functools.partial(os.mkdir, MARK), "functools.partial"),
    "pickle": (Call(pickle.loads, pickle.dumps(Call(os.mkdir, MARK))), "pickle.loads"),
}


@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_names_are_refused(
    tmp_path: Path, case: str, new_format: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among the weights, where nobody would look for them."""
    monkeypatch.chdir(tmp_path)
    hostile, named = HOSTILE[case]
    torch.save({"state_dict": WEIGHTS, "config": hostile}, "old.pth", _use_new_zipfile_serialization=new_format)
    with pytest.raises(CheckpointError, match=rf"old\.pth: names .*{named}.*refused, nothing was executed"):
        read_foreign_checkpoint(Path("old.pth"))
    assert not Path(MARK).exists()
    torch.load("old.pth", weights_only=False)
    if case != "partial" and case != "getattr":
        assert Path(MARK).exists()


def test_a_foreign_function_is_kept_and_not_called(tmp_path: Path, template_module: types.ModuleType) -> None:
    """No list can name every function that does harm: those that pass it are inert all the same."""

    def harm(mark: str) -> None:
        Path(mark).mkdir()

    harm.__module__, harm.__qualname__ = template_module.__name__, "harm"
    template_module.harm = harm  # type: ignore[attr-defined]
    mark = tmp_path / "executed"
    torch.save({"state_dict": WEIGHTS, "config": Call(harm, str(mark))}, tmp_path / "old.pth")
    content = read_foreign_checkpoint(tmp_path / "old.pth")
    assert content["config"].arguments == (str(mark),)
    assert not mark.exists()
    torch.load(tmp_path / "old.pth", weights_only=False)
    assert mark.exists()


def test_objects_of_pythons_own_plain_classes_are_no_reason_to_refuse(tmp_path: Path) -> None:
    others = {"args": argparse.Namespace(lr=0.1), "where": tmp_path, "sets": {1}, "counts": defaultdict(int)}
    torch.save({**WEIGHTS, "others": others}, tmp_path / "old.pth")
    content = read_foreign_checkpoint(tmp_path / "old.pth")
    assert torch.equal(content["fc.weight"], WEIGHTS["fc.weight"])
    assert content["others"]["args"].state == {"lr": 0.1}


def test_a_flipped_bit_in_a_weight_is_noticed(tmp_path: Path) -> None:
    """torch reads such a file without a word."""
    path = tmp_path / "old.pth"
    torch.save({"state_dict": {"a": torch.zeros(2), "fc.weight": torch.full((50, 60), 1.5)}}, path)
    data = bytearray(path.read_bytes())
    data[data.index(torch.full((9,), 1.5).numpy().tobytes()) + 4000] ^= 64
    path.write_bytes(data)
    assert (torch.load(path, weights_only=True)["state_dict"]["fc.weight"] != 1.5).sum() == 1
    with pytest.raises(CheckpointError, match=r"old\.pth: is damaged \(the checksum of old/data/1 in it differs\)"):
        read_foreign_checkpoint(path)


class EasyDict(dict[str, Any]):
    """A dict whose keys are attributes, too, as configs of many programs are."""

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        setattr(self, key, value)
        Path(MARK).mkdir(exist_ok=True)


class Sizes(list[int]):
    def extend(self, values: Any) -> None:
        super().extend(values)
        Path(MARK).mkdir(exist_ok=True)


class Ordered(OrderedDict[str, Any]):
    pass


CONTAINERS: dict[str, tuple[Any, Any]] = {
    "dict": (EasyDict(lr=0.1, model=EasyDict(name="x")), {"lr": 0.1, "model": {"name": "x"}}),
    "list": (Sizes([224, 224]), [224, 224]),
    "list-of-one": (Sizes([224]), [224]),
    "ordered": (Ordered(a=Sizes([1, 2]), b=(1, EasyDict(c=2))), {"a": [1, 2], "b": (1, {"c": 2})}),
    "default": (defaultdict(list, a=[1]), {"a": [1]}),
}


@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("case", CONTAINERS)
def test_classes_built_on_dict_and_list_become_plain_ones(
    tmp_path: Path, case: str, new_format: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config, expected = CONTAINERS[case]
    shared = {"state_dict": WEIGHTS, "config": config, "again": [config, argparse.Namespace(config=config)]}
    torch.save(shared, "old.pth", _use_new_zipfile_serialization=new_format)
    content = read_foreign_checkpoint(Path("old.pth"))
    assert content["config"] == expected
    assert content["again"][0] is content["config"]
    assert content["again"][1].state == {"config": expected}
    assert not Path(MARK).exists()
    assert type(content["config"]) in (OrderedDict, list)


@pytest.mark.parametrize(
    ("held", "named"),
    [
        (logging.getLogger("x"), r"logging\.getLogger"),
        (functools.partial(torch.nn.functional.relu), r"functools\.partial"),
        (datetime.UTC, r"datetime\.timezone"),
        (decimal.Decimal("0.1"), r"decimal\.Decimal"),
        (deque([1]), r"collections\.deque"),
        (uuid.UUID(int=1), r"uuid\.UUID"),
        (re.compile("x"), r"re\._compile"),
    ],
)
def test_what_may_be_meant_well_is_refused_with_a_remedy(tmp_path: Path, held: Any, named: str) -> None:
    path = tmp_path / "old.pth"
    torch.save({"arch": "x", "epoch": 1, "state_dict": WEIGHTS, "config": held}, path)
    told = rf'old\.pth: names {named}: refused, nothing was executed; .*torch\.save\(checkpoint\["state_dict"\], '
    for read in (read_foreign_checkpoint, read_checkpoint):
        with pytest.raises(CheckpointError, match=told):
            read(path)


def test_a_hostile_file_is_nowhere_advised_to_be_used(tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save({"arch": "x", "epoch": 1, "state_dict": WEIGHTS, "config": Call(os.system, "true")}, path)
    for read in (read_foreign_checkpoint, read_checkpoint):
        with pytest.raises(CheckpointError, match=r"names posix\.system: refused.*do not use it$"):
            read(path)


def test_torchs_own_advice_is_not_passed_on(tmp_path: Path) -> None:
    """It is to read the file with all trust."""
    path = tmp_path / "old.pth"
    listed = Sizes([1])
    listed.name = "x"  # type: ignore[attr-defined]
    torch.save({"state_dict": WEIGHTS, "config": listed}, path)
    with pytest.raises(CheckpointError, match=r'torch\.save\(checkpoint\["state_dict"\]') as error:
        read_foreign_checkpoint(path)
    assert "weights_only" not in str(error.value)
    assert "Weights only" not in str(error.value)


def whole_module(path: Path) -> None:
    torch.save(nn.Linear(2, 2), path)


def torchscript(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), str(path))


def foreign_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "text")


def half(path: Path) -> None:
    torch.save(WEIGHTS, path)
    path.write_bytes(path.read_bytes()[:500])


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (whole_module, r"is a whole pickled object.*torch\.save\(model\.state_dict\(\)"),
        (torchscript, r"is a TorchScript archive"),
        (foreign_zip, "cannot be read, nothing was executed"),
        (half, "is truncated or damaged"),
        (lambda path: path.write_bytes(pickle.dumps(WEIGHTS, protocol=2)), "cannot be read, nothing was executed"),
        (lambda path: path.write_bytes(b"<!DOCTYPE html>"), "is not what torch.save writes"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda _: None, "there is no such checkpoint"),
        (lambda path: write_checkpoint(path, {"model": WEIGHTS}), "is a checkpoint of this program already"),
    ],
    ids=["module", "torchscript", "zip", "half", "bare-pickle", "html", "empty", "missing", "ours"],
)
def test_what_cannot_be_imported_says_why(tmp_path: Path, write: Callable[[Path], object], told: str) -> None:
    path = tmp_path / "old.pth"
    write(path)
    with pytest.raises(CheckpointError, match=rf"old\.pth: {told}"):
        read_foreign_checkpoint(path)
