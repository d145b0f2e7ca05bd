"""A model's preparation in an exported folder: the networks' files, and code that runs without this project."""

from __future__ import annotations

import ast
import io
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

from data_loader.preparation.preparation import Preparation
from utils.files import write_atomically

CODE_FILE = "preparation.zip"
"""Modules of this project, as they are; Python imports from the archive."""

PACKAGES = ("base", "data_loader", "utils")
MODULE = "data_loader.preparation.build"
LICENSE = "LICENSE"
ROOT = Path(__file__).parents[2]


def is_ours(name: str) -> bool:
    """Whether a file of a folder is one that `write_preparation` has written."""
    return name == CODE_FILE or re.fullmatch(r"preparation_\d+(\.\w+)?", name) is not None


def write_preparation(config: dict[str, Any], preparation: Preparation, folder: Path) -> None:
    """Writes what the preparation needs, and enters the names of the networks' files.

    config: of the preprocessing, as model.json is to have it

    Raises OSError."""
    for number, (saved, step) in enumerate(zip(config["preparation"], preparation.steps, strict=True)):
        file: Path | None = getattr(step, "weights_file", None)
        if file is not None:
            saved["args"]["weights_file"] = f"preparation_{number}{file.suffix}"
            shutil.copyfile(file, folder / saved["args"]["weights_file"])
    write_atomically(folder / CODE_FILE, code_archive())


def code_archive() -> bytes:
    """A zip file of MODULE and all that it imports of this project; equal code makes equal files."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in [*sorted(_imported(MODULE)), *ROOT.glob(LICENSE)]:
            file.writestr(zipfile.ZipInfo(str(path.relative_to(ROOT)), (1980, 1, 1, 0, 0, 0)), path.read_bytes())
    return archive.getvalue()


def _imported(module: str) -> set[Path]:
    """The files of a module, of the packages around it, and of what they import of this project."""
    files: set[Path] = set()
    left = [module]
    while left:
        name = left.pop()
        path = ROOT.joinpath(*name.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if name.partition(".")[0] not in PACKAGES or path in files or not path.is_file():
            continue
        files.add(path)
        left += [name.rpartition(".")[0]]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                left += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                left += [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
    return files
