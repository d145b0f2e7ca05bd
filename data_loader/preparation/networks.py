"""Networks of optional packages and of weight files: found or refused in one line, identified by their content."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from utils.errors import ConfigError

Network = TypeVar("Network")


class PerThread(Generic[Network]):
    """A network for each thread that asks for it: those of OpenCV may only be called by one thread at a time."""

    def __init__(self, load: Callable[[], Network]) -> None:
        self._load, self._local = load, threading.local()

    def __call__(self) -> Network:
        """The network of this thread."""
        if not hasattr(self._local, "network"):
            self._local.network = self._load()
        network: Network = self._local.network
        return network

    def release(self) -> None:
        """Frees the memory of all threads' networks, until one is asked for again."""
        self._local = threading.local()


class Shared(Generic[Network]):
    """A network that all threads use, loaded by the first one that asks for it."""

    def __init__(self, load: Callable[[], Network]) -> None:
        self._load, self._lock = load, threading.Lock()
        self._network: Network | None = None

    def __call__(self) -> Network:
        """The network."""
        with self._lock:
            if self._network is None:
                self._network = self._load()
            return self._network

    def release(self) -> None:
        """Frees the memory of the network, until it is asked for again."""
        with self._lock:
            self._network = None


class PictureNetwork(ABC):
    """A network that finds something in a picture. Several threads may call it; it is loaded on the first call."""

    _network: Shared[Any] | PerThread[Any]

    @property
    @abstractmethod
    def key(self) -> dict[str, Any]:
        """Plain data that identifies the network: digests of its weights and versions of the libraries that run it."""

    def release(self) -> None:
        """Frees the network's memory, until it is called again."""
        self._network.release()


def require_file(path: Path | None, what: str) -> Path:
    """The weights file. Raises ValueError, beginning with the argument, where none is given or there is none.

    what: what the file is and where it comes from, for the error"""
    if path is None:
        raise ValueError(f"weights_file is missing; set it to {what}")
    try:
        is_file = path.is_file()
    except OSError:  # a name that no file can have
        is_file = False
    if not is_file:
        raise ValueError(f"weights_file = {str(path)[:200]} is not a file; put {what} there")
    return path


def wrong_file(path: Path, what: str) -> ConfigError:
    """The error for a weights file that holds something else.

    what: as of `require_file`"""
    return ConfigError(f"weights_file = {path} is another file, or damaged; set it to {what}")


def require_package(module: str, install: str, argument: str) -> None:
    """Raises ValueError, beginning with `argument`, if a package is not installed.

    module: its import name
    install: what pip installs it by"""
    if importlib.util.find_spec(module) is None:
        raise ValueError(f"{argument} needs a package that is not installed: pip install {install}")


def import_package(module: str, install: str) -> ModuleType:
    """An optional package. Raises ConfigError if it cannot be imported; packages end the process (SystemExit), too."""
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{module} cannot be imported ({error}); pip install {install}") from error


def installed_version(package: str) -> str:
    """The version of a package; "none" where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    status = path.stat()
    return _digest(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _digest(path: Path, *_signature: Any) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
