"""What a table's columns are taken for, and that the config is accepted as it is."""

from __future__ import annotations

import bisect
import logging
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiment.builders import read_label_table
from experiment.checks import check_config
from experiment.schema import SECTIONS
from parse_config import ConfigParser
from scripts.new_project.proposal import Proposal, propose_config
from tests.drawn_shapes import draw_shapes, shape, shape_rows, write_table
from utils.errors import ConfigError, DataError

COUNT = 90
SIZES = [shape(number)[2] for number in range(COUNT)]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images/; to be read, never changed."""
    folder = tmp_path_factory.mktemp("shapes")
    draw_shapes(folder, COUNT)
    return folder


@pytest.fixture
def propose(shapes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Callable[..., Proposal]:
    """Of the shapes and further columns; the config is what train.py accepts, without a warning of any kind."""

    def call(
        columns: dict[str, list[str]] | None = None, lacks: tuple[str, ...] = (), warns: bool = False, **given: Any
    ) -> Proposal:
        rows = shape_rows(COUNT)
        for number, row in enumerate(rows):
            row.update({column: cells[number] for column, cells in (columns or {}).items()})
            for column in lacks:
                del row[column]
        with caplog.at_level(logging.WARNING):
            proposal = propose_config(write_table(tmp_path / "labels.csv", rows), "Shapes", shapes, **given)
            config = ConfigParser.from_dict(proposal.config, SECTIONS, "the test")
            labels = check_config(config)
            config.build("split").divide(read_label_table(config, labels), 42)
        assert not config.notes
        assert [record.getMessage() for record in caplog.records] == [] or warns
        return proposal

    return call


def attributes(proposal: Proposal) -> dict[str, Any]:
    return proposal.config["labels"]["attributes"]


def source(proposal: Proposal) -> dict[str, Any]:
    (source,) = proposal.config["data"]
    return source["args"]


def cycle(*values: str) -> list[str]:
    return [values[number % len(values)] for number in range(COUNT)]


def test_classes_and_numbers(propose: Callable[..., Proposal]) -> None:
    proposal = propose()
    found = attributes(proposal)
    assert list(found) == ["kind", "colour", "size"]
    assert found["kind"] == {"classes": ["circle", "square", "triangle"]}
    assert found["colour"] == {"classes": ["blue", "green", "red"]}
    counts = Counter(bisect.bisect_right(found["size"]["bins"], size) for size in SIZES)
    assert set(counts) == {0, 1, 2}
    assert max(counts.values()) - min(counts.values()) <= COUNT // 10
    assert all(isinstance(edge, int) for edge in found["size"]["bins"])
    assert list(proposal.config["loss"]["heads"]) == [*found]
    assert source(proposal)["path_column"] == "file"
    assert source(proposal)["person_column"] is None
    assert proposal.config["data_loader"]["args"]["input_size"] == 64
    assert proposal.config["trainer"]["save_best"] == ["max val/f1"]


def test_persons_are_kept_together(propose: Callable[..., Proposal]) -> None:
    ids = [str(number // 3) for number in range(COUNT)]
    for proposal in (propose({"Subject": ids}), propose({"series": ids}, person_column="series")):
        assert source(proposal)["person_column"] in ("Subject", "series")
        assert list(attributes(proposal)) == ["kind", "colour", "size"]
    assert list(attributes(propose({"Subject": ids}, heads=["Subject", "kind"]))) == ["Subject", "kind"]


@pytest.mark.parametrize(
    ("header", "cells"),
    [
        ("remark", [f"the shape of number {number}, drawn by hand" for number in range(COUNT)]),
        ("comment", cycle("a long text " * 6, "another long text " * 6)),
        ("made", cycle("here")),
        ("empty", cycle("")),
        ("id", cycle("1", "2", "3")),
        ("row", [str(number + 1000) for number in range(COUNT)]),
        ("shuffled", [str(number * 7 % COUNT) for number in range(COUNT)]),
        ("photo_number", [str(number * number * 31 % 9973) for number in range(COUNT)]),
        ("set", cycle("train")),
        ("weight", ["n.a." if number == 5 else str(number * 3 % 71) for number in range(COUNT)]),
    ],
)
def test_what_is_no_attribute(propose: Callable[..., Proposal], header: str, cells: list[str]) -> None:
    proposal = propose({header: cells})
    assert list(attributes(proposal)) == ["kind", "colour", "size"]
    assert any(note.startswith(f"{header}: is not used: ") for note in proposal.notes)


@pytest.mark.parametrize(
    ("cells", "spec"),
    [
        (cycle("0", "1"), {"classes": ["0", "1"]}),
        (cycle("20", "100"), {"classes": ["20", "100"]}),
        (cycle("True", "False"), {"classes": ["False", "True"]}),
        (cycle("9", "10", "11"), {"classes": ["9", "10", "11"]}),
        (cycle("1", "1.0", "2"), {"bins": [2]}),
        (cycle("10-19", "3-9", "0-2"), {"classes": ["0-2", "3-9", "10-19"]}),
        (cycle("yes", "no", ""), {"classes": ["no", "yes"]}),
        (cycle("small", "large size", "중간"), {"classes": ["large size", "small", "중간"]}),
        ([str(max(0, number - 70)) for number in range(COUNT)], {"bins": [1]}),
    ],
)
def test_the_values_of_a_column(propose: Callable[..., Proposal], cells: list[str], spec: dict[str, Any]) -> None:
    assert attributes(propose({"new": cells}))["new"] == spec


def test_numbers_with_a_point(propose: Callable[..., Proposal]) -> None:
    numbers = [1 + 0.01 * (number * 37 % COUNT) for number in range(COUNT)]
    bins = attributes(propose({"weight": [f"{number:.4f}" for number in numbers]}))["weight"]["bins"]
    assert sorted(Counter(bisect.bisect_right(bins, number) for number in numbers).values()) == pytest.approx(
        [30, 30, 30], abs=2
    )


def test_bins_of_numbers_that_are_close_together(propose: Callable[..., Proposal]) -> None:
    numbers = [1000 + 0.001 * (number * 37 % COUNT) for number in range(COUNT)]
    bins = attributes(propose({"height": [f"{number:.3f}" for number in numbers]}))["height"]["bins"]
    assert len(Counter(bisect.bisect_right(bins, number) for number in numbers)) == 3


def test_headers_of_any_letters(propose: Callable[..., Proposal]) -> None:
    """A name may have letters alone; a Mac composes them otherwise."""
    ids = [str(number // 3) for number in range(COUNT)]
    columns = {"종류": cycle("원", "사각형"), "크기 (cm)": cycle("1", "2"), "embedding": cycle("a", "b"), "사람": ids}
    columns["파일"] = [f"images/{number}.png" for number in range(COUNT)]
    heads = [unicodedata.normalize("NFD", head) for head in ("종류", "크기 (cm)", "embedding")]
    proposal = propose(columns, lacks=("file",), heads=heads, person_column=unicodedata.normalize("NFD", "사람"))
    assert list(attributes(proposal)) == ["종류", "크기_cm", "embedding_"]
    assert source(proposal)["path_column"] == "파일"
    assert source(proposal)["person_column"] == "사람"
    assert source(proposal)["columns"] == {"크기_cm": "크기 (cm)", "embedding_": "embedding"}


@pytest.mark.parametrize(
    ("values", "split", "column"),
    [
        (("train", "train", "val"), "GivenSplit", "split"),
        (("train", "train", "valid", "test"), "GivenSplit", "split"),
        (("train", "train", "test"), "PersonSplit", "split"),
        (("train", "train", ""), "PersonSplit", None),
        (("test", "val"), "PersonSplit", None),
    ],
)
def test_a_table_with_sides(
    propose: Callable[..., Proposal], values: tuple[str, ...], split: str, column: str | None
) -> None:
    sides = [values[number // 9 % len(values)] for number in range(COUNT)]
    proposal = propose({"split": sides}, warns=split == "GivenSplit")
    assert proposal.config["split"]["type"] == split
    assert source(proposal)["split_column"] == column
    assert "split" not in attributes(proposal)


def test_sides_that_cut_a_person_are_not_used(propose: Callable[..., Proposal]) -> None:
    persons = [str(number // 2) for number in range(COUNT)]
    assert source(propose({"split": cycle("train", "test"), "person": persons}))["split_column"] is None


def test_a_set_that_names_no_sides_is_an_attribute(propose: Callable[..., Proposal]) -> None:
    proposal = propose({"set": cycle("a", "b")})
    assert attributes(proposal)["set"] == {"classes": ["a", "b"]}
    assert source(proposal)["split_column"] is None


def test_labels_that_no_image_has_together(propose: Callable[..., Proposal]) -> None:
    """The joint class is known of none: each head is followed."""
    cells: dict[str, list[str]] = {"kind": [], "colour": []}
    for row in shape_rows(COUNT):
        for name in cells:
            cells[name].append(row[name] if (len(cells[name]) // 9 % 2 == 0) == (name == "kind") else "")
    proposal = propose(cells, lacks=("size",))
    assert sorted(proposal.config["trainer"]["save_best"]) == ["max val/colour_f1", "max val/kind_f1"]


def test_images_are_not_mirrored_where_sides_are_classes(propose: Callable[..., Proposal]) -> None:
    def transforms(proposal: Proposal) -> list[str]:
        return [step["type"] for step in proposal.config["transforms"]["train"]]

    assert "HorizontalFlip" in transforms(propose({"position": cycle("upright", "leftover")}))
    assert "HorizontalFlip" not in transforms(propose({"position": cycle("left side", "right side")}))


def test_the_one_folder_with_the_images_is_found(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "images").symlink_to(shapes / "images")
    rows = [{**row, "file": row["file"].removeprefix("images/").removesuffix(".png")} for row in shape_rows(COUNT)]
    proposal = propose_config(write_table(tmp_path / "labels.csv", rows), "Shapes")
    assert source(proposal)["root"] == str(tmp_path / "images")


@pytest.mark.parametrize(
    ("header", "given", "error", "fragments"),
    [
        ("file,kind", {"heads": ["colour"]}, DataError, ('"colour"', "file, kind")),
        ("file,kind", {"heads": ["kind"], "person_column": "kind"}, ConfigError, ("--person-column", "--heads")),
        ("file,kind", {"image_column": "kind", "person_column": "kind"}, ConfigError, ("--person-column",)),
        ("a,b", {}, DataError, ("--image-column", "a, b")),
        ("file,image", {}, DataError, ("--image-column", "file or image")),
        ("file,Subject,patient", {}, DataError, ("--person-column", "Subject or patient")),
        ("file,kind", {"heads": ["kind"]}, DataError, ("kind cannot be predicted", '"x"')),
        ("file,id", {}, DataError, ("--heads",)),
    ],
)
def test_what_cannot_be_proposed(
    tmp_path: Path, header: str, given: dict[str, Any], error: type[Exception], fragments: tuple[str, ...]
) -> None:
    width = len(header.split(","))
    table = tmp_path / "labels.csv"
    table.write_text("\n".join([header, *(",".join(["x"] * width) for _ in range(20))]))
    with pytest.raises(error) as caught:
        propose_config(table, "X", **given)
    assert "\n" not in str(caught.value)
    for fragment in fragments:
        assert fragment in str(caught.value)


def test_missing_images_are_told_together(shapes: Path, tmp_path: Path) -> None:
    rows = shape_rows(COUNT)
    rows[3]["file"], rows[7]["file"] = "images/no.png", "images/neither.png"
    with pytest.raises(DataError) as caught:
        propose_config(write_table(tmp_path / "labels.csv", rows), "Shapes", shapes)
    assert [line.split(":")[0].rsplit(" ", 1)[1] for line in str(caught.value).splitlines()] == ["5", "9"]
