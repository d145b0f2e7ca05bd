"""The loading of a checkpoint's bytes: tensors and plain data; nothing else that a file names is executed.

torch.load takes this module in the place of `pickle` (`load` and `Unpickler` are the names that it looks for).
"""

from __future__ import annotations

import io
import pickle
import sys
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch

from utils.errors import CheckpointError

_TENSOR_FUNCTIONS = {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter"}
"""Of torch._utils: what builds a tensor of its storage."""

_PLAIN_BUILTINS = {
    "bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "object", "range", "set",
    "slice", "str", "tuple",
}  # fmt: skip

MAX_DEPTH, MAX_VALUES, MOST_REPEATED_BYTES = 200, 1_000_000, 2**30

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


def check_extent(content: Any) -> None:
    """Raises ValueError where content is deeper or larger than any model: a file of a few bytes can name one list twice
    in the next, forty times over, or a tensor of terabytes that is one number."""
    left, number = [(content, 0)], 0
    while left:
        value, depth = left.pop()
        number += 1
        if depth > MAX_DEPTH or number > MAX_VALUES:
            raise ValueError("it is nested too deeply, or has too many values")
        if isinstance(value, Mapping):
            left += [(each, depth + 1) for pair in value.items() for each in pair]
        elif isinstance(value, list | tuple | set | frozenset):
            left += [(each, depth + 1) for each in value]
        elif isinstance(value, torch.Tensor) and value.layout == torch.strided:
            extent = value.numel() * value.element_size()
            if extent > max(value.untyped_storage().nbytes(), MOST_REPEATED_BYTES):
                raise ValueError(f"a tensor is {extent:,} bytes of repeated values")


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


class Unpickler(pickle._Unpickler):
    """Builds tensors and ordered dicts, and an `InertObject` for an object of any other class. Nothing is imported.

    It is Python's own in Python: the one in C takes 64 GiB for a memo that a file of ten bytes names.

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
