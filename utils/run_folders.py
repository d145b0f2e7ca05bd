"""A run's folders: <save_dir>/models/<name>/<run> and <save_dir>/log/<name>/<run>, a fold's in fold_<k>/."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import platform
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from utils.config.former_defaults import upgraded
from utils.errors import CheckpointError, ConfigError
from utils.files import write_output
from utils.wording import did_you_mean, nearest

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.json"
LOCK_FILE = ".lock"
SUGGESTED_RUNS = 3
LONGEST_RUN_ID = 100
"""Bytes; with the config's name and an ending it must be the name of a submission."""
_FOLD = re.compile(r"fold_(\d+)")


@dataclass(frozen=True)
class RunFolders:
    """The folders of one run, or of one fold of it.

    run_models: of the whole run, the folder of its checkpoints
    run_log: of the whole run, the folder of its log
    run: its name, which sorts by time where --run-id gives no other
    fold: None is the whole run
    """

    run_models: Path
    run_log: Path
    run: str
    fold: int | None = None

    @classmethod
    def in_save_dir(cls, save_dir: Path, name: str, run: str) -> RunFolders:
        """The folders of `run`, a run of the config `name`."""
        return cls(save_dir / "models" / name / run, save_dir / "log" / name / run, run)

    @property
    def models(self) -> Path:
        return self.run_models if self.fold is None else self.run_models / fold_name(self.fold)

    @property
    def log(self) -> Path:
        return self.run_log if self.fold is None else self.run_log / fold_name(self.fold)

    @property
    def title(self) -> str:
        """The name of the run for trackers."""
        return self.run if self.fold is None else f"{self.run}-{fold_name(self.fold)}"

    def of_fold(self, fold: int) -> RunFolders:
        """The folders of a fold of this run."""
        return replace(self, fold=fold)

    def of_run(self) -> RunFolders:
        """The folders of the whole run."""
        return replace(self, fold=None)

    def write_config(self, config: dict[str, Any]) -> None:
        """Keeps the resolved config beside the checkpoints. Raises StorageFullError or ConfigError if it cannot."""
        write_output(self.models / CONFIG_FILE, f"{json.dumps(config, indent=4, ensure_ascii=False)}\n")


def fold_name(fold: int) -> str:
    return f"fold_{fold}"


def fold_number(name: str) -> int | None:
    """The fold whose folder has this name; None for other names."""
    match = _FOLD.fullmatch(name)
    return int(match[1]) if match else None


def folds_in(folder: Path) -> dict[int, Path]:
    """The folds in a run folder, by number, in order; none if it is no run of folds."""
    numbers = {path: fold_number(path.name) for path in folder.iterdir() if path.is_dir()}
    return dict(sorted((number, path) for path, number in numbers.items() if number is not None))


def refuse_missing(path: Path) -> None:
    """Raises CheckpointError where --resume names neither a run folder nor a file, with those that may be meant."""
    if path.exists():
        return
    missing = f"{path}: there is no such run folder or checkpoint"
    if checkpoints := sorted(each.name for each in path.parent.glob("*.pth")):
        hint = did_you_mean(path.name, checkpoints) or f"; its folder holds {', '.join(checkpoints)}"
        raise CheckpointError(missing + hint)
    root = next((each for each in path.parents if each.name == "models" and each.is_dir()), Path("saved", "models"))
    runs = sorted((run for run in root.glob("*/*") if run.is_dir()), key=lambda run: run.name, reverse=True)
    near = nearest(str(path), map(str, runs), SUGGESTED_RUNS)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    if runs and not near:
        hint = f"; the newest runs are {', '.join(map(str, runs[:SUGGESTED_RUNS]))}"
    raise CheckpointError(missing + hint)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other processes from training in a folder while it is entered; a kill frees it.

    Raises CheckpointError, naming the process, where one trains there."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("ab+", buffering=0) as file:
        file.seek(0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = file.read().decode(errors="replace").strip() or "another process"
            raise CheckpointError(f"{folder}: {owner} is training this run; wait for it, or stop it") from None
        except OSError as error:
            logger.warning("%s: cannot be locked (%s); see that no other process trains it", folder, error.strerror)
        with suppress(OSError):  # of a full disk: the lock holds without a name
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}".encode())
        yield


def refuse_unusable_run_id(run_id: str) -> None:
    """Raises ConfigError where a run's folder, and the files that have its name in theirs, cannot be named so."""
    shown = f"--run-id {run_id[:LONGEST_RUN_ID]!r}"
    if run_id.startswith(".") or not re.fullmatch(r"[^/\\:*?\"<>|\x00-\x1f\x7f]+", run_id):
        raise ConfigError(f"{shown}: is no name of a folder")
    if (length := len(run_id.encode(errors="replace"))) > LONGEST_RUN_ID:
        raise ConfigError(f"{shown}: has {length} bytes, and may have {LONGEST_RUN_ID}")


def new_run(save_dir: Path, name: str, run_id: str | None = None) -> RunFolders:
    """Makes the folders of a run that begins now; two that begin in the same millisecond get different ones.

    run_id: its name; None: the time

    Raises ConfigError if nothing can be written there, or a run has that name."""
    while True:
        now = datetime.now()
        run = run_id or f"{now:%Y%m%d-%H%M%S}-{now.microsecond // 1000:03d}"
        folders = RunFolders.in_save_dir(save_dir, name, run)
        try:
            folders.models.mkdir(parents=True)
            folders.log.mkdir(parents=True, exist_ok=True)
            return folders
        except FileExistsError:
            if run_id is not None:
                raise ConfigError(
                    f"--run-id {run_id}: {folders.models} exists; --resume {folders.models} resumes it"
                ) from None
            if not folders.models.is_dir():
                raise ConfigError(f"trainer.save_dir = {str(save_dir)!r}: {folders.models} is in the way") from None
            time.sleep(0.001)
        except OSError as error:
            raise ConfigError(f"trainer.save_dir = {str(save_dir)!r} cannot be written: {error.strerror}") from None


def obstacle_to_writing(folder: Path) -> str | None:
    """Why nothing can be written to a folder, or to the nearest existing one above it; None if it can.

    A temporary file is tried: permissions alone do not reveal a read-only file system."""
    for existing in (folder, *folder.parents):
        try:
            with tempfile.TemporaryFile(dir=existing):
                return None
        except (OSError, ValueError) as error:
            if isinstance(error, FileNotFoundError) and not existing.exists():  # /proc exists and takes no files
                continue
            return f"{existing}: {getattr(error, 'strerror', None) or error}"
    return f"{folder}: there is no such folder"


def runs_named(save_dir: Path, name: str) -> list[RunFolders]:
    """The runs of this name; of those that are named by the time the newest first."""
    parent = save_dir / "models" / name
    folders = [folder for folder in parent.iterdir() if folder.is_dir()] if parent.is_dir() else []
    return [RunFolders.in_save_dir(save_dir, name, folder.name) for folder in sorted(folders, reverse=True)]


def read_kept_config(folder: Path) -> dict[str, Any] | None:
    """The config that a run kept in its folder, in this version's form; None if there is none, or it is damaged."""
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        return upgraded(config) if isinstance(config, dict) else None
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError, IndexError):
        return None
