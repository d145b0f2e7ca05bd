"""Images that cannot be used are refused before training and before predicting; unusual ones train.
(Each kind by itself: tests/utils/images/test_decoding.py.)"""

from __future__ import annotations

import csv
import io
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_loader import datasets
from tests.integration.workplace import EVALUATION_NAMES, PEOPLE, Workplace, person_folder, photograph, replaced
from tests.utils.images.test_decoding import BAD

TRAINING_IMAGE = f"data/train/images/{person_folder(*PEOPLE[0])}/mask1.jpg"
EVALUATION_IMAGE = f"data/eval/images/{EVALUATION_NAMES[1]}"
PHOTOGRAPH = photograph(77)


def encoded(image: np.ndarray | Image.Image, kind: str, **options: Any) -> bytes:
    data = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(data, kind, **options)
    return data.getvalue()


JPEG, PNG = encoded(PHOTOGRAPH, "JPEG"), encoded(PHOTOGRAPH, "PNG")


def check_listing(lines: list[str], expected: dict[str, str]) -> None:
    """A title with the count, a line for each of the first ten files, and how many more there are."""
    assert f"{len(expected)} images cannot be read" in lines[0]
    named = dict(line.strip().split(": ", 1) for line in lines[1:11])
    assert len(named) == min(10, len(expected))
    for name, text in named.items():
        assert expected[name] in text
    if len(expected) > 10:
        assert f"{len(expected) - 10} more" in lines[11]


def test_bad_images_are_refused_before_training_or_left_out(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = sorted((workplace.train_root / "images").rglob("*.jpg"))
    names = [str(path.relative_to(workplace.folder)) for path in images[:: len(images) // len(BAD)]][: len(BAD)]
    for name, (data, _) in zip(names, BAD.values(), strict=True):
        workplace.write(name, data)
    expected = dict(zip(names, (word for _, word in BAD.values()), strict=True))
    outcome = workplace.train("--config", workplace.write_config())
    assert outcome.exit_code == 3
    check_listing(outcome.lines, expected)
    assert 'data_loader.args.on_bad_image = "skip"' in outcome.lines[-1]
    assert workplace.runs == []
    read: set[Path] = set()
    real = datasets.read_rgb

    def note_and_read(path: Path, bits: Any = 16) -> np.ndarray:
        read.add(path)
        return real(path, bits)

    monkeypatch.setattr(datasets, "read_rgb", note_and_read)
    config = workplace.write_config({"data_loader.args.on_bad_image": "skip", "data_loader.args.drop_last": False})
    outcome = workplace.train("--config", config)
    outcome.check_success()
    lines = outcome.out.splitlines()
    words = f"warning: {len(BAD)} images cannot be read"
    first = next(number for number, line in enumerate(lines) if line.startswith(words))
    check_listing(lines[first:], expected)
    assert read == set(images) - {workplace.folder / name for name in names}


def test_bad_images_that_training_does_not_need_are_warned_of_before_it(workplace: Workplace) -> None:
    """Those of the evaluation folder, and of the test side that a table gives; test.py refuses them."""
    paths = [str(path.relative_to(workplace.train_root)) for path in sorted(workplace.train_root.rglob("*.jpg"))]
    table = "path,person,mask,gender,age,split\n"
    for number, path in enumerate(paths):
        side = "test" if number == 0 else "validation" if number % 4 == 0 else "train"
        table += f"{path},{number},wear,male,{20 + number % 60},{side}\n"
    workplace.write("data/train/table.csv", table)
    expected = {f"data/train/{paths[0]}": "empty", EVALUATION_IMAGE: "HTML"}
    workplace.write(f"data/train/{paths[0]}", b"")
    workplace.write(EVALUATION_IMAGE, b"<html>")
    source = {"type": "AttributeTable", "args": {"path": "data/train/table.csv", "split_column": "split"}}
    config = workplace.write_config({"data": [source], "split": {"type": "GivenSplit"}, "info_dir": "data/eval"})
    outcome = workplace.train("--config", config)
    outcome.check_success()
    lines = outcome.out.splitlines()
    first = next(number for number, line in enumerate(lines) if "2 images cannot" in line)
    check_listing(lines[first : first + 3], expected)
    assert "test.py" in lines[first + 3]
    assert first < next(number for number, line in enumerate(lines) if line.startswith("run folder"))
    workplace.test("--resume", workplace.run).check_refusal(
        3, "1 image cannot be read:", (f"  {EVALUATION_IMAGE}: ", "HTML"), "repair them"
    )
    assert workplace.submissions == []


def test_an_image_that_is_damaged_after_the_check(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the image; what has been trained is kept, and the run resumes with the image repaired."""
    config = workplace.write_config({"trainer.epochs": 2})
    workplace.train("--config", config).check_success()
    before = datasets.read_rgb
    with monkeypatch.context() as patched:
        patched.setattr(datasets, "read_rgb", lambda path, _: before(workplace.write(TRAINING_IMAGE, b"") and path))
        outcome = workplace.train("--resume", workplace.run, "--set", "trainer.epochs=3")
    assert outcome.exit_code == 3
    assert f"{TRAINING_IMAGE}: is empty" in outcome.lines[0]
    workplace.write(TRAINING_IMAGE, JPEG)
    workplace.train("--resume", workplace.run, "--set", "trainer.epochs=3").check_success()


RANDOM = np.random.default_rng(5)
GREY_16 = RANDOM.integers(0, 65536, PHOTOGRAPH.shape[:2]).astype(np.uint16)
ALPHA = RANDOM.integers(0, 256, PHOTOGRAPH.shape[:2]).astype(np.uint8)
ORIENTATION = Image.Exif()
ORIENTATION[0x0112] = 6


def grey(values: np.ndarray) -> np.ndarray:
    return np.dstack([values] * 3).astype(np.uint8)


# The pixels of each kind: tests/utils/images/test_decoding.py
ODD = {
    "46-16-bit-png": encoded(Image.fromarray(GREY_16), "PNG"),
    "48-rgba": encoded(np.dstack([PHOTOGRAPH, ALPHA]), "PNG"),
    "50-exif-rotation": encoded(PHOTOGRAPH, "PNG", exif=ORIENTATION),
}


def probabilities(workplace: Workplace) -> dict[str, np.ndarray]:
    """By image, its probabilities in the submission."""
    workplace.test("--resume", workplace.run, "--probabilities").check_success()
    with workplace.only("submit/*_probabilities.csv").open(newline="", encoding="utf-8") as file:
        return {row[0]: np.array(row[1:], dtype=float) for row in list(csv.reader(file))[1:]}


@pytest.mark.parametrize(("bits", "cache"), [(12, "none"), ("own_maximum", "disk")])
def test_12_bit_values_of_a_16_bit_image_are_scaled_wherever_it_is_read(
    workplace: Workplace, bits: Any, cache: str
) -> None:
    """A model trained with that setting predicts the same for the 12-bit image as for the plain one."""
    plain = PHOTOGRAPH.copy()
    plain[0, 0] = 255
    values = np.rint(plain[..., 1] / 255 * 4095).astype(np.uint16)
    twelve_bit = encoded(Image.fromarray(values), "PNG")
    workplace.write(TRAINING_IMAGE.replace(".jpg", ".png"), twelve_bit)
    (workplace.folder / TRAINING_IMAGE).unlink()
    names = ["odd.png", "plain.png"]
    workplace.write("data/eval/images/odd.png", twelve_bit)
    workplace.write("data/eval/images/plain.png", encoded(grey(plain[..., 1]), "PNG"))
    workplace.write("data/eval/info.csv", "ImageID,ans\n" + "".join(f"{name},0\n" for name in names))
    dark = workplace.train("--config", workplace.write_config(), "--dry-run")
    assert TRAINING_IMAGE.replace(".jpg", ".png") in dark.out
    assert "bits_used_of_16 = 12" in dark.out
    changes = {"data_loader.args.bits_used_of_16": bits, "data_loader.args.cache": cache}
    outcome = workplace.train("--config", workplace.write_config(changes))
    outcome.check_success()
    assert "bits_used_of_16" not in outcome.out
    found = probabilities(workplace)
    np.testing.assert_allclose(found["odd.png"], found["plain.png"], rtol=0, atol=1.5e-6)


DOUBTFUL = {
    "51-1x30000": ("1 x 30000", encoded(RANDOM.integers(0, 256, (30_000, 1, 3)).astype(np.uint8), "PNG"), ".png"),
    "51-30000x1": ("30000 x 1", encoded(RANDOM.integers(0, 256, (1, 30_000, 3)).astype(np.uint8), "PNG"), ".png"),
    "51-one-pixel": ("1 x 1", encoded(PHOTOGRAPH[:1, :1], "PNG"), ".png"),
    "53-png-named-jpg": ("PNG file named .jpg", PNG, ".jpg"),
}


def test_unusual_images_train(workplace: Workplace) -> None:
    """What is doubtful about them is warned of."""
    images = iter(sorted((workplace.train_root / "images").rglob("*.jpg")))
    written = {case: (data, ".png") for case, data in ODD.items()}
    written |= {case: (data, suffix) for case, (_, data, suffix) in DOUBTFUL.items()}
    warned = {}
    for (case, (data, suffix)), path in zip(written.items(), images, strict=False):
        path.unlink()
        path.with_suffix(suffix).write_bytes(data)
        if case in DOUBTFUL:
            warned[str(path.with_suffix(suffix).relative_to(workplace.folder))] = DOUBTFUL[case][0]
    outcome = workplace.train("--config", workplace.write_config({"data_loader.args.drop_last": False}))
    outcome.check_success()
    lines = outcome.out.splitlines()
    first = next(number for number, line in enumerate(lines) if "4 doubtful images" in line)
    found = dict(line.strip().split(": ", 1) for line in lines[first + 1 : first + 5])
    assert found.keys() == warned.keys()
    assert all(words in found[name] for name, words in warned.items())


def test_54_any_file_name_is_predicted_and_is_in_the_submission(trained: Workplace) -> None:
    names = [
        "with spaces in it.jpg",
        "한국어 이름.jpg",
        "마스크😷.png",
        'a,comma \'and "quotes".jpg',
        "é" * 60 + ".jpg",
    ]
    names.append(".hidden.jpg")
    for name in names:
        shutil.copy(trained.folder / EVALUATION_IMAGE, trained.info_dir / "images" / name)
    with (trained.info_dir / "info.csv").open("a", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([name, 0] for name in names)
    found = probabilities(trained)
    assert list(found) == [*EVALUATION_NAMES, *names]
    for name in names:
        np.testing.assert_array_equal(found[name], found[EVALUATION_NAMES[1]])


def test_54_folders_of_any_name_train(workplace: Workplace) -> None:
    """Also where the table composes its letters otherwise than the disk, as a Mac does."""
    names = {person_folder(*PEOPLE[0]): "김 철수 😷", person_folder(*PEOPLE[1]): "é è"}
    for old, new in names.items():
        (workplace.train_root / "images" / old).rename(workplace.train_root / "images" / new)
        workplace.rewrite(workplace.train_root / "train.csv", replaced(old, unicodedata.normalize("NFD", new)))
    outcome = workplace.train("--config", workplace.write_config())
    outcome.check_success()
    assert "42 images of 6 persons to train, 14 images of 2 persons" in outcome.out
