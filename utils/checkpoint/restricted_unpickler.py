"""The loading of a checkpoint's bytes: tensors and plain data; nothing else that a file names is executed.

torch.load takes this module in the place of `pickle` (`load` and `Unpickler` are the names that it looks for).
"""

from __future__ import annotations

import io
import pickle
import sys
from collections import OrderedDict
from typing import Any

import torch

from utils.errors import CheckpointError

_TENSOR_FUNCTIONS = {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter"}
"""Of torch._utils: what builds a tensor of its storage."""

_PLAIN_BUILTINS = {
    "bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "object", "range", "set",
    "slice", "str", "tuple",
}  # fmt: skip

_MODULES_THAT_ACT = {
    "__builtin__", "_pickle", "_posixsubprocess", "_socket", "builtins", "code", "codeop", "commands", "ctypes",
    "importlib", "marshal", "multiprocessing", "nt", "os", "pdb", "pickle", "posix", "pty", "runpy", "shutil", "socket",
    "subprocess", "sys", "timeit", "webbrowser",
}  # fmt: skip
"""A file that names one of their functions is hostile, and refused. Functions of all other modules are inert, too."""


def load_tensors(data: bytes, foreign: bool = False) -> Any:
    """The one place where a checkpoint's bytes become objects, on the CPU.

    foreign: by `Unpickler`, for other programs' files; else by torch's own restricted one, which takes no classes."""
    pickle_module = sys.modules[__name__] if foreign else None
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=not foreign, pickle_module=pickle_module)


class InertObject(dict[Any, Any]):
    """In the place of an object of any class that a file names: it keeps its items, and can do nothing."""

    def __init__(self, *_arguments: Any, **_options: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        """Attributes are not set."""

    def append(self, item: Any) -> None:
        """Of classes built on list."""

    __hash__ = object.__hash__  # type: ignore[assignment]


class _TensorFunction:
    """One of torch's functions, which a file may call, but whose attributes it cannot set."""

    __slots__ = ("_function",)

    def __init__(self, name: str) -> None:
        self._function = getattr(torch._utils, name)

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it changes torch's functions")


class Unpickler(pickle.Unpickler):
    """Builds tensors and ordered dicts, and an `InertObject` for an object of any other class. Nothing is imported.

    Raises CheckpointError where the file names what acts, before it is called."""

    def find_class(self, module: str, name: str) -> Any:
        """What the unpickler uses for a name in the file."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch._utils" and name in _TENSOR_FUNCTIONS:
            return _TensorFunction(name)
        if module.partition(".")[0] in _MODULES_THAT_ACT and name not in _PLAIN_BUILTINS:
            raise CheckpointError(f"names {module}.{name}: refused, nothing was executed; do not use it")
        return InertObject


def load(file: Any, **options: Any) -> Any:
    """As pickle.load, by `Unpickler`."""
    return Unpickler(file, **options).load()
