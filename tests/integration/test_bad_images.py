"""Images that cannot be used are named before training and before judging; odd ones that can be used count for what
they show, which is derived here by other means."""

from __future__ import annotations

import csv
import io
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_loader import datasets
from data_loader.records import image_check
from tests.integration.workplace import EVALUATION_NAMES, PEOPLE, Workplace, person_folder, photograph, replaced
from utils.images.decoding import ImageFinding

TRAINING_IMAGE = f"data/train/images/{person_folder(*PEOPLE[0])}/mask1.jpg"
JUDGED = EVALUATION_NAMES[1]
JUDGED_IMAGE = f"data/eval/images/{JUDGED}"
PHOTOGRAPH = photograph(77)


def encoded(image: np.ndarray | Image.Image, kind: str, **options: Any) -> bytes:
    data = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(data, kind, **options)
    return data.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


JPEG, PNG = encoded(PHOTOGRAPH, "JPEG"), encoded(PHOTOGRAPH, "PNG")
FRAMES = [Image.fromarray(photograph(number)) for number in range(3)]
BOMB = b"".join(
    [
        PNG[:8],
        chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)),
        chunk(b"IDAT", zlib.compress(bytes(1000))),
        chunk(b"IEND", b""),
    ]
)

BAD: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "41-zero-bytes": (b"", ("is empty (0 bytes)", "download it again")),
    "42-html": (b"<!DOCTYPE html><html><body>404", ("is an HTML page", "download the image again")),
    "43-truncated-jpeg": (JPEG[: len(JPEG) * 2 // 3], ("is a damaged JPEG", "copy or download it again")),
    "43-jpeg-with-a-grey-tail": (JPEG[:-400] + bytes(400), ("is a damaged JPEG", "copy or download it again")),
    "44-truncated-png": (PNG[: len(PNG) // 2], ("is a damaged PNG", "copy or download it again")),
    "44-flipped-bit": (PNG[:200] + bytes([PNG[200] ^ 4]) + PNG[201:], ("is a damaged PNG", "checksum")),
    "45-huge-header": (BOMB, ("has 20000 x 20000 pixels", "67,108,864", "shrink it")),
    "52-gif": (encoded(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]), ("is a GIF", "convert it")),
    "52-animated-png": (encoded(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]), ("an animated PNG", "one")),
    "52-animated-webp": (encoded(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:]), ("an animated WEBP",)),
    "52-eps": (encoded(PHOTOGRAPH, "EPS"), ("is an EPS", "convert it")),
    "52-svg": (b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>", ("is an SVG", "convert it")),
    "52-pdf": (encoded(PHOTOGRAPH, "PDF"), ("is a PDF", "convert it")),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_image_is_refused_before_training(workplace: Workplace, case: str) -> None:
    data, told = BAD[case]
    workplace.write(TRAINING_IMAGE, data)
    workplace.train("--config", workplace.write_config()).check_refusal(
        3,
        "1 image cannot be read:",
        (f"  {TRAINING_IMAGE}: ", *told),
        ("repair them, or leave them out", 'data_loader.args.on_bad_image = "skip"'),
    )
    assert workplace.runs == []


@pytest.mark.parametrize("case", BAD)
def test_a_bad_image_is_left_out_when_asked(workplace: Workplace, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data, told = BAD[case]
    workplace.write(TRAINING_IMAGE, data)
    read: list[str] = []
    real = datasets.read_rgb

    def note_and_read(path: Path, bits: Any = 16) -> np.ndarray:
        read.append(str(path))
        return real(path, bits)

    monkeypatch.setattr(datasets, "read_rgb", note_and_read)
    config = workplace.write_config({"data_loader.args.on_bad_image": "skip", "data_loader.args.drop_last": False})
    outcome = workplace.train("--config", config)
    outcome.check_success()
    assert outcome.err == ""
    assert "warning: 1 image cannot be read and left out:" in outcome.out
    (line,) = [line for line in outcome.out.splitlines() if line.startswith(f"  {TRAINING_IMAGE}: ")]
    assert all(fragment in line for fragment in told)
    assert TRAINING_IMAGE not in read
    assert len(set(read)) == 55
    assert "41 images of 6 persons to train" in outcome.out
    assert "cannot be read and left out" in (workplace.only("saved/log/Tiny/*/info.log")).read_text()


def test_bad_images_that_training_does_not_need_are_warned_of_before_it(workplace: Workplace) -> None:
    """Those of the evaluation folder, and of the test side that a table gives."""
    paths = [str(path.relative_to(workplace.train_root)) for path in sorted(workplace.train_root.rglob("*.jpg"))]
    table = "path,person,mask,gender,age,split\n"
    for number, path in enumerate(paths):
        side = "test" if number == 0 else "validation" if number % 4 == 0 else "train"
        table += f"{path},{number},wear,male,{20 + number % 60},{side}\n"
    workplace.write("data/train/table.csv", table)
    workplace.write(f"data/train/{paths[0]}", b"")
    workplace.write(JUDGED_IMAGE, b"<html>")
    source = {"type": "AttributeTable", "args": {"path": "data/train/table.csv", "split_column": "split"}}
    config = workplace.write_config({"data": [source], "split": {"type": "GivenSplit"}, "info_dir": "data/eval"})
    outcome = workplace.train("--config", config)
    outcome.check_success()
    lines = outcome.out.splitlines()
    first = next(number for number, line in enumerate(lines) if "2 images" in line)
    named = [line.split(": ")[0].strip() for line in lines[first + 1 : first + 3]]
    assert named == [f"data/train/{paths[0]}", JUDGED_IMAGE]
    assert "test.py" in lines[first + 3]
    assert first < next(number for number, line in enumerate(lines) if line.startswith("run folder"))


@pytest.mark.parametrize("case", BAD)
def test_a_bad_image_is_refused_before_judging(trained: Workplace, case: str) -> None:
    data, told = BAD[case]
    trained.write(JUDGED_IMAGE, data)
    trained.test("--resume", trained.run).check_refusal(
        3,
        "1 image cannot be read:",
        (f"  {JUDGED_IMAGE}: ", *told),
        "repair them: every image must have an answer",
    )
    assert trained.submissions == []


def test_many_bad_images_are_named_up_to_ten_and_counted(workplace: Workplace) -> None:
    images = sorted((workplace.train_root / "images").glob("*/mask[12].jpg"))
    for path in images:
        path.write_bytes(b"")
    outcome = workplace.train("--config", workplace.write_config())
    assert outcome.exit_code == 3
    assert outcome.lines[0] == "16 images cannot be read:"
    named = {line.split(": ")[0].strip() for line in outcome.lines[1:11]}
    assert len(named) == 10
    assert named <= {str(path.relative_to(workplace.folder)) for path in images}
    assert outcome.lines[11] == "  ... and 6 more"
    assert len(outcome.lines) == 13


def test_an_image_that_is_spoilt_after_the_check(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """It passes the check and is damaged later: the loader tells the same, and the run ends."""
    real = datasets.read_rgb

    def spoil_and_read(path: Path, bits: Any = 16) -> np.ndarray:
        workplace.write(TRAINING_IMAGE, b"")
        return real(path, bits)

    monkeypatch.setattr(datasets, "read_rgb", spoil_and_read)
    config = workplace.write_config({"data_loader.args.drop_last": False})
    workplace.train("--config", config).check_refusal(3, f"{TRAINING_IMAGE}: is empty (0 bytes)")


def test_an_image_that_is_spoilt_in_the_second_epoch(workplace: Workplace) -> None:
    """What the first has come to is not lost, and that is said."""
    config = workplace.write_config({"trainer.epochs": 2})
    workplace.train("--config", config).check_success()
    before = datasets.read_rgb
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(datasets, "read_rgb", lambda path, _: before(workplace.write(TRAINING_IMAGE, b"") and path))
        outcome = workplace.train("--resume", workplace.run, "--set", "trainer.epochs=3")
    outcome.check_refusal(
        3,
        f"{TRAINING_IMAGE}: is empty (0 bytes)",
        ("what was trained", f"--resume {workplace.run}"),
    )
    workplace.write(TRAINING_IMAGE, JPEG)
    workplace.train("--resume", workplace.run, "--set", "trainer.epochs=3").check_success()


def test_good_images_are_checked_once_and_bad_ones_each_time(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[str] = []
    real = image_check.inspect_image

    def inspect(path: Path) -> ImageFinding:
        checked.append(str(path))
        return real(path)

    monkeypatch.setattr(image_check, "inspect_image", inspect)
    workplace.write(TRAINING_IMAGE, b"")
    config = workplace.write_config()
    assert workplace.train("--config", config).exit_code == 3
    assert len(set(checked)) == len(checked) == 56 + len(EVALUATION_NAMES)
    checked.clear()
    assert workplace.train("--config", config).exit_code == 3
    assert checked == [TRAINING_IMAGE]
    workplace.write(TRAINING_IMAGE, JPEG)
    workplace.train("--config", config, "--dry-run").check_success()


RANDOM = np.random.default_rng(5)
GREY_16 = RANDOM.integers(0, 65536, PHOTOGRAPH.shape[:2]).astype(np.uint16)
ALPHA = RANDOM.integers(0, 256, PHOTOGRAPH.shape[:2]).astype(np.uint8)
RGBA = np.dstack([PHOTOGRAPH, ALPHA])
PALETTE = Image.fromarray(PHOTOGRAPH).quantize(16)
CMYK = RANDOM.integers(0, 256, (5, 4, 4)).astype(np.uint8).repeat(8, axis=0).repeat(8, axis=1)
ORIENTATION = Image.Exif()
ORIENTATION[0x0112] = 6  # the camera was held so that the top of the view is the right side of what is stored


def grey(values: np.ndarray) -> np.ndarray:
    return np.dstack([values] * 3).astype(np.uint8)


def over_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return np.rint(rgb * share + 255 * (1 - share)).astype(np.uint8)


def palette_over_white() -> np.ndarray:
    colours = np.array(PALETTE.getpalette()).reshape(-1, 3)
    colours[3] = 255
    return colours[np.array(PALETTE)].astype(np.uint8)


def cmyk_to_rgb() -> np.ndarray:
    """R = (1 - C)(1 - K), from the inks that the JPEG decoder gives."""
    inks = np.array(Image.open(io.BytesIO(encoded(Image.fromarray(CMYK, "CMYK"), "JPEG", quality=100)))) / 255
    return np.rint(255 * (1 - inks[..., :3]) * (1 - inks[..., 3:])).astype(np.uint8)


ODD: dict[str, tuple[bytes, Callable[[], np.ndarray], str]] = {
    "46-16-bit-png": (encoded(Image.fromarray(GREY_16), "PNG"), lambda: grey(np.rint(GREY_16 / 257)), ".png"),
    "47-cmyk": (encoded(Image.fromarray(CMYK, "CMYK"), "JPEG", quality=100), cmyk_to_rgb, ".jpg"),
    "48-rgba": (encoded(RGBA, "PNG"), lambda: over_white(PHOTOGRAPH, ALPHA), ".png"),
    "48-palette": (encoded(PALETTE, "PNG", transparency=3), palette_over_white, ".png"),
    "49-grey": (encoded(ALPHA, "PNG"), lambda: grey(ALPHA), ".png"),
    "49-one-bit": (encoded(Image.fromarray(ALPHA > 99), "PNG"), lambda: grey((ALPHA > 99) * 255), ".png"),
    "50-exif-rotation": (
        encoded(PHOTOGRAPH, "PNG", exif=ORIENTATION),
        lambda: np.rot90(PHOTOGRAPH, k=-1),
        ".png",
    ),
    "51-one-pixel": (encoded(PHOTOGRAPH[:1, :1], "PNG"), lambda: np.full((40, 30, 3), PHOTOGRAPH[0, 0]), ".png"),
    "53-png-named-jpg": (PNG, lambda: PHOTOGRAPH, ".jpg"),
}


def probabilities(workplace: Workplace) -> dict[str, np.ndarray]:
    """By image, what the model says of it."""
    workplace.test("--resume", workplace.run, "--probabilities").check_success()
    with workplace.only("submit/*_probabilities.csv").open(newline="", encoding="utf-8") as file:
        return {row[0]: np.array(row[1:], dtype=float) for row in list(csv.reader(file))[1:]}


@pytest.mark.parametrize("case", ODD)
def test_an_odd_image_counts_for_what_it_shows(trained: Workplace, case: str) -> None:
    """The model says the same of it as of a plain RGB file with the pixels derived here."""
    data, pixels, suffix = ODD[case]
    names = [f"odd{suffix}", "plain.png", EVALUATION_NAMES[2]]
    trained.write(f"data/eval/images/{names[0]}", data)
    trained.write(f"data/eval/images/{names[1]}", encoded(np.ascontiguousarray(pixels()), "PNG"))
    trained.write("data/eval/info.csv", "ImageID,ans\n" + "".join(f"{name},0\n" for name in names))
    said = probabilities(trained)
    tolerance = 2e-5 if case in ("47-cmyk", "48-rgba") else 1.5e-6  # rounding differs by a level, or not at all
    np.testing.assert_allclose(said[names[0]], said[names[1]], rtol=0, atol=tolerance)
    assert np.abs(said[names[0]] - said[names[2]]).max() > 1e-4, "the model sees no difference between any two images"


@pytest.mark.parametrize("cache", ["none", "disk"])
@pytest.mark.parametrize("bits", [12, "own_maximum"])
def test_12_bit_values_of_a_16_bit_image_are_scaled_wherever_it_is_read(
    workplace: Workplace, bits: Any, cache: str
) -> None:
    """A model trained with that setting says the same of the 12-bit image as of the plain one."""
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
    assert f"  {TRAINING_IMAGE.replace('.jpg', '.png')}: " in dark.out
    assert "bits_used_of_16 = 12 " in dark.out
    changes = {"data_loader.args.bits_used_of_16": bits, "data_loader.args.cache": cache}
    outcome = workplace.train("--config", workplace.write_config(changes))
    outcome.check_success()
    assert "bits_used_of_16" not in outcome.out
    said = probabilities(workplace)
    np.testing.assert_allclose(said["odd.png"], said["plain.png"], rtol=0, atol=1.5e-6)


THIN = {
    "51-1x30000": encoded(RANDOM.integers(0, 256, (30_000, 1, 3)).astype(np.uint8), "PNG"),
    "51-30000x1": encoded(RANDOM.integers(0, 256, (1, 30_000, 3)).astype(np.uint8), "PNG"),
}
WARNINGS = {
    "51-1x30000": "is only 1 x 30000 pixels",
    "51-30000x1": "is only 30000 x 1 pixels",
    "51-one-pixel": "is only 1 x 1 pixels",
    "53-png-named-jpg": "is a PNG file named .jpg; it is read as PNG",
}


@pytest.mark.parametrize("case", [*ODD, *THIN])
def test_an_odd_image_trains_and_is_judged(trained: Workplace, case: str) -> None:
    """What is doubtful about it is warned of, in both."""
    data, suffix = (THIN[case], ".png") if case in THIN else (ODD[case][0], ODD[case][2])
    (trained.folder / TRAINING_IMAGE).unlink()
    (trained.folder / JUDGED_IMAGE).unlink()
    trained.write(TRAINING_IMAGE.replace(".jpg", suffix), data)
    trained.write(JUDGED_IMAGE.replace(".jpg", suffix), data)
    if suffix != ".jpg":
        trained.rewrite(trained.info_dir / "info.csv", replaced(JUDGED, JUDGED.replace(".jpg", suffix)))
    run = trained.run
    for outcome in (
        trained.train("--config", trained.write_config({"data_loader.args.drop_last": False})),
        trained.test("--resume", run),
    ):
        outcome.check_success()
        assert outcome.err == ""
        if case in WARNINGS:
            assert "warning: 1 doubtful image:" in outcome.out
            assert WARNINGS[case] in outcome.out
        else:
            assert "doubtful" not in outcome.out
    assert len(trained.submissions) == 1


@pytest.mark.parametrize(
    "name",
    [
        "with spaces in it.jpg",
        "한국어 이름.jpg",
        "마스크😷.png",
        'a,comma \'and "quotes".jpg',
        "é" * 60 + ".jpg",
        ".hidden.jpg",
    ],
    ids=["54-spaces", "54-korean", "54-emoji", "54-comma-and-quotes", "54-long", "54-hidden"],
)
def test_any_name_is_judged_and_stands_in_the_submission(trained: Workplace, name: str) -> None:
    shutil.copy(trained.folder / JUDGED_IMAGE, trained.info_dir / "images" / name)
    with (trained.info_dir / "info.csv").open("a", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerow([name, 0])
    said = probabilities(trained)
    assert list(said) == [*EVALUATION_NAMES, name]
    np.testing.assert_array_equal(said[name], said[JUDGED])


def test_54_folders_of_any_name_train(workplace: Workplace) -> None:
    names = {person_folder(*PEOPLE[0]): "김 철수 😷", person_folder(*PEOPLE[1]): "é è"}
    for old, new in names.items():
        (workplace.train_root / "images" / old).rename(workplace.train_root / "images" / new)
        workplace.rewrite(workplace.train_root / "train.csv", replaced(old, new))
    outcome = workplace.train("--config", workplace.write_config())
    outcome.check_success()
    assert "42 images of 6 persons to train, 14 images of 2 persons" in outcome.out
