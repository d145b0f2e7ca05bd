"""A pickle can name anything, and have nothing run: a canary folder must not appear."""

from __future__ import annotations

import argparse
import builtins
import functools
import io
import logging
import os
import pickle
import struct
import subprocess
import sys
import types
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from utils.checkpoint.restricted_unpickler import InertObject, load, load_tensors
from utils.errors import CheckpointError

WEIGHTS = {"fc.weight": torch.arange(6.0).view(2, 3), "fc.bias": nn.Parameter(torch.tensor([1.0, -1.0]))}
CANARY = "executed"


class Call:
    """Unpickled with full trust, it calls a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def saved(content: Any, zipped: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


HOSTILE: dict[str, tuple[Any, bool]] = {  # and whether it acts as soon as it is read with full trust
    "os.system": (Call(os.system, f"mkdir {CANARY}"), True),
    "os.mkdir": (Call(os.mkdir, CANARY), True),
    "eval": (Call(builtins.eval, f"__import__('os').mkdir('{CANARY}')"), True),
    "exec": (Call(builtins.exec, f"import os; os.mkdir('{CANARY}')"), True),
    "getattr": (Call(builtins.getattr, Path(CANARY), "mkdir"), False),
    "subprocess": (Call(subprocess.call, ["mkdir", CANARY]), True),
    "partial": (functools.partial(os.mkdir, CANARY), False),
    "pickle": (Call(pickle.loads, pickle.dumps(Call(os.mkdir, CANARY))), True),
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("case", HOSTILE)
def test_58_what_acts_is_refused(case: str, zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Among the weights, where nobody would look for it."""
    monkeypatch.chdir(tmp_path)
    hostile, acts = HOSTILE[case]
    data = saved({"state_dict": WEIGHTS, "config": hostile}, zipped)
    with pytest.raises(CheckpointError, match=r"nothing was executed.*do not use it"):
        load_tensors(data, foreign=True)
    with pytest.raises(pickle.UnpicklingError):
        load_tensors(data)
    assert not Path(CANARY).exists()
    torch.load(io.BytesIO(data), weights_only=False)
    assert Path(CANARY).exists() == acts


def test_a_function_that_no_list_names_is_not_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canary, module = tmp_path / CANARY, types.ModuleType("a_module_of_others")
    monkeypatch.setitem(sys.modules, module.__name__, module)

    def harm(path: str) -> None:
        Path(path).mkdir()

    harm.__module__, harm.__qualname__, module.harm = module.__name__, "harm", harm  # type: ignore[attr-defined]
    data = saved({"state_dict": WEIGHTS, "config": Call(harm, str(canary))}, True)
    content = load_tensors(data, foreign=True)
    assert type(content["config"]) is InertObject
    assert not canary.exists()
    torch.load(io.BytesIO(data), weights_only=False)
    assert canary.exists()


class AttributeDict(dict[str, Any]):
    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        Path(CANARY).mkdir()


class Sizes(list[int]):
    pass


class WithState:
    def __init__(self) -> None:
        self.path, self.log, self.numbers = Path("saved"), logging.getLogger("x"), {1, 2}

    def __setstate__(self, state: Any) -> None:
        Path(CANARY).mkdir()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_objects_of_classes_become_inert_and_the_rest_is_read(
    zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    others = [WithState(), argparse.Namespace(lr=0.1), np.float64(0.25), Sizes([1, 2]), Sizes([1])]
    config = {"items": AttributeDict(lr=0.1), "default": defaultdict(list, a=[1]), "others": others, Path("a"): {1}}
    content = load_tensors(saved({"state_dict": OrderedDict(WEIGHTS), "config": config, "epoch": 7}, zipped), True)
    assert not Path(CANARY).exists()
    assert content["epoch"] == 7
    assert type(content["state_dict"]) is OrderedDict
    assert all(torch.equal(content["state_dict"][name], tensor) for name, tensor in WEIGHTS.items())
    assert content["config"]["items"] == {"lr": 0.1}
    assert content["config"]["default"] == {"a": [1]}
    assert {type(each) for each in content["config"]["others"]} == {InertObject}


def push(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


@pytest.mark.parametrize(
    "target",
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"ccollections\nOrderedDict\n",
        b"ca_module\nAClass\n",
        b"ctorch\nFloatStorage\n",
    ],
)
def test_a_pickle_cannot_change_a_class_or_a_function(target: bytes) -> None:
    """Its BUILD instruction sets attributes of whatever it is given, such as __name__ or __defaults__."""
    before = torch._utils._rebuild_tensor_v2.__defaults__, InertObject.__name__
    for state in (b"}" + push("__name__") + push("x") + b"s", b"N}" + push("__name__") + push("x") + b"s\x86"):
        with pytest.raises((TypeError, pickle.UnpicklingError, AttributeError)):
            load(io.BytesIO(b"\x80\x02" + target + state + b"b."))
    assert (torch._utils._rebuild_tensor_v2.__defaults__, InertObject.__name__) == before
    assert torch._utils._rebuild_tensor_v2.__name__ == "_rebuild_tensor_v2"


@pytest.mark.parametrize("name", ["_rebuild_tensor_v2.__globals__", "load", "_rebuild_tensor_v2.__code__"])
def test_nothing_else_of_torch_is_within_reach(name: str) -> None:
    data = b"\x80\x04" + push("torch._utils") + push(name) + b"\x93."
    assert load(io.BytesIO(data)) is InertObject
