"""The one reader and writer of checkpoint files: plain data, checked by a checksum, never run.

A file is what `torch.save` writes (a ZIP archive) with its SHA-256 as the archive's comment, so one file holds all,
a rename replaces all, and `torch.load(path, weights_only=True)` takes it too. torch itself does not notice flipped
bits: the checksum does.

Other programs' files are read by `read_foreign_checkpoint` alone, for scripts/import_checkpoint.py.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import pickletools
import sys
import zipfile
from _compat_pickle import IMPORT_MAPPING
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from utils.errors import CheckpointError
from utils.files import write_atomically

FORMAT = "attribute-training-checkpoint"
VERSION = 1
_MARK = b"sha256:"
_TEMPLATE_KEYS = {"arch", "state_dict", "epoch"}
_COMMENT_LENGTH = len(_MARK) + 64


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Writes plain data (tensors, numbers, texts, lists, dicts) so that the file is whole or absent. Raises OSError."""
    buffer = io.BytesIO()
    torch.save(_canonical({"format": FORMAT, "version": VERSION, **content}), buffer)
    archive = buffer.getbuffer()
    comment = _MARK + hashlib.sha256(archive).hexdigest().encode()
    # The last two bytes of a ZIP archive without a comment are the comment's length, 0.
    write_atomically(path, b"".join((archive[:-2], len(comment).to_bytes(2, "little"), comment)))


def _canonical(value: Any) -> Any:
    """The same value in fresh containers and interned texts: pickle writes what is one object twice otherwise than what
    is two equal ones, and a resumed run must write the bytes of an uninterrupted one."""
    if isinstance(value, str):
        return sys.intern(value)
    if isinstance(value, Counter):
        return Counter(dict(value))
    if isinstance(value, dict):
        return {_canonical(key): _canonical(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([_canonical(part) for part in value])
    return value


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint that `write_checkpoint` wrote, on the CPU.

    Raises CheckpointError, naming the file and the reason, for anything else. Nothing in the file is executed."""
    archive = _checked_archive(path, _read_bytes(path))
    try:
        content = _load(archive)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: refused, nothing was executed: {_first_line(error)}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(_foreign(path, content))
    if not isinstance(content.get("version"), int) or content["version"] > VERSION:
        raise CheckpointError(
            f"{path}: has format version {content.get('version')!r}, and this program reads up to {VERSION}; "
            "update the program"
        )
    return content


class InertObject:
    """Stands for an object of any class that a foreign checkpoint names: it keeps what the file says of the object, and
    can do nothing. arguments: what its class was to be called with; state: what its attributes were to be."""

    arguments: tuple[Any, ...]
    state: Any

    def __new__(cls, *arguments: Any) -> InertObject:
        made = super().__new__(cls)
        made.arguments, made.state = arguments, None
        return made

    def __init__(self, *arguments: Any) -> None:
        """As `__new__`: an unpickler calls either, or both."""

    def __setstate__(self, state: Any) -> None:
        self.state = state


def read_foreign_checkpoint(path: Path) -> Any:
    """The content of a file that another program wrote with `torch.save`, on the CPU; nothing in it is executed.

    torch's own restricted unpickler builds it, which takes tensors and plain data. Objects of other classes (the
    ConfigParser of a template, its paths, numpy's numbers) become `InertObject`s. A name of Python's own library that
    is no plain class, such as os.system or builtins.eval, is no part of a model: the file is refused.

    Raises CheckpointError, naming the file and the reason, for what is no such file, or is one of this program."""
    data = _read_bytes(path)
    if data[:2] == b"PK" and data[-_COMMENT_LENGTH:].startswith(_MARK):
        raise CheckpointError(f"{path}: is a checkpoint of this program already; test.py --resume takes it as it is")
    if data[:2] not in (b"PK", b"\x80\x02"):
        raise CheckpointError(f"{path}: is not what torch.save writes (it begins with {data[:16]!r})")
    try:
        if _is_torchscript(data):
            raise CheckpointError(
                f"{path}: is a TorchScript archive, whose code would have to be run; save the model's state_dict where "
                "it was made"
            )
        names = _foreign_names(data)
        if hostile := sorted(name for name in names if _is_hostile(name)):
            raise CheckpointError(f"{path}: names {', '.join(hostile[:5])}: refused, nothing was executed")
        with torch.serialization.safe_globals([(InertObject, name) for name in names]):
            content = _load(data)
    except CheckpointError:
        raise
    except Exception as error:  # the file is foreign: whatever its reading raises is a reason to refuse it
        raise CheckpointError(f"{path}: cannot be read, nothing was executed: {_first_line(error)}") from None
    if isinstance(content, InertObject):
        raise CheckpointError(
            f"{path}: is a whole pickled object, such as an nn.Module, whose class would have to be run; save its "
            "state_dict where it was made: torch.save(model.state_dict(), ...)"
        )
    return content


_PLAIN_CLASSES = {
    "pathlib.PosixPath", "pathlib.WindowsPath", "pathlib.PurePosixPath", "pathlib.PureWindowsPath",
    "pathlib._local.PosixPath", "pathlib._local.WindowsPath", "argparse.Namespace", "types.SimpleNamespace",
    "datetime.datetime", "datetime.date", "datetime.timedelta", "collections.defaultdict", "builtins.dict",
    "builtins.list", "builtins.int", "builtins.float", "builtins.str", "builtins.bool", "builtins.tuple",
    "builtins.object", "builtins.frozenset", "builtins.slice", "builtins.range",
}  # fmt: skip
"""Classes of Python's library that checkpoints hold in good faith; none of them is used, either."""


def _is_hostile(name: str) -> bool:
    package = name.partition(".")[0]
    of_python = package in sys.stdlib_module_names or package in IMPORT_MAPPING  # today's name, or Python 2's
    return of_python and name not in _PLAIN_CLASSES


def _foreign_names(data: bytes) -> set[str]:
    """The classes and functions that a file names, without those of torch that the restricted unpickler takes."""
    if data[:2] != b"PK":
        data = _as_archive(data)
    return set(torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(data)))


def _as_archive(legacy: bytes) -> bytes:
    """The object of a file in the format before 2020 (three pickles, then the object's), as torch looks into it."""
    stream, ends = io.BytesIO(legacy), []
    for _ in range(4):
        for _ in pickletools.genops(stream):
            pass
        ends.append(stream.tell())
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", legacy[ends[2] : ends[3]])
        file.writestr("archive/version", "3")
    return archive.getvalue()


def _load(data: bytes) -> Any:
    """The one place where a checkpoint's bytes become objects: by torch's restricted unpickler, on the CPU."""
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such checkpoint") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    if not data:
        raise CheckpointError(f"{path}: is empty; use an earlier checkpoint")
    return data


def _checked_archive(path: Path, data: bytes) -> bytes:
    """The archive as torch wrote it, its checksum verified."""
    comment = data[-_COMMENT_LENGTH:]
    if data[:2] == b"PK" and comment.startswith(_MARK):
        archive = data[:-_COMMENT_LENGTH][:-2] + b"\0\0"
        if hashlib.sha256(archive).hexdigest().encode() != comment[len(_MARK) :]:
            raise CheckpointError(f"{path}: is damaged (its checksum differs); use an earlier checkpoint")
        return archive
    raise CheckpointError(_why_no_checksum(path, data))


def _why_no_checksum(path: Path, data: bytes) -> str:
    if data[:2] != b"PK":
        if data[:1] == b"\x80":
            return f"{path}: is a bare pickle, which could run code: refused, nothing was executed"
        return f"{path}: is not a checkpoint (it begins with {data[:16]!r})"
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        names, rest_of_checksum = archive.namelist(), archive.comment
    except (zipfile.BadZipFile, ValueError, EOFError, OSError):
        names, rest_of_checksum = [], b""
    if not names or rest_of_checksum:
        return f"{path}: is truncated or damaged (its end is missing); use an earlier checkpoint"
    if _is_torchscript(data):
        return f"{path}: is a TorchScript archive, which holds code: refused, nothing was executed"
    try:
        unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(data))
        texts = _strings(archive) if unsafe else set()
        content = None if unsafe else _load(data)
    except Exception as error:  # the file is foreign: whatever its reading raises is a reason to refuse it
        return f"{path}: refused, nothing was executed: {_first_line(error)}"
    if any(name.startswith("torch.nn.modules") for name in unsafe):
        return f"{path}: is a whole nn.Module, which could run code: refused, nothing was executed; save its state_dict"
    if texts >= _TEMPLATE_KEYS:  # a template's holds its config object, too
        return _from_template(path, ", ".join(sorted(unsafe)[:5]))
    if unsafe:
        return f"{path}: names Python objects ({', '.join(sorted(unsafe)[:5])}): refused, nothing was executed"
    return _foreign(path, content)


def _is_torchscript(data: bytes) -> bool:
    if data[:2] != b"PK":
        return False
    names = zipfile.ZipFile(io.BytesIO(data)).namelist()
    return any(name.endswith("constants.pkl") or "/code/" in name for name in names)


def _foreign(path: Path, content: object) -> str:
    keys = list(content) if isinstance(content, dict) else []
    if set(keys) >= _TEMPLATE_KEYS:
        return _from_template(path, f"keys {', '.join(map(str, keys[:6]))}")
    if isinstance(content, dict) and content.get("format") == FORMAT:
        return f"{path}: has no checksum; use an earlier checkpoint"
    kind = f"a dict with keys {', '.join(map(str, keys[:6]))}" if keys else f"a {type(content).__name__}"
    return (
        f"{path}: is not a checkpoint of this program (it holds {kind}); if these are a model's weights, import them: "
        f"{_import_command(path)}"
    )


def _from_template(path: Path, holds: str) -> str:
    return (
        f"{path}: is a pytorch-template checkpoint ({holds}): refused, nothing was executed; to convert it: "
        f"{_import_command(path)}"
    )


def _import_command(path: Path) -> str:
    return f"python -m scripts.import_checkpoint {path} -c <a config that describes its model>"


def _strings(archive: zipfile.ZipFile) -> set[str]:
    """The texts in an archive's pickle, which is not run."""
    name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
    return {argument for _, argument, _ in pickletools.genops(archive.read(name)) if isinstance(argument, str)}


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
