"""Where a run's files lie: <save_dir>/models/<name>/<run> and <save_dir>/log/<name>/<run>."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from utils.errors import ConfigError
from utils.files import write_atomically

CONFIG_FILE = "config.json"


@dataclass(frozen=True)
class RunFolders:
    """The folders of one run. `run` sorts by time and holds no character that a file system dislikes."""

    save_dir: Path
    name: str
    run: str

    @property
    def models(self) -> Path:
        return self.save_dir / "models" / self.name / self.run

    @property
    def log(self) -> Path:
        return self.save_dir / "log" / self.name / self.run

    def write_config(self, config: dict[str, Any]) -> None:
        """Keeps the resolved config beside the checkpoints."""
        text = json.dumps(config, indent=4, ensure_ascii=False)
        write_atomically(self.models / CONFIG_FILE, f"{text}\n".encode())


def new_run(save_dir: Path, name: str) -> RunFolders:
    """Makes the folders of a run that begins now; two that begin in the same millisecond get different ones.

    Raises ConfigError if nothing can be written there."""
    while True:
        now = datetime.now()
        folders = RunFolders(save_dir, name, f"{now:%Y%m%d-%H%M%S}-{now.microsecond // 1000:03d}")
        try:
            folders.models.mkdir(parents=True)
            folders.log.mkdir(parents=True, exist_ok=True)
            return folders
        except FileExistsError:
            if not folders.models.is_dir():
                raise ConfigError(f"trainer.save_dir = {str(save_dir)!r}: {folders.models} is in the way") from None
            time.sleep(0.001)
        except OSError as error:
            raise ConfigError(f"trainer.save_dir = {str(save_dir)!r} cannot be written: {error.strerror}") from None


def obstacle_to_writing(folder: Path) -> str | None:
    """Why nothing can be written to a folder, or to the nearest one above it that is there; None if it can.

    It is tried, with a file that leaves no trace: permissions alone do not tell of read-only file systems."""
    there = folder
    try:
        there = next(path for path in (folder, *folder.parents) if _is_there(path))
        with tempfile.TemporaryFile(dir=there):
            return None
    except (OSError, ValueError) as error:
        return f"{there}: {getattr(error, 'strerror', None) or error}"


def _is_there(path: Path) -> bool:
    """As Path.exists, but raises what the system says of a name that cannot be."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def runs_with_config(save_dir: Path, name: str) -> Iterator[tuple[RunFolders, dict[str, Any]]]:
    """The runs of this name that kept their config, the newest first; one that is damaged is passed over."""
    parent = save_dir / "models" / name
    for folder in sorted(parent.iterdir(), reverse=True) if parent.is_dir() else []:
        try:
            config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(config, dict):
            yield RunFolders(save_dir, name, folder.name), config
