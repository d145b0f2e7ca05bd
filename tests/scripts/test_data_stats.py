"""The command that counts a data set: what it prints and writes, and how it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scripts import data_stats
from utils.errors import run_command

ROOT = Path(__file__).parents[2]
CONFIG: dict[str, Any] = {
    "extends": str(ROOT / "config.json"),
    "n_gpu": 0,
    "data": [{"type": "AttributeTable", "args": {"path": "table.csv", "split_column": "split"}}],
    "split": {"type": "GivenSplit"},
    "data_loader": {"args": {"input_size": 32}},
    "arch": {"type": "BaselineCNN", "args": {"width": 4}},
    "trainer": {"save_dir": "saved"},
}
PERSONS = ("p1", "p1", "p2", "p3", "p4", "p5")
SIDES = ("train", "train", "train", "train", "val", "test")


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Six images in the current folder, of two sizes, their table and a config."""
    monkeypatch.chdir(tmp_path)
    stream = np.random.default_rng(0)
    made = [stream.integers(0, 256, (20 + 4 * (n % 2), 18, 3), dtype=np.uint8) for n in range(6)]
    rows = ["path,person,split,mask,gender,age"]
    for number, (image, person, side) in enumerate(zip(made, PERSONS, SIDES, strict=True)):
        Image.fromarray(image).save(f"{number}.png")
        mask, gender = "wear" if number % 3 else "incorrect", "" if number == 2 else "female"
        rows.append(f"{number}.png,{person},{side},{mask},{gender},{20 + 10 * number}")
    Path("table.csv").write_text("\n".join(rows))
    Path("config.json").write_text(json.dumps(CONFIG))
    return made


def test_what_it_writes_is_what_numpy_finds(images: list[np.ndarray], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda: data_stats.main(["--output", "new/stats.json"])) == 0
    found = json.loads(Path("new/stats.json").read_text())
    pixels = np.concatenate([image.reshape(-1, 3) for image in images[:4]]) / 255
    assert found["training_pixels"]["mean"] == pytest.approx(pixels.mean(axis=0).tolist())
    assert found["training_pixels"]["std"] == pytest.approx(pixels.std(axis=0).tolist())
    assert found["normalize"]["args"]["mean"] == [round(value, 4) for value in pixels.mean(axis=0)]
    assert list(found["sides"]) == ["train", "validation", "test"]
    assert [side["images"] for side in found["sides"].values()] == [4, 1, 1]
    assert [side["persons"] for side in found["sides"].values()] == [3, 1, 1]
    assert found["sides"]["train"]["sizes"]["height"] == {"lowest": 20, "median": 22, "highest": 24}
    train = found["sides"]["train"]
    assert train["attributes"]["mask"]["classes"]["incorrect"] == {"images": 2, "share": 0.5}
    assert train["attributes"]["gender"]["unknown"] == {"images": 1, "share": 0.25}
    assert train["attributes"]["gender"]["classes"]["female"] == {"images": 3, "share": 1.0}
    assert train["answer"]["unknown"]["images"] == 1
    assert train["training_classes"]["age"] == {"<30": 1, "30-59": 3, ">=60": 0}
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for expected in (
        "train validation test",
        "persons 3 1 1",
        "incorrect 2 50.0% 0 0.0% 0 0.0%",
        "incorrect female <30 1 33.3% 0 0.0% 0 0.0%",
        "age: lowest, median, highest 20 .. 35 .. 50 60 .. 60 .. 60 70 .. 70 .. 70",
        "height in pixels 20 .. 22 .. 24 20 .. 20 .. 20 24 .. 24 .. 24",
        json.dumps(found["normalize"]),
    ):
        assert expected in lines


@pytest.mark.usefixtures("images")
def test_the_config_may_be_changed_and_all_folds_are_one_division(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["-c", "config.json", "--set", "split.type=KFoldSplit", "--set", "split.args.folds=3"]
    assert run_command(lambda: data_stats.main(flags)) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "the sides are those of fold 0 of 3" in lines
    assert "persons 3 2 1" in lines or "persons 2 2 1" in lines


@pytest.mark.usefixtures("images")
def test_training_classes_are_shown_where_they_differ(capsys: pytest.CaptureFixture[str]) -> None:
    heads = {"mask": ["mask"], "both": ["gender", "age"]}
    loss = {"gender": None, "age": None, "both": {"type": "CrossEntropyLoss"}}
    own = {"extends": "config.json", "labels": {"heads": heads}, "loss": {"heads": loss}}
    Path("heads.json").write_text(json.dumps(own))
    assert run_command(lambda: data_stats.main(["-c", "heads.json"])) == 0
    out = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "training classes of head both" in out
    assert "training classes of head mask" not in out
    assert "female 30-59 2 0 0" in lines


def test_bad_images_are_left_out_if_the_config_says_so(
    images: list[np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("1.png").write_bytes(b"")
    assert run_command(lambda: data_stats.main([])) == 3
    assert "1.png" in capsys.readouterr().err
    flags = ["--set", "data_loader.args.on_bad_image=skip", "--output", "stats.json"]
    assert run_command(lambda: data_stats.main(flags)) == 0
    found = json.loads(Path("stats.json").read_text())
    pixels = np.concatenate([images[number].reshape(-1, 3) for number in (0, 2, 3)]) / 255
    assert found["training_pixels"]["mean"] == pytest.approx(pixels.mean(axis=0).tolist())
    assert found["sides"]["train"]["images"] == 3
    for number in range(4):
        Path(f"{number}.png").write_bytes(b"")
    assert run_command(lambda: data_stats.main(flags)) == 3
    assert "4 training images" in capsys.readouterr().err


@pytest.mark.usefixtures("images")
def test_nothing_is_suggested_that_would_be_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """One channel of all training images is the same everywhere."""
    for number in range(4):
        image = np.random.default_rng(number).integers(0, 256, (20, 18, 3), dtype=np.uint8)
        image[:, :, 1] = 7
        Image.fromarray(image).save(f"{number}.png")
    assert run_command(lambda: data_stats.main(["--output", "stats.json"])) == 0
    found = json.loads(Path("stats.json").read_text())
    assert found["training_pixels"]["std"][1] == 0
    assert found["normalize"] is None
    assert '"Normalize"' not in capsys.readouterr().out


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize(
    ("flags", "code", "expected"),
    [
        (["-c", "no.json"], 2, "no.json"),
        (["--set", "data.0.args.path=none.csv"], 3, "none.csv"),
        (["--output", "config.json"], 2, "--output config.json"),
        (["--output", "table.csv"], 2, "--output table.csv"),
        (["--output", "table.csv/stats.json"], 2, "--output table.csv/stats.json"),
        (["--set", "data.0.args.columns.age=years"], 3, '"years"'),
    ],
)
def test_mistakes_are_one_line(flags: list[str], code: int, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda: data_stats.main(flags)) == code
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1
    assert not Path("saved").exists()
