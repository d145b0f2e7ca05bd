"""Files that are whole or absent: a reader never meets one that is half written."""

from __future__ import annotations

import errno
import glob
import logging
import os
import platform
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from utils.errors import write_error
from utils.signals import StopSignals

logger = logging.getLogger(__name__)

LONGEST_NAME = 255
"""Bytes of a file's name on Linux."""


def write_atomically(path: Path, data: bytes | Callable[[BinaryIO], object]) -> None:
    """Writes `data` to a temporary file beside `path`, flushes it to the disk and renames it: `path` holds either its
    earlier content or all of `data`. A symbolic link stays one: the file that it leads to is written.

    data: or what writes it to the file that it is given

    Raises OSError, also where `path` is no regular file."""
    _replace(Path(os.path.realpath(path)), lambda temporary: _write_and_flush(temporary, data))


def read_regular(path: Path, most_bytes: int | None = None) -> bytes:
    """What a file holds. Raises OSError for what is missing or closed, for one that is larger, and for a pipe or a
    device, which would block or never end."""
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, NO_REGULAR_FILE, str(path))
    if most_bytes is not None and status.st_size > most_bytes:
        wrong = f"it has {status.st_size:,} bytes, more than the {most_bytes:,} that are read"
        raise OSError(errno.EINVAL, wrong, str(path))
    return path.read_bytes()


def write_output(path: Path, text: str) -> None:
    """`write_atomically` for a command's results; a file that has this text already keeps its time of change.

    Raises StorageFullError where the disk is full, else ConfigError."""
    data = text.encode()
    try:
        if not (path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data):
            write_atomically(path, data)
    except OSError as error:
        raise write_error(path, error) from None


def link_or_copy(source: Path, target: Path) -> None:
    """Makes `target` the same file as `source` (a hard link; a copy where the file system has none), atomically.

    A symbolic link is replaced: one that led to `source` would follow its rewriting. Raises OSError, also where
    `target` is no regular file."""
    _replace(target, lambda temporary: _link(source, temporary))


def move(source: Path, target: Path) -> None:
    """Renames `source` to `target`, in the same folder, atomically. Raises OSError, also where `target` is a folder."""
    source.replace(target)
    _flush_folder(target.parent)


def short_path(path: Path | str) -> str:
    """The path as messages have it: relative to the working directory where it is inside it."""
    return str(path).removeprefix(os.path.join(os.getcwd(), ""))  # noqa: PTH109, PTH118 - text is needed


def obstacle_to_replacing(
    path: Path, inputs: Iterable[Path] = (), suffix: str = ".csv", beginning: str = ""
) -> str | None:
    """Why a file must not be written, though its folder can be; None if it may. To be checked before long work.

    inputs: what the same command reads
    suffix: of the files that the command writes; an existing one with another suffix is not replaced
    beginning: of their text, apart from spaces and line ends; an existing one that begins otherwise is not, either"""
    if (length := len(path.name.encode(errors="replace"))) > LONGEST_NAME:
        return f"its name has {length} bytes, and may have {LONGEST_NAME}"
    if path.is_dir():
        return "is a folder; name a file in it"
    if path.exists() and not path.is_file():
        return NO_REGULAR_FILE
    if any(each.exists() and path.exists() and path.samefile(each) for each in inputs):
        return "is what this command reads, and would be lost; name another file"
    if path.exists() and (path.suffix != suffix or path.name == "config.json" or not _begins(path, beginning)):
        return f"exists, and is nothing that this command writes; name a new file, such as scores{suffix}"
    return None


def _begins(path: Path, beginning: str) -> bool:
    """An empty file begins with anything."""
    with path.open("rb") as file:
        text = "".join(file.read(200).decode("utf-8", "replace").split())
    return text.startswith(beginning) or not text


@contextmanager
def folder_lock(folder: Path, description: str, stop: StopSignals) -> Iterator[None]:
    """Keeps other processes that ask for it out of a folder, which is made if need be; a kill frees it.

    description: of what is done in the folder, for the log where it waits

    Raises StopSignal while it waits; OSError where the folder cannot be written."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", mode=0o666)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("%s: another process is at it; waiting for it", description)
        with suppress(Timeout):
            lock.acquire(cancel_check=lambda: stop.requested)
        stop.raise_if_requested()
    try:
        yield
    finally:
        lock.release()


SECONDS_OF_A_DAY = 86_400
NO_REGULAR_FILE = "is no regular file, but a device, a pipe or the like"


def _replace(path: Path, make: Callable[[Path], None]) -> None:
    if path.exists() and not path.is_file():
        raise OSError(errno.EEXIST, "is a folder" if path.is_dir() else NO_REGULAR_FILE, str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_remains(path)
    # Not mkstemp, whose files only their owner may read.
    writer = f"{platform.node()}-{os.getpid()}-{secrets.token_hex(4)}"
    temporary = path.with_name(f"{_beginning_of_temporary(path)}{writer}.tmp")
    try:
        make(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # it is still there after a failure, and where both are the same file already
    _flush_folder(path.parent)


def _beginning_of_temporary(path: Path) -> str:
    """Of the names of temporary files: not all of a long name, for they add to it."""
    return f".{path.name.encode()[:100].decode(errors='ignore')}."


def _remove_remains(path: Path) -> None:
    """Temporary files of writers that were killed: of a process that this machine has no more, or older than a day."""
    beginning = _beginning_of_temporary(path)
    for remains in path.parent.glob(f"{glob.escape(beginning)}*.tmp"):
        writer = re.fullmatch(r"(.*)-(\d+)-[0-9a-f]{8}", remains.name[len(beginning) : -len(".tmp")])
        with suppress(OSError):
            is_dead = writer and writer[1] == platform.node() and not _is_alive(int(writer[2]))
            if is_dead or time.time() - remains.stat().st_mtime > SECONDS_OF_A_DAY:
                remains.unlink()


def _is_alive(process: int) -> bool:
    """A killed process whose parent has not asked for its end, as in a container without an init, is dead."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:  # it has ended now, or this system has no /proc
        return not Path("/proc/self/stat").exists()


def _write_and_flush(path: Path, data: bytes | Callable[[BinaryIO], object]) -> None:
    with path.open("wb") as file:
        if callable(data):
            data(file)
        else:
            file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _link(source: Path, temporary: Path) -> None:
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)


def _flush_folder(folder: Path) -> None:
    """A rename is on the disk only once its folder is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
