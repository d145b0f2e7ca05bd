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
import re
import sys
import zipfile
from _compat_pickle import IMPORT_MAPPING
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from utils.checkpoint.inert_objects import InertObject, inert_classes
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
        raise CheckpointError(f"{path}: refused, nothing was executed: {_reason(error)}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(_foreign(path, content))
    if not isinstance(content.get("version"), int) or content["version"] > VERSION:
        raise CheckpointError(
            f"{path}: has format version {content.get('version')!r}, and this program reads up to {VERSION}; "
            "update the program"
        )
    return content


def read_foreign_checkpoint(path: Path) -> Any:
    """The content of a file that another program wrote with `torch.save`, on the CPU; nothing in it is executed.

    torch's own restricted unpickler builds it, which takes tensors and plain data. Objects of other classes (the
    ConfigParser of a template, its paths, numpy's numbers) become `InertObject`s, those that are built on dict or list
    plain dicts and lists. A name of Python's own library that
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
        if damaged := zipfile.ZipFile(io.BytesIO(data)).testzip() if data[:2] == b"PK" else None:
            raise CheckpointError(f"{path}: is damaged (the checksum of {damaged} in it differs); fetch it anew")
        archive = data if data[:2] == b"PK" else _as_archive(data)
        names = set(torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(archive)))
        if refused := sorted(name for name in names if _is_hostile(name)):
            raise CheckpointError(f"{path}: {_refusal(refused)}")
        with torch.serialization.safe_globals(inert_classes(names, _pickle_in(archive))):
            content = _load(data)
    except CheckpointError:
        raise
    except zipfile.BadZipFile:
        raise CheckpointError(f"{path}: is truncated or damaged (it begins as a ZIP archive); fetch it anew") from None
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: cannot be read, nothing was executed: {_reason(error)}; {_SAVE_WEIGHTS_ALONE}"
        ) from None
    except Exception as error:  # the file is foreign: whatever its reading raises is a reason to refuse it
        raise CheckpointError(f"{path}: cannot be read, nothing was executed: {_reason(error)}") from None
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


_ACTING = {
    "builtins", "ctypes", "importlib", "marshal", "multiprocessing", "nt", "os", "pickle", "posix", "pty", "runpy",
    "shutil", "socket", "subprocess", "sys", "webbrowser", "__builtin__", "commands", "_pickle", "_posixsubprocess",
    "_socket", "code", "codeop", "pdb", "timeit",
}  # fmt: skip
"""Modules whose functions have no place in any checkpoint: a file that names one was made to be run."""

_SAVE_WEIGHTS_ALONE = (
    'save only its weights where the program that made it is at hand: torch.save(checkpoint["state_dict"], '
    '"weights.pth")'
)


def _refusal(names: list[str]) -> str:
    """What is told of names that `_is_hostile` found; a remedy only where they may be there in good faith."""
    told = f"names {', '.join(names[:5])}: refused, nothing was executed"
    if any(name.partition(".")[0] in _ACTING for name in names):
        return f"{told}; a file of weights has no need of that: do not use it"
    return f"{told}; {_SAVE_WEIGHTS_ALONE}"


def _is_hostile(name: str) -> bool:
    package = name.partition(".")[0]
    of_python = package in sys.stdlib_module_names or package in IMPORT_MAPPING  # today's name, or Python 2's
    return of_python and name not in _PLAIN_CLASSES


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
        texts = _strings(data) if unsafe else set()
        content = None if unsafe else _load(data)
    except Exception as error:  # the file is foreign: whatever its reading raises is a reason to refuse it
        return f"{path}: refused, nothing was executed: {_reason(error)}"
    if any(name.startswith("torch.nn.modules") for name in unsafe):
        return f"{path}: is a whole nn.Module, which could run code: refused, nothing was executed; save its state_dict"
    if hostile := sorted(name for name in unsafe if _is_hostile(name)):  # the import would refuse it, too
        return f"{path}: {_refusal(hostile)}"
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


def _strings(archive: bytes) -> set[str]:
    """The texts in an archive's pickle, which is not run."""
    return {argument for _, argument, _ in pickletools.genops(_pickle_in(archive)) if isinstance(argument, str)}


def _pickle_in(data: bytes) -> bytes:
    """The pickle of a torch archive, which is not run."""
    archive = zipfile.ZipFile(io.BytesIO(data))
    return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))


def _reason(error: BaseException) -> str:
    """The error in a line. torch's own advice, to read the file with all trust, is none of ours."""
    text = str(error).strip()
    if isinstance(error, pickle.UnpicklingError):
        text = text.partition("WeightsUnpickler error: ")[2] or text
        text = re.split(r"Please use|You can|Check the documentation", text)[0].strip()
        if "weights_only" in text:
            text = ""
    return text.splitlines()[0][:200].rstrip(" .") if text else "it holds what only its own program can read"
