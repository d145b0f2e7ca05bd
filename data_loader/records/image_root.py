"""The files that a table's paths name, inside one folder."""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from pathlib import Path

READ_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
IMAGE_EXTENSIONS = (*READ_EXTENSIONS, ".tif", ".tiff")
"""Also of pictures that are found, to be refused by name."""


class ImageRoot:
    """The folder that a table's paths are relative to. (Text and os.path, not Path: there are tens of thousands.)

    root: the folder
    allow_links: whether links may lead out of it, as to a content-addressed store; nothing else outside it is opened
    """

    def __init__(self, root: Path, allow_links: bool = False) -> None:
        self.root = root
        self.allow_links = allow_links
        real, absolute = os.path.realpath(root), os.path.abspath(root)  # noqa: PTH100
        # abspath removes a ".." as text, which gives another folder where it follows a link
        self._absolute = absolute if os.path.realpath(absolute) == real else real
        self._real = os.path.join(real, "")  # noqa: PTH118
        self._inside: dict[str, bool] = {}
        self._names: dict[str, dict[str, str]] = {}

    def find(self, relative: str) -> Path:
        """The absolute path of a file that a table has as `relative`. Raises ValueError with what is wrong with it."""
        if problem := relative_path_problem(relative):
            raise ValueError(problem)
        path = f"{self._absolute}/{relative}"
        try:
            mode = os.lstat(path).st_mode
        except (OSError, ValueError):
            path = self._spelled_otherwise(relative) or ""
            if not path:
                raise self._missing(relative) from None
            mode = os.lstat(path).st_mode
        self._check_link(path, relative, stat.S_ISLNK(mode))
        if stat.S_ISLNK(mode):
            try:
                mode = os.stat(path).st_mode  # noqa: PTH116
            except OSError:
                raise self._missing(relative) from None
        if not stat.S_ISREG(mode):
            raise ValueError(f'"{relative}" is not a file')
        return Path(path)

    def list_folder(self, relative: str) -> list[str] | None:
        """The names in a folder, sorted; None where it is missing. Raises ValueError where it is out of the root."""
        path: str | None = f"{self._absolute}/{relative}"
        if not os.path.isdir(str(path)):  # noqa: PTH112
            path = self._spelled_otherwise(relative)
        if path is None or not os.path.isdir(path):  # noqa: PTH112
            return None
        self._check_link(f"{path}/", relative, is_link=False)
        return sorted(os.listdir(path))  # noqa: PTH208

    def _check_link(self, path: str, relative: str, is_link: bool) -> None:
        """Raises ValueError where `path`, or the folder that it is in, is a link that leads out of the root."""
        folder = os.path.dirname(path)  # noqa: PTH120
        if folder not in self._inside:
            self._inside[folder] = self._holds(folder)
        if not self.allow_links and not (self._inside[folder] and (not is_link or self._holds(path))):
            raise ValueError(
                f'"{relative}" is a link that leads out of {self.root}; put the image there, or set allow_links to '
                "true in the source's args"
            )

    def _holds(self, path: str) -> bool:
        return os.path.join(os.path.realpath(path), "").startswith(self._real)  # noqa: PTH118

    def _spelled_otherwise(self, relative: str) -> str | None:
        """The one path that differs only in how its letters are composed (NFC, or NFD as on a Mac), or in an image's
        extension, which `relative` lacks; None if there is none."""
        found = self._absolute
        for part in relative.split("/"):
            if part in ("", "."):
                continue
            name = self._listing(found).get(unicodedata.normalize("NFC", part))
            if name is None:
                return None
            found = f"{found}/{name}"
        return found

    def _listing(self, folder: str) -> dict[str, str]:
        """The names in a folder by their NFC, and its images also by their NFC without extension, where that is one."""
        if folder not in self._names:
            try:
                names = os.listdir(folder)  # noqa: PTH208
            except OSError:
                names = []
            stems: dict[str, list[str]] = {}
            for name in names:
                stem, extension = os.path.splitext(unicodedata.normalize("NFC", name))  # noqa: PTH122
                if extension.lower() in IMAGE_EXTENSIONS:
                    stems.setdefault(stem, []).append(name)
            self._names[folder] = {stem: images[0] for stem, images in stems.items() if len(images) == 1}
            self._names[folder] |= {unicodedata.normalize("NFC", name): name for name in names}
        return self._names[folder]

    def _missing(self, relative: str) -> ValueError:
        return ValueError(f'image "{relative}" is missing in {self.root}')


def relative_path_problem(text: str) -> str | None:
    """What is wrong with a relative path, before anything is looked up on disk."""
    if not text:
        return "the path is empty"
    if "\\" in text:
        return f'the path "{text}" must have "/" between its parts'
    parts = [part for part in text.split("/") if part not in ("", ".")]  # pathlib would take most of a table's time
    if text.startswith("/") or ".." in parts or re.match("[A-Za-z]:", text) or not parts:
        return f'the path "{text}" leaves its folder; give it relative to the folder and without ".."'
    return None
