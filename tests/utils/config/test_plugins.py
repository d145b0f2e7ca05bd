"""Plug-ins: what is found in them, in which sections, and what is refused in one line."""

from __future__ import annotations

import contextlib
import hashlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from parse_config import ConfigParser
from tests.small_config import lines_of, write
from utils.config import plugins
from utils.config.plugins import FLAG, KeptPlugIn, Names, PlugIns, load_plugins, plugins_of_run, subclasses
from utils.config.sections import Sections, TypedList, TypedSection


class Shape(ABC):
    @abstractmethod
    def area(self) -> float: ...


class Square(Shape):
    def __init__(self, side: float = 1.0) -> None:
        self.side = side

    def area(self) -> float:
        return self.side**2


SHAPES = Names({"Square": Square}, "a subclass of Shape", subclasses(Shape))


class Settings:
    def __init__(self, name: str, plugins: tuple[str | KeptPlugIn, ...] = ()) -> None:
        self.name, self.plugins = name, plugins


SECTIONS = Sections({"shapes": TypedList(TypedSection(SHAPES))}, Settings)
CIRCLE = f"""
from __future__ import annotations

import math

from {__name__} import Shape


class Circle(Shape):
    def __init__(self, radius: float) -> None:
        self.radius = radius

    def area(self) -> float:
        return math.pi * self.radius**2


class Unfinished(Shape):
    pass


class Plain:
    pass


def helper() -> None: ...
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    plugins.accept_changes(False)
    assert not {"circle", "sizes", "helpers"} & sys.modules.keys()


def config(*paths: Any, shapes: list[Any] | None = None) -> dict[str, Any]:
    return {"name": "x", "plugins": [*paths], "shapes": shapes or [{"type": "Square"}]}


def read(values: dict[str, Any], at: str = "x.json") -> ConfigParser:
    write(at, values)
    return ConfigParser.from_file(at, SECTIONS)


def refusal(values: dict[str, Any]) -> str:
    (line,) = lines_of(lambda: read(values))
    return line


def test_a_type_is_found_in_a_plugin_and_checked_by_its_signature(folder: Path) -> None:
    write("ideas/circle.py", CIRCLE)
    parsed = read(config("ideas/circle.py", shapes=[{"type": "Circle", "args": {"radius": 2.0}}, {"type": "Square"}]))
    areas = [shape.area() for shape in parsed.build("shapes")]
    assert areas == [pytest.approx(12.566371), 1]
    sha256 = hashlib.sha256((folder / "ideas/circle.py").read_bytes()).hexdigest()
    assert parsed["plugins"] == [{"path": "ideas/circle.py", "sha256": sha256}]
    assert parsed.component("shapes.0").__name__ == "Circle"
    assert "Circle" not in SHAPES, "names are known to the config that has loaded them alone"

    wrong = [{"type": "Circle", "args": {"radus": 2}}, {"type": "Circel"}, {"type": "Unfinished"}, {"type": "Plain"}]
    lines = lines_of(lambda: read(config("ideas/circle.py", shapes=wrong)))
    expected = (
        ("shapes.0.args.radus ", 'did you mean "radius"?'),
        ("shapes.0.args.radius ", "is missing"),
        ('shapes.1.type = "Circel" ', 'did you mean "Circle"?'),
        ('shapes.2.type = "Unfinished" ', "ideas/circle.py defines it, but it lacks area"),
        ('shapes.3.type = "Plain" ', "not as a subclass of Shape"),
    )
    assert len(lines) == len(expected)
    for line, (start, fragment) in zip(lines, expected, strict=True):
        assert line.startswith(f"x.json: {start}")
        assert fragment in line


def test_a_plugin_beside_the_config_that_names_it(folder: Path) -> None:
    write("configs/circle.py", CIRCLE)
    write("configs/base.json", config("circle.py"))
    (folder / "ideas").mkdir()
    child = read({"extends": "../configs/base.json"}, "ideas/child.json")
    assert [each["path"] for each in child["plugins"]] == ["configs/circle.py"]
    again = ConfigParser.from_dict(child.resolved, SECTIONS, "run x")
    assert again.resolved == child.resolved
    write("circle.py", "")  # the working folder's comes first
    assert read({"extends": "../configs/base.json"}, "ideas/child.json")["plugins"][0]["path"] == "circle.py"


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ("x = 1\nclass A:\n  def f(self)\n", "my.py:3: SyntaxError", "expected ':'"),
        ("\n\nimport nonesuch_package\n", "my.py:3: ModuleNotFoundError", "nonesuch_package"),
        ("def f():\n    raise KeyError('k')\n\n\nf()\n", "my.py:2: KeyError", "'k'"),
        ("import sys\nsys.exit(3)\n", "my.py:2: SystemExit", "3"),
        ("from . import other\n", "my.py:1: ImportError", "relative import"),
        ("import helpers\n", "my.py:1: imports helpers.py, which is beside it", 'list "ideas/helpers.py" in plugins'),
        ("x = '\0'\n", "ideas/my.py", "null bytes"),
    ],
)
def test_what_cannot_be_run_is_one_line_with_its_place(text: str, place: str, reason: str) -> None:
    write("ideas/helpers.py", "SCALE = 2\n")
    write("ideas/my.py", text)
    line = refusal(config("ideas/my.py"))
    assert line.startswith('x.json: plugins.0 = "ideas/my.py"')
    assert place in line
    assert reason in line
    assert line.count("my.py") == 2
    if "SyntaxError: e" in line:
        assert line.endswith('in "def f(self)"; correct that line')


def test_what_is_no_plugin_is_refused_together() -> None:
    write("my.txt", "")
    lines = lines_of(lambda: read(config("none.py", "my.txt", "..py")))
    assert [line.split(" = ")[0] for line in lines] == [f"x.json: plugins.{number}" for number in range(3)]
    assert str(Path("none.py").absolute()) in lines[0]
    assert refusal(config(3)).startswith("x.json: plugins.0 = 3 ")


def test_a_name_belongs_to_one() -> None:
    write("mine.py", CIRCLE)
    write("other.py", CIRCLE)
    write("builtin.py", CIRCLE.replace("Circle", "Square"))
    write("ideas/mine.py", "")
    assert "defines Circle, Unfinished, Plain, helper, which mine.py defines" in refusal(config("mine.py", "other.py"))
    assert "defines Square, a name that this program has" in refusal(config("builtin.py"))
    write("plain.py", "class Square: pass\n")  # of another kind: ours would be taken in its place
    assert "defines Square, a name that this program has" in refusal(config("plain.py"))
    assert "has the file name of mine.py" in refusal(config("mine.py", "ideas/mine.py"))


def test_a_plugin_imports_one_that_is_named_before_it() -> None:
    write("ideas/sizes.py", "RADIUS = 3.0\n__all__ = []\n")
    write(
        "ideas/big.py",
        f"{CIRCLE}\nfrom sizes import RADIUS\nclass Big(Circle):\n    def __init__(self): super().__init__(RADIUS)\n",
    )
    shapes = [{"type": "Big"}]
    first = read(config("ideas/sizes.py", "ideas/big.py", shapes=shapes)).build("shapes")[0]
    assert first.radius == 3
    write("ideas/sizes.py", "RADIUS = 5.0\n")
    assert read(config("ideas/sizes.py", "ideas/big.py", shapes=shapes)).build("shapes")[0].radius == 5, "not kept"
    assert "imports sizes.py" in refusal(config("ideas/big.py", "ideas/sizes.py", shapes=shapes))


def test_another_content_is_refused_unless_it_is_accepted() -> None:
    write("circle.py", CIRCLE)
    saved = read(config("circle.py", shapes=[{"type": "Circle", "args": {"radius": 1.0}}])).resolved
    write("circle.py", CIRCLE.replace("math.pi", "3"))
    (line,) = lines_of(lambda: ConfigParser.from_dict(saved, SECTIONS, "run x"))
    assert FLAG in line
    plugins.accept_changes(True)
    accepted = ConfigParser.from_dict(saved, SECTIONS, "run x")
    assert accepted.build("shapes")[0].area() == 3
    assert any("circle.py has changed" in note for note in accepted.notes)
    assert accepted["plugins"][0]["sha256"] != saved["plugins"][0]["sha256"]


def test_a_run_brings_no_code(folder: Path) -> None:
    write("circle.py", CIRCLE)
    saved = read(config("circle.py")).resolved
    run = folder / "saved" / "run"
    (run / "plugins").mkdir(parents=True)
    Path("circle.py").rename(run / "plugins" / "circle.py")
    for values in (saved, {**saved, "plugins": [{**saved["plugins"][0], "path": "ideas/circle.py"}]}):
        with pytest.raises(plugins.ConfigError, match=r"there is no such file.*to read: .*saved/run/plugins/circle.py"):
            plugins_of_run(values, run)
    inside = {**saved, "plugins": [{**saved["plugins"][0], "path": "saved/run/plugins/circle.py"}]}
    with pytest.raises(plugins.ConfigError, match="brings no code"):
        plugins_of_run(inside, run)
    (run / "plugins" / "circle.py").rename("circle.py")  # by its name in the working folder
    moved = {**saved, "plugins": [{**saved["plugins"][0], "path": "ideas/circle.py"}]}
    assert plugins_of_run(moved, run).defined.keys() >= {"Circle"}


def test_names_are_active_within_a_block_alone() -> None:
    write("circle.py", CIRCLE)
    loaded, problems = load_plugins(["circle.py"])
    assert not problems
    with loaded.active():
        assert [*SHAPES] == ["Square", "Circle"]
        assert len(SHAPES) == 2
        with PlugIns().active():
            assert [*SHAPES] == ["Square"]
        assert "Circle" in SHAPES
    assert [*SHAPES] == ["Square"]
    with contextlib.suppress(KeyError):
        SHAPES["Circle"]
        raise AssertionError
    assert load_plugins(["circle.py"])[0].plugins[0].module is loaded.plugins[0].module, "run once for each content"
