"""The reader of other programs' files: what torch.save writes, today and before 2020, and safetensors."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import safetensors.torch

from utils.checkpoint.restricted_unpickler import InertObject, check_extent, load_tensors
from utils.errors import CheckpointError
from utils.files import read_regular

_ARCHIVE, _PICKLE, _SAFETENSORS = b"PK", b"\x80", b"{"
WRITERS = "torch.save(model.state_dict(), ...) makes one, and so does safetensors"


def read_foreign_checkpoint(path: Path) -> Any:
    """The content of a file, on the CPU; nothing in it is executed. It may be a checkpoint of this program, too.

    Objects of classes (a template's ConfigParser, paths, numpy's numbers) become `InertObject`s.

    Raises CheckpointError, naming the file and the reason."""
    return content_of(path, read_bytes(path))


def content_of(path: Path, data: bytes, remedy: str = WRITERS) -> Any:
    """As `read_foreign_checkpoint`, of the bytes read from `path`. remedy: for a file of another kind"""
    try:
        if data[8:9] == _SAFETENSORS:  # behind the length of its header
            return safetensors.torch.load(data)
        if data.startswith(_ARCHIVE):
            data = _copied(data)
        elif not data.startswith(_PICKLE):
            raise CheckpointError(
                f"is not a checkpoint: it begins with {data[:40]!r}; {_download_remedy(data) or remedy}"
            )
        content = load_tensors(data, foreign=True)
        check_extent(content)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{path}: is truncated or damaged ({error}); use an earlier checkpoint") from None
    except Exception as error:  # the file is foreign: whatever its reading raises is a reason to refuse it
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CheckpointError(f"{path}: cannot be read, nothing was executed ({reason})") from None
    if isinstance(content, InertObject):
        wrong = "is a pickled object (nn.Module?): nothing was executed; use torch.save(model.state_dict(), ...)"
        raise CheckpointError(f"{path}: {wrong}")
    return content


def read_bytes(path: Path) -> bytes:
    """What a checkpoint file holds. Raises CheckpointError for one that is missing, empty or cannot be read."""
    try:
        data = read_regular(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such checkpoint") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    if not data:
        raise CheckpointError(f"{path}: is empty; use an earlier checkpoint")
    return data


def _copied(data: bytes) -> bytes:
    """The archive's records, their checksums verified, in a new archive: torch is to see no other than were seen here.

    It would hand a TorchScript archive to torch.jit, for one."""
    copy = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(copy, "w") as copied:
        names = list(dict.fromkeys(archive.namelist()))
        if any(name.endswith("constants.pkl") or "/code/" in name for name in names):
            wrong = "is a TorchScript archive: refused, nothing was executed; save the model's state_dict instead"
            raise CheckpointError(wrong)
        unpacked = sum(record.file_size for record in archive.infolist())
        if unpacked > len(data):  # torch.save compresses nothing
            raise CheckpointError(f"unpacks to {unpacked:,} bytes, more than the file has: refused; do not use it")
        for name in names:
            copied.writestr(name, archive.read(name))
    return copy.getvalue()


def _download_remedy(data: bytes) -> str | None:
    if data.startswith(b"version https://git-lfs"):
        return "that is a pointer of git-LFS: `git lfs pull` fetches the file"
    if data.lstrip().startswith(b"<"):
        return "that is a web page: download the file itself"
    return None
