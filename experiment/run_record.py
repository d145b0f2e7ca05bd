"""What a run keeps of its own history in run.json: the commands, versions and code it was trained with, what set each
value of its config, and the digests of its split."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import platform
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from logger.log import LOG_NAME
from parse_config import ConfigParser
from utils.config.layers import Layers
from utils.config.plugins import KEY
from utils.files import write_atomically
from utils.run_folders import RunFolders

RECORD_FILE = "run.json"
PROJECT = Path(__file__).parents[1]
PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "albumentations",
    "numpy",
    "pillow",
    "simplejpeg",
    "pytorch-metric-learning",
)


class RunRecord:
    """The run.json of one model's folder. A session is one start of train.py, until it ends.

    content: plain data, as it is in the file
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / RECORD_FILE
        self.content = read_record(folder)

    def begin(
        self,
        folders: RunFolders,
        config: ConfigParser,
        command: str,
        digests: Mapping[str, str],
        config_file: Path | None = None,
        pseudo_labels: Sequence[Mapping[str, Any]] = (),
        sides: Mapping[str, Mapping[str, int]] | None = None,
        machine: Mapping[str, Any] | None = None,
    ) -> None:
        """Adds a session.

        command: the command line, as a shell takes it
        digests: "split" and "validation"
        config_file: what the config was read from; None for a resumed run that brings its own
        pseudo_labels: which files of them it trains on, and which models made those
        sides: by side of the split, its numbers of images and persons
        machine: such as the device
        """
        sessions = self.content.get("sessions", [])
        values = dict(leaves(config.resolved))
        origins = {key: config.origin(key) for key in values}
        if config_file is None:  # what the run brings was set when it began
            own = {key for key, origin in origins.items() if origin.startswith("run ")}
            changed = self.content.get("changes", {}) | {key: values[key] for key in values if key not in own}
            before = self.content.get("changed_from", {})
            earlier = self.content.get("origins", {})
            origins |= {key: earlier[key] for key in own if key in earlier}
        else:
            changed, before = changes(config, config_file)
        session = {
            "command": command,
            "began": _now(),
            "ended": None,
            "outcome": "running",
            "host": platform.node(),
            **(machine or {}),
            "versions": installed_versions(PACKAGES),
            "code": code_state(),
        }
        self.content = {
            "name": config["name"],
            "run": folders.title,
            "origins": origins,
            "changes": changed,
            "changed_from": before,
            "digests": dict(digests),
            **({"pseudo_labels": [*pseudo_labels]} if pseudo_labels else {}),
            "sides": {name: dict(numbers) for name, numbers in (sides or {}).items()},
            "sessions": [*sessions, session],
        }
        self._write()

    def end(self, outcome: str) -> None:
        """Completes the session.

        outcome: "finished", "failed", or the class of the error that ended it
        """
        self.content["sessions"][-1] |= {"ended": _now(), "outcome": outcome}
        self._write()

    def _write(self) -> None:
        """A disk that is full must not end a run for this file's sake."""
        try:
            write_atomically(self.path, f"{json.dumps(self.content, indent=2, ensure_ascii=False)}\n".encode())
        except OSError as error:
            logging.getLogger(LOG_NAME).warning("%s: could not be written (%s)", self.path, error.strerror)


def read_record(folder: Path) -> dict[str, Any]:
    """The run.json of a folder; {} if there is none, as in runs of earlier versions, or it is damaged."""
    try:
        content = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def changes(config: ConfigParser, config_file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """By key path, the values that the config's file, the environment and flags set otherwise than what the file
    extends; of a file that extends none, what the environment and flags set otherwise than the file. And the values
    there, of those that it has."""
    below = Layers.below_file(config_file).values
    with config.plugins.active():
        original = dict(leaves(config.sections.with_defaults(below) | {KEY: below.get(KEY)}))
    given = config.given
    set_here = [key for key, _ in leaves(given)]
    changed = {
        key: value
        for key, value in leaves(config.resolved | {KEY: given.get(KEY)})
        if (key not in original or original[key] != value)
        and any(key == each or key.startswith(f"{each}.") for each in set_here)
    }
    return changed, {key: original[key] for key in changed if key in original}


def leaves(value: Any, key_path: str = "") -> Iterator[tuple[str, Any]]:
    """The values of plain data by dotted key path; empty lists and objects count as values."""
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    if not (items and value):
        yield key_path, value
        return
    for key, inner in items:
        yield from leaves(inner, f"{key_path}.{key}" if key_path else str(key))


def code_state(project: Path = PROJECT) -> dict[str, str | None] | None:
    """The git commit of the project, and a hash of what differs from it (None: nothing); None outside a repository."""
    commit = _git(project, "rev-parse", "HEAD")
    if commit is None:
        return None
    changed = _git(project, "diff", "HEAD", "--", "*.py") or b""
    for name in sorted((_git(project, "ls-files", "--others", "--exclude-standard", "--", "*.py") or b"").splitlines()):
        file = project / name.decode(errors="surrogateescape")
        changed += name + (file.read_bytes() if file.is_file() else b"")
    local = hashlib.blake2b(changed, digest_size=8).hexdigest() if changed else None
    return {"commit": commit.decode().strip(), "local_changes": local}


def _git(project: Path, *arguments: str) -> bytes | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=project, capture_output=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Of Python and of those packages that are installed."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
