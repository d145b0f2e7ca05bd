"""Who may import whom: the one table, held against every import in the tree."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EVERYTHING = {"utils", "logger", "parse_config", "base", "model", "data_loader", "trainer"}
MAY_IMPORT = {
    "utils": set(),
    "logger": {"utils"},
    "parse_config": {"utils"},
    "base": {"logger", "utils"},
    "model": {"base", "utils"},
    "data_loader": {"base", "utils"},
    "trainer": {"base", "logger", "utils"},
    "inference": {"parse_config", "data_loader", "model", "base", "logger", "utils"},
    "experiment": EVERYTHING | {"inference"},
    "train": EVERYTHING | {"experiment", "inference"},
    "test": {"experiment", "inference", "base", "utils", "parse_config", "data_loader", "logger"},
    "app": EVERYTHING | {"experiment", "inference", "scripts"},
    "scripts": {
        "train", "test", "inference", "experiment", "parse_config", "data_loader",
        "base", "logger", "utils",
    },
    "benchmarks": EVERYTHING | {"experiment", "train", "test", "inference", "scripts"},
}  # fmt: skip


def _sources() -> list[Path]:
    folders = (path for path in ROOT.rglob("*.py") if path.relative_to(ROOT).parts[0] in MAY_IMPORT)
    return sorted([*folders, *(path for path in ROOT.glob("*.py"))])


def _part(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def _imported_modules(path: Path) -> set[str]:
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            modules.add(node.module or "")
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    return modules


@pytest.mark.parametrize("path", _sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_obey_the_table(path: Path) -> None:
    part = _part(path)
    assert part in MAY_IMPORT, f"{part} is not in the table"
    ours = {module.split(".")[0] for module in _imported_modules(path)} & MAY_IMPORT.keys()
    assert ours - {part} <= MAY_IMPORT[part]


def test_there_are_no_cycles_between_modules() -> None:
    names = {
        str(path.relative_to(ROOT).with_suffix("")).replace("/", ".").removesuffix(".__init__"): path
        for path in _sources()
    }
    imports = {
        name: {module for module in _imported_modules(path) if module in names} - {name} for name, path in names.items()
    }
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, f"a cycle: {' -> '.join([*above, name])}"
        # A package's __init__ lists its modules, which may import each other, not the package.
        if name not in done:
            for module in sorted(imports[name]):
                visit(module, (*above, name))
            done.add(name)

    for name in names:
        visit(name, ())


def test_a_start_imports_nothing_slow_that_it_may_not_need() -> None:
    """Each is asked for where a config names it, or where a table is read: together they are two seconds."""
    slow = ("mlflow", "pandas", "pytorch_metric_learning", "scipy.stats", "sklearn", "torch.utils.tensorboard", "wandb")
    question = (
        "import sys\nfrom utils.errors import importing\nwith importing():\n    import experiment.run, inference.run\n"
        f"print(*sorted(sys.modules.keys() & {slow}))"
    )
    asked = subprocess.run([sys.executable, "-c", question], capture_output=True, text=True, check=True, cwd=ROOT)
    assert asked.stdout.split() == []
