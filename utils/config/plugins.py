"""Plug-ins: Python files outside the framework whose losses, models and more a config names as it names ours.

    "plugins": ["my_ideas.py"]

A file is looked for where the path leads from the working folder, then beside the config that names it. It is run once,
as it is: a saved config holds the SHA-256 of what was run, and another content is refused. One plug-in may import
another that the list names before it; a file beside it that the list does not name is refused, for nothing would tell
that it has changed. A run's folder and its checkpoints never bring code: files in them are not run.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypedDict

from utils.errors import ConfigError, Problem, UserError
from utils.wording import first_line, format_value

PROJECT = Path(__file__).parents[2]
FLAG = "--accept-changed-plugins"
KEY = "plugins"
COPIES = "plugins"
"""The folder in a run's where copies of its plug-ins are kept, to be read: they are never run."""

Component = Callable[..., Any]


class KeptPlugIn(TypedDict):
    """An entry of `plugins` in a saved config."""

    path: str
    sha256: str


@dataclass(frozen=True)
class PlugIn:
    """A file that was run.

    path: as the saved config has it
    defined: by name, the classes and functions that a config may name: of `__all__`, or all that it defines without an
        underscore
    """

    path: str
    source: bytes
    module: ModuleType
    defined: Mapping[str, Any]

    @property
    def kept(self) -> KeptPlugIn:
        return {"path": self.path, "sha256": hashlib.sha256(self.source).hexdigest()}


class PlugIns:
    """The plug-ins of one config; `active` makes their names known to every `Names`."""

    def __init__(self, plugins: Sequence[PlugIn] = (), notes: Sequence[str] = ()) -> None:
        self.plugins, self.notes = list(plugins), list(notes)
        self.defined = {name: found for plugin in plugins for name, found in plugin.defined.items()}

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within it, and in this thread, names are looked up in these plug-ins, too, and in no others."""
        token = _active.set(self)
        try:
            yield
        finally:
            _active.reset(token)

    def file_of(self, name: str) -> str:
        """The path of the plug-in that defines a name."""
        return next(plugin.path for plugin in self.plugins if name in plugin.defined)


_active: ContextVar[PlugIns] = ContextVar("active plug-ins", default=PlugIns())  # noqa: B039 - it is never changed
_loaded: dict[str, PlugIn] = {}
_changes_accepted = False


def accept_changes(accepted: bool) -> None:
    """Whether this process takes a plug-in of another content than a run was trained with (FLAG)."""
    global _changes_accepted
    _changes_accepted = accepted


def changes_accepted() -> bool:
    """See `accept_changes`."""
    return _changes_accepted


class Names(Mapping[str, Component]):
    """What `type` may name in one kind of section: our own, then those of the active plug-ins that are of the kind.

    own: by name
    kind: what a plug-in's class or function must be, in words: "a subclass of HeadLoss"
    adapted: the component that a plug-in's class or function is; None where it is of another kind
    """

    every: list[Names] = []  # noqa: RUF012 - one list of all, for `clashes`

    def __init__(self, own: Mapping[str, Component], kind: str, adapted: Callable[[Any], Component | None]) -> None:
        self.own, self.kind, self.adapted = own, kind, adapted
        self.every.append(self)

    def __getitem__(self, name: str) -> Component:
        if name in self.own:
            return self.own[name]
        found = self.adapted(_active.get().defined[name])
        if found is None:
            raise KeyError(name)
        return found

    def __iter__(self) -> Iterator[str]:
        yield from self.own
        yield from (name for name, found in _active.get().defined.items() if self.adapted(found) is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        defined = _active.get().defined
        return name in self.own or (name in defined and self.adapted(defined[str(name)]) is not None)


def why_unknown(name: str, names: Mapping[str, Component]) -> str:
    """`; my_ideas.py defines it, but not as a subclass of HeadLoss`, of a name that `names` lack; or nothing."""
    plugins = _active.get()
    if not isinstance(names, Names) or name not in plugins.defined:
        return ""
    found = plugins.defined[name]
    lacking = ", ".join(sorted(getattr(found, "__abstractmethods__", ()))) if inspect.isclass(found) else ""
    what = f"it lacks {lacking}" if lacking else f"not as {names.kind}"
    return f"; {plugins.file_of(name)} defines it, but {what} (docs/extending.md)"


def subclasses(*bases: type) -> Callable[[Any], Component | None]:
    """For `Names`: a plug-in's classes that derive from one of `bases` and lack no method."""

    def adapted(found: Any) -> Component | None:
        is_kind = inspect.isclass(found) and issubclass(found, bases) and not inspect.isabstract(found)
        return found if is_kind else None

    return adapted


def plugins_of(component: Any) -> list[str]:
    """The names of the modules that are plug-ins among those that define a class and its parents: they tell the
    content."""
    owners = component.__mro__ if inspect.isclass(component) else [component]
    modules = (str(getattr(owner, "__module__", "")) for owner in owners)
    return [module for module in modules if module.startswith(_PREFIX)]


def place_in_plugin(error: BaseException) -> str | None:
    """`my_ideas.py:12`, the last line of a plug-in that an error passed through; None where it passed through none."""
    files = {str(plugin.module.__file__): plugin.path for plugin in _loaded.values()}
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    return f"{files[frames[-1].filename]}:{frames[-1].lineno}" if frames else None


def described_failure(error: BaseException) -> str:
    """` at my_ideas.py:12: ValueError: ...`, for behind "fails"; without the line where no plug-in has it."""
    place = place_in_plugin(error)
    return f"{f' at {place}' if place else ''}: {type(error).__name__}: {first_line(error)}"


@contextmanager
def plugin_errors() -> Iterator[None]:
    """Within it, what a plug-in's code raises becomes a UserError of one line, with the line of the plug-in."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if (place := place_in_plugin(error)) is None:
            raise
        raise UserError(f"{place}: {type(error).__name__}: {first_line(error)} (in a plug-in's code)") from error


# --- loading ---

_PREFIX = "plugin_"


def load_plugins(
    entries: Any, folder_of: Callable[[int], Path | None] = lambda _: None, run: Path | None = None
) -> tuple[PlugIns, list[Problem]]:
    """The plug-ins of a config, and what is wrong with them; entries of a wrong type are left to the schema.

    entries: its `plugins`: paths, or of a saved config `KeptPlugIn`s
    folder_of: by the number of an entry, the folder of the file that names it
    run: the folder of the run whose config it is: nothing in it is run
    """
    files: dict[int, tuple[str, Path, bytes]] = {}
    problems: list[Problem] = []
    notes: list[str] = []
    for number, entry in enumerate(entries if isinstance(entries, list) else ()):
        path, sha256 = (entry.get("path"), entry.get("sha256")) if isinstance(entry, dict) else (entry, None)
        if not isinstance(path, str):
            continue
        try:
            file = _find(path, folder_of(number), run)
            source = file.read_bytes()
            if sha256 is not None and hashlib.sha256(source).hexdigest() != sha256:
                _refuse_change(path, notes)
            files[number] = (_named(path, file), file, source)
        except ValueError as error:
            problems.append(Problem((KEY, number), f"= {format_value(path)}: {error}"))
        except OSError as error:
            problems.append(Problem((KEY, number), f"= {format_value(path)} cannot be read: {error.strerror}"))
    if problems:
        return PlugIns(), problems
    plugins: list[PlugIn] = []
    for number, (path, file, source) in files.items():
        try:
            plugin = _run(path, file, source, plugins)
            _refuse_duplicates(plugin, plugins)
            plugins.append(plugin)
        except ValueError as error:  # those that follow may import it
            return PlugIns(), [Problem((KEY, number), f"= {format_value(path)}: {error}")]
    return PlugIns(plugins, notes), _clashes(plugins)


def plugins_of_run(config: Mapping[str, Any], run: Path | None) -> PlugIns:
    """The plug-ins that a run was trained with. Raises ConfigError.

    config: that it has saved
    run: its folder"""
    plugins, problems = load_plugins(config.get(KEY), run=run)
    if problems:
        raise ConfigError("\n".join(f"{run or 'the run'}: {problem}" for problem in problems), problems)
    return plugins


def _find(path: str, folder: Path | None, run: Path | None) -> Path:
    """Raises ValueError where there is no such file, or it may not be run."""
    if not path.endswith(".py"):
        raise ValueError("a Python file is expected, *.py")
    tried = [Path(path), *([folder / path] if folder is not None else [])]
    if run is not None:
        tried.append(Path(Path(path).name))
    file = next((each for each in tried if each.is_file()), None)
    if file is None:
        places = " or ".join(dict.fromkeys(str(each.absolute()) for each in tried))
        copy = run / COPIES / Path(path).name if run is not None else None
        kept = f" (the run has kept a copy to read: {copy})" if copy is not None and copy.is_file() else ""
        raise ValueError(f"there is no such file; it is expected at {places}{kept}")
    is_in_run = run is not None and file.resolve().is_relative_to(run.resolve())
    if is_in_run and run is not None and not Path.cwd().is_relative_to(run.resolve()):
        raise ValueError("is in the run's own folder, which brings no code; read it, and copy it to another one")
    return file


def _named(path: str, file: Path) -> str:
    """How a saved config calls a file: as it was given where that leads there, or from the working folder."""
    return path if Path(path).is_file() else str(file)


def _refuse_change(path: str, notes: list[str]) -> None:
    if not _changes_accepted:
        raise ValueError(f"has changed since it was saved with the run; put it back, or take it as it is with {FLAG}")
    notes.append(f"{path} has changed since it was saved with the run, and is used as it is ({FLAG})")


def _run(path: str, file: Path, source: bytes, earlier: Sequence[PlugIn]) -> PlugIn:
    """Runs a file, once for each content. Raises ValueError, `file:line: what is wrong`."""
    names = {Path(plugin.path).stem: plugin.module for plugin in earlier}
    key = repr([path, str(file.resolve()), *(module.__name__ for module in names.values())])
    name = f"{_PREFIX}{hashlib.sha256(key.encode() + source).hexdigest()[:16]}_{file.stem}"
    if name in _loaded:
        return _loaded[name]
    module = ModuleType(name)
    module.__file__ = str(file)
    try:
        # Not inherited: the future imports of this file are not the plug-in's.
        tree: Any = compile(source, str(file), "exec", ast.PyCF_ONLY_AST, dont_inherit=True)
        _refuse_neighbours(tree, path, file, names)
        sys.modules[name] = module  # where dataclasses and annotations look names up
        with _importable(names):
            exec(compile(tree, str(file), "exec", dont_inherit=True), module.__dict__)
    except _Neighbour:
        raise
    except (Exception, SystemExit) as error:
        sys.modules.pop(name, None)
        raise ValueError(f"{_line_of(error, path, file)}: {type(error).__name__}: {_reason(error)}") from error
    return _loaded.setdefault(name, PlugIn(path, source, module, _defined(module)))


class _Neighbour(ValueError):
    """An import of a file that the config does not name."""


def _refuse_neighbours(tree: ast.AST, path: str, file: Path, named: Mapping[str, ModuleType]) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            imported = [str(node.module)]
        else:
            continue
        for module in (each.partition(".")[0] for each in imported):
            beside = file.with_name(f"{module}.py")
            if module not in named and beside.is_file() and not _leads_elsewhere(module, beside):
                remedy = f'list "{Path(path).with_name(beside.name)}" in {KEY}, before it'
                raise _Neighbour(f"{path}:{node.lineno}: imports {beside.name}, which is beside it; {remedy}")


def _leads_elsewhere(module: str, beside: Path) -> bool:
    """Whether `import module` would find another file than the one beside the plug-in, or one of the framework."""
    if beside.resolve().parent == PROJECT and module in ("train", "test", "app", "parse_config"):
        return True
    try:
        spec = importlib.util.find_spec(module)
    except ValueError:  # a module that was made by hand
        return True
    return spec is not None and (spec.origin is None or Path(spec.origin).resolve() != beside.resolve())


@contextmanager
def _importable(modules: Mapping[str, ModuleType]) -> Iterator[None]:
    """Within it other plug-ins can be imported by the names of their files, unless a module has that name already."""
    added = {name: module for name, module in modules.items() if name not in sys.modules}
    sys.modules.update(added)
    try:
        yield
    finally:
        for name in added:
            sys.modules.pop(name, None)


def _line_of(error: BaseException, path: str, file: Path) -> str:
    """`file:line`, the line of the plug-in that an error comes from."""
    if isinstance(error, SyntaxError) and error.filename == str(file) and error.lineno is not None:
        return f"{path}:{error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    return f"{path}:{lines[-1]}" if lines else path


def _reason(error: BaseException) -> str:
    """What is wrong; of a syntax error the text of the line, too, and no second place."""
    if isinstance(error, SyntaxError) and error.text and error.text.strip():
        return f"{error.msg}, in {format_value(error.text.strip())}; correct that line"
    return first_line(error)


def _defined(module: ModuleType) -> dict[str, Any]:
    listed = getattr(module, "__all__", None)
    names = listed if listed is not None else [name for name in vars(module) if not name.startswith("_")]
    found = {name: getattr(module, name) for name in names if hasattr(module, name)}
    return {
        name: each
        for name, each in found.items()
        if (inspect.isclass(each) or inspect.isfunction(each)) and (listed or each.__module__ == module.__name__)
    }


def _refuse_duplicates(plugin: PlugIn, earlier: Sequence[PlugIn]) -> None:
    for other in earlier:
        if Path(other.path).name == Path(plugin.path).name:
            raise ValueError(f"has the file name of {other.path}; rename one of them")
        if both := [name for name in plugin.defined if name in other.defined]:
            raise ValueError(f"defines {', '.join(both)}, which {other.path} defines, too; rename one of them")


def _clashes(plugins: Sequence[PlugIn]) -> list[Problem]:
    """Names of plug-ins that the framework has, of whatever kind: ours would be taken in their place without a word."""
    remedy = "rename it, or leave it out of __all__"
    return [
        Problem((KEY, number), f"= {format_value(plugin.path)}: defines {name}, a name that this program has; {remedy}")
        for number, plugin in enumerate(plugins)
        for name in plugin.defined
        if any(name in names.own for names in Names.every)
    ]
