"""The one reader and writer of checkpoint files: plain data, checked by a checksum, never run.

A file is what `torch.save` writes (a ZIP archive) with its SHA-256 as the archive's comment, so one file holds all,
a rename replaces all, and `torch.load(path, weights_only=True)` takes it too. torch itself does not notice flipped
bits: the checksum does.
"""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch

from utils.checkpoint.foreign_checkpoint import content_of, read_bytes
from utils.checkpoint.restricted_unpickler import check_extent, load_tensors
from utils.errors import CheckpointError
from utils.files import write_atomically

FORMAT = "attribute-training-checkpoint"
VERSION = 1
OURS = "name a run folder, saved/models/<name>/<run>, or a .pth file in it"
_MARK = b"sha256:"
_COMMENT_LENGTH = len(_MARK) + 64
_LENGTH = _COMMENT_LENGTH.to_bytes(2, "little")
_NO_LENGTH = bytes(2)
"""The last two bytes of a ZIP archive without a comment are the comment's length."""


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Writes plain data (tensors, numbers, texts, lists, dicts) so that the file is whole or absent. Raises OSError."""

    def write(file: BinaryIO) -> None:
        archive = _ArchiveWithChecksum(file)
        torch.save(_canonical({"format": FORMAT, "version": VERSION, **content}), cast(IO[bytes], archive))
        archive.close()

    write_atomically(path, write)


class _ArchiveWithChecksum:
    """The file that torch.save writes its ZIP archive to, piece by piece; `close` appends the archive's SHA-256 as its
    comment. To hold the archive in memory first would cost as much time as the checksum."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._digest = file, hashlib.sha256()
        self._held = b""  # the last two bytes, which `close` replaces by the comment's length
        self._error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        """Keeps an OSError for `close`: torch would make another error of it."""
        self._digest.update(data)
        pieces: list[bytes | memoryview] = [self._held, data[:-2]]
        if len(data) < 2:
            joined = self._held + bytes(data)
            pieces, self._held = [joined[:-2]], joined[-2:]
        else:
            self._held = bytes(data[-2:])
        try:
            for piece in pieces if self._error is None else []:
                self._file.write(piece)
        except OSError as error:
            self._error = error
        return len(data)

    def flush(self) -> None:
        """torch.save asks for it."""

    def close(self) -> None:
        """Raises OSError where the archive could not be written."""
        if self._error is not None:
            raise self._error
        self._file.write(_LENGTH + _MARK + self._digest.hexdigest().encode())


def _canonical(value: Any) -> Any:
    """The same value in new containers and interned texts: pickle writes one object twice differently from two equal
    ones, and a resumed run must write the bytes of an uninterrupted one."""
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
    archive = _verified_archive(path, read_bytes(path))
    try:
        content = load_tensors(archive)
        check_extent(content)
    except Exception:  # a checksum does not tell who wrote the file: any error of its reading is a reason to refuse it
        wrong = "refused, nothing was executed: it holds other than plain data; use a checkpoint of this program"
        raise CheckpointError(f"{path}: {wrong}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path}: {_why_not_ours(path, content)}")
    if not isinstance(content.get("version"), int) or content["version"] > VERSION:
        found = f"has format version {content.get('version')!r}"
        raise CheckpointError(f"{path}: {found}, and this program reads up to {VERSION}; update the program")
    return content


def _verified_archive(path: Path, data: bytes) -> bytes:
    """The archive as torch wrote it."""
    comment = data[-_COMMENT_LENGTH:]
    if not (data.startswith(b"PK") and comment.startswith(_MARK)):
        raise CheckpointError(f"{path}: {_why_not_ours(path, content_of(path, data, OURS))}")
    length = data[-_COMMENT_LENGTH - 2 : -_COMMENT_LENGTH]
    archive = data[: -_COMMENT_LENGTH - 2] + (_NO_LENGTH if length == _LENGTH else length)
    if hashlib.sha256(archive).hexdigest().encode() != comment[len(_MARK) :]:
        raise CheckpointError(f"{path}: is damaged (its checksum differs); use an earlier checkpoint")
    return archive


def _why_not_ours(path: Path, content: object) -> str:
    keys = list(content) if isinstance(content, dict) else []
    if isinstance(content, dict) and content.get("format") == FORMAT:
        return "lacks its checksum, or the end of it: truncated or damaged; use an earlier checkpoint"
    holds = f"a dict with keys {', '.join(map(str, keys[:6]))}" if keys else f"a {type(content).__name__}"
    is_template = {"arch", "state_dict", "epoch"} <= set(keys)
    kind = "is a pytorch-template checkpoint" if is_template else "is not a checkpoint of this program"
    command = f"python -m scripts.import_checkpoint {path} -c <a config that describes its model>"
    return f"{kind} (it holds {holds}); to convert it: {command}"
