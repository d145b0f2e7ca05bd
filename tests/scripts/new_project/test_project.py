"""A project of one's own: whole or not made at all, and it trains in its own folder."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

import test as test_script
import train
from experiment.checks import check_config
from experiment.schema import SECTIONS
from parse_config import ConfigParser
from scripts import new_project
from scripts.new_project.project import FOLDERS, LINK
from tests.drawn_clothes import write_clothes
from tests.drawn_shapes import draw_shapes, shape_rows, write_table
from utils.config.json_text import read_json
from utils.errors import run_command

COUNT = 60
SMALL = (
    "arch.args.model_name=test_resnet", "arch.args.pretrained=false", "data_loader.args.input_size=32",
    "data_loader.args.num_workers=0", "n_gpu=0", "trainer.epochs=1", "trainer.tensorboard=false",
    "duplicates=ignore",  # drawn shapes and clothes are alike
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with shapes/: 60 images of 20 series, and their table."""
    draw_shapes(tmp_path / "shapes", COUNT)
    rows = [{**row, "id": f"s{number // 3}", "made": "here"} for number, row in enumerate(shape_rows(COUNT))]
    write_table(tmp_path / "shapes" / "labels.csv", rows)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*argv: str) -> int:
    return run_command(lambda: new_project.main(argv))


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_project_for_a_table_trains(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--image-column", "file", "--heads", "kind,colour", "--person-column", "id")
    assert run("mine", "--table", "shapes/labels.csv", *given) == 0
    out = capsys.readouterr().out
    assert "python train.py --config config.json" in out
    assert "--set arch.args.pretrained=false" in out
    assert sorted(path.name for path in folder.iterdir()) == ["mine", "shapes"]
    mine = folder / "mine"
    config = read_json(mine / "config.json")
    assert list(config["labels"]["attributes"]) == ["kind", "colour"]
    assert config["data"][0]["args"]["person_column"] == "id"
    monkeypatch.chdir(mine)  # test_features.py runs a copy's own train.py
    trained = train.main(["--config", "config.json", *(word for text in SMALL for word in ("--set", text))])
    assert trained is not None
    assert "warning" not in capsys.readouterr().out
    kept = json.loads((trained.folders.models / "config.json").read_text(encoding="utf-8"))
    assert (trained.folders.models / "best_f1.pth").exists()
    assert kept["labels"]["attributes"]["kind"]["classes"] == ["circle", "square", "triangle"]


def test_a_project_for_a_table_of_clothes_trains_and_answers(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Headers with spaces, classes with other letters, unknown patterns, prices, and sellers that no split cuts."""
    table = write_clothes(folder / "shop", 108)
    assert run("mine", "--table", str(table), "--person-column", "seller") == 0
    monkeypatch.chdir(folder / "mine")
    config = read_json(Path("config.json"))
    attributes = config["labels"]["attributes"]
    assert list(attributes) == ["Article_Type", "Base_Colour", "pattern", "price_EUR"]
    assert attributes["Base_Colour"] == {"classes": ["grün", "navy blue", "red"]}
    assert attributes["pattern"] == {"classes": ["dotted", "plain", "striped"]}
    assert len(attributes["price_EUR"]["bins"]) == 2
    assert config["data"][0]["args"]["root"].endswith("photos")
    trained = train.main([word for text in SMALL for word in ("--set", text)])
    assert trained is not None
    sellers = [row["seller"] for row in csv.DictReader(table.open(encoding="utf-8"))]
    predicted = test_script.main(["--resume", str(trained.folders.models), "--split", "validation"])
    rows = list(csv.DictReader(predicted.submission.open(encoding="utf-8")))
    counts = Counter(sellers[int(row["ImageID"].split("-")[1].split(".")[0])] for row in rows)
    assert set(counts.values()) == {6}  # whole sellers
    assert [score.name for score in predicted.scores] == ["answer", *attributes]
    assert "warning" not in capsys.readouterr().out


@pytest.mark.parametrize("argv", [(), ("--table", "shapes/labels.csv")], ids=["copy", "table"])
def test_no_page_links_to_what_is_not_there(folder: Path, argv: tuple[str, ...]) -> None:
    assert run("mine", *argv) == 0
    pages = [*(folder / "mine").rglob("*.md")]
    links = [(page, link["target"]) for page in pages for link in LINK.finditer(page.read_text(encoding="utf-8"))]
    assert [
        (page.name, target) for page, target in links if ":" not in target and not (page.parent / target).exists()
    ] == []
    assert "config.md" in {target for page, target in links if page.name == "data.md"}  # the others are still links
    assert "../benchmarks/README.md" not in (folder / "mine" / "docs" / "performance.md").read_text(encoding="utf-8")


def test_every_idea_that_is_kept_suits_the_table(folder: Path) -> None:
    assert run("mine", "--table", "shapes/labels.csv") == 0
    ideas = sorted((folder / "mine" / "configs").iterdir())
    names = {idea.name for idea in ideas}
    assert {"ema.json", "mixup.json", "sam.json", "vit_384.json"} <= names
    assert not names & {
        "b4.json",
        "demo.json",
        "age_58.json",
        "real_faces.json",
        "label_fixes.json",
        "metric_learning.json",
    }
    assert "README.md" not in names
    for idea in ideas:
        config = ConfigParser.from_file(idea, SECTIONS)
        assert list(config.shared("labels").heads) == ["kind", "colour", "size"]
        if idea.name in ("ema.json", "mixup.json", "vit_384.json"):  # a model takes long to be built
            check_config(config)


def test_a_copy_is_whole_and_clean(folder: Path) -> None:
    assert run("mine") == 0
    found = files(folder / "mine")
    own = {path for path in files(new_project.PROJECT) if path.split("/")[0] in FOLDERS}
    own = {path for path in own if path.endswith((".py", ".md")) or path.startswith("configs/")}
    own -= {path for path in own if "__pycache__" in path or path.endswith("config.schema.json")}
    assert own <= found
    assert {"train.py", "test.py", "config.json", "requirements.txt", "saved", "submit", "README.md"} <= found
    assert not [path for path in found if path.split("/")[0] in ("tests", "benchmarks", ".git") or ".pyc" in path]
    assert read_json(folder / "mine" / "config.json") == read_json(new_project.PROJECT / "config.json")


@pytest.mark.parametrize(
    ("argv", "exit_code", "fragment"),
    [
        ((), 2, "target"),
        (("used",), 2, "used: exists"),
        (("used/file",), 2, "used/file: exists"),
        ((str(new_project.PROJECT / "mine"),), 2, "inside this project"),
        (("new", "--heads", "kind"), 2, "--heads: goes with --table"),
        (("new", "--tabel", "x.csv"), 2, 'did you mean "--table"?'),
        (("new", "--table", "no.csv"), 3, "no.csv: there is no such file"),
        (("new", "--table", "shapes"), 3, "shapes: cannot be read"),
        (("new", "--table", "shapes/images/0.png"), 3, "0.png row"),
        (("new", "--table", "empty.csv"), 3, "empty.csv: has no rows"),
        (("new", "--table", "shapes/labels.csv", "--heads", "kinds"), 3, 'did you mean "kind"?'),
        (("new", "--table", "shapes/labels.csv", "--heads", "made"), 3, 'every cell is "here"'),
        (("new", "--table", "shapes/labels.csv", "--root", "used"), 3, "missing in"),
        (("used/file/new",), 2, "be written"),
    ],
)
def test_what_is_refused_makes_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], exit_code: int, fragment: str
) -> None:
    (folder / "used").mkdir()
    (folder / "used" / "file").write_text("x")
    (folder / "empty.csv").write_text("")
    before = files(folder)
    assert run(*argv) == exit_code
    error = capsys.readouterr().err
    assert fragment in error
    assert "Traceback" not in error
    assert len(error.splitlines()) == 1 or "missing in" in fragment
    assert files(folder) == before
    assert not (new_project.PROJECT / "mine").exists()


def test_an_empty_folder_is_taken(folder: Path) -> None:
    (folder / "mine").mkdir()
    assert run("mine") == 0
    assert (folder / "mine" / "train.py").is_file()


def test_a_failure_leaves_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[str] = []

    def full(count: int) -> Callable[[Path, Path], None]:
        def copy(source: Path, target: Path) -> None:
            copied.append(str(source))
            if len(copied) > count:
                raise OSError(28, "No space left on device", str(target))
            target.write_bytes(source.read_bytes())

        return copy

    monkeypatch.setattr("shutil.copyfile", full(40))
    before = files(folder)
    assert run("mine") == 74
    assert "mine: could not be written (No space left on device)" in capsys.readouterr().err
    assert files(folder) == before
