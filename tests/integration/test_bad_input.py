"""The seventy inputs of every day that are wrong, and those among them that only look so: what is refused is refused in
a line with the file, the key or the row, the remedy and the exit code; what is fine works with the right numbers.

Others of their kind are in the tests of configs, tables, images, checkpoints and command lines beside this one."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import signal
import unicodedata
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import train
from tests.harness.forked import run_forked
from tests.integration.workplace import (
    EVALUATION_NAMES,
    PEOPLE,
    TINY,
    Outcome,
    Workplace,
    person_folder,
    photograph,
    replaced,
)
from trainer.learner import Learner
from utils.checkpoint.checkpoint_file import read_checkpoint, write_checkpoint
from utils.images import decode_rgb, inspect_image, read_rgb

CANARY = "executed"
TEXT = json.dumps(TINY, indent=4)
TRAIN, INFO = "data/train/train.csv", "data/eval/info.csv"
FOLDER = person_folder(*PEOPLE[0])
IMAGE = f"data/train/images/{FOLDER}/mask1.jpg"
Arguments = Sequence[str | Path]


@dataclass(frozen=True)
class Input:
    """make: puts it there, and gives the command's arguments
    exit_code: with which it is refused
    lines: on stderr, each by fragments that it holds; the first begins the line, and the last is of the remedy
    place: the fixture that it is put in
    command: that meets it
    """

    make: Callable[[Workplace], Arguments]
    exit_code: int
    lines: tuple[tuple[str, ...], ...]
    place: str = "empty_workplace"
    command: str = "train"

    def run(self, workplace: Workplace) -> Outcome:
        outcome: Outcome = getattr(workplace, self.command)(*self.make(workplace))
        return outcome


def config(changes: dict[str, Any], *fragments: str, arguments: Arguments = ()) -> Input:
    """A config of which one line is wrong; the first fragment follows the file's name."""
    first, *others = fragments
    return Input(lambda place: ["-c", place.write_config(changes), *arguments], 2, ((f"tiny.json: {first}", *others),))


def text(content: str | bytes, *fragments: str) -> Input:
    """A config file with this content."""
    return Input(lambda place: ["-c", place.write("tiny.json", content)], 2, (fragments,))


def override(value: str, *fragments: str) -> Input:
    return Input(lambda place: ["-c", place.write_config(), "--set", value], 2, (fragments,))


def chained(place: Workplace) -> Arguments:
    place.write("tiny.json", '{"extends": "other.json"}')
    place.write("other.json", '{"extends": "tiny.json"}')
    return ["-c", "tiny.json"]


def changed_model(place: Workplace) -> Arguments:
    return ["--resume", place.run, "-c", place.write_config({"arch.args.width": 8})]


def steps(*entries: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"type": "Resize"}, *entries, {"type": "Normalize"}]


CONFIGS: dict[str, Input] = {
    "1-empty": text("", "tiny.json:1:1: ", "empty", "it must hold a JSON object"),
    "2-trailing-comma": text('{\n  "name": "a",\n}', "tiny.json:3:1: ", "remove it"),
    "2-unclosed": text('{"trainer": {"epochs": 3}', "tiny.json:1:26: ", "is not closed"),
    "3-latin-1": text(TEXT.replace("Tiny", "Tiné").encode("latin-1"), "tiny.json:3: is not UTF-8", "save the file as"),
    "4-duplicate-key": text('{"seed": 1, "seed": 2}', 'tiny.json: duplicate key "seed"', "keep one"),
    "5-NaN": text('{"trainer": {"epochs": NaN}}', "tiny.json: NaN is not a finite number"),
    "5-1e999": text('{"trainer": {"epochs": 1e999}}', "tiny.json: 1e999 is not a finite number"),
    "6-absurd-nesting": text('{"a":' * 20_000, "tiny.json: is nested more than 50 levels"),
    "7-unknown-key": config({"epochs": 3}, "epochs is not a known key", "(known: ", "trainer"),
    "8-number-as-text": config(
        {"data_loader.args.batch_size": "many"}, 'data_loader.args.batch_size = "many"', "number"
    ),
    "9-true-for-a-number": config({"trainer.epochs": True}, "trainer.epochs = true", "whole number"),
    "10-epochs-minus-one": config({"trainer.epochs": -1}, "trainer.epochs = -1 must be above 0"),
    "10-no-epochs": config({"trainer.epochs": 0}, "trainer.epochs = 0 must be above 0"),
    "11-batch-of-none": config({"data_loader.args.batch_size": 0}, "data_loader.args.batch_size = 0", "at least"),
    "12-monitor": config(
        {"trainer.monitor": "min val/lss"}, "trainer.monitor", "val/age_f1", 'did you mean "val/loss"?'
    ),
    "13-backbone": config(
        {"arch": {"type": "TimmModelMulti", "args": {"model_name": "efficentnet_b0"}}},
        "arch.args.model_name = efficentnet_b0 is not a timm model",
        "did you mean efficientnet_b0",
    ),
    "14-not-ours": config({"optimizer.type": "os.system"}, 'optimizer.type = "os.system" is not one of', "Adam"),
    "15-only-warned-of": config(
        {"transforms.train": steps({"type": "CoarseDropout", "args": {"max_holes": 8}})},
        "transforms.train",
        "args.max_holes",
        "num_holes_range",
    ),
    "16-credential": config(
        {"data_loader.args.password": "hunter2"}, "data_loader.args.password holds a credential", "WANDB_API_KEY"
    ),
    "17-save-dir": config({"trainer.save_dir": "/proc/saved"}, 'trainer.save_dir = "/proc/saved" cannot be written'),
    "18-loop": Input(chained, 2, (("other.json: extends", "loops: tiny.json -> other.json -> tiny.json"),)),
    "18-missing": text(
        '{"extends": "tinny.json"}', "tiny.json: extends", "there is no such file", 'did you mean "tiny.json"?'
    ),
    "19-too-few": config(
        {"loss.heads.mask.args.class_weights": [1, 2]},
        "loss.heads.mask.args.class_weights = [1, 2] has 2 entries",
        "3 classes (wear, incorrect, not_wear)",
    ),
    "19-negative": config(
        {"loss.heads.mask.args.class_weights": [1, -2, 1]}, "loss.heads.mask.args.class_weights", "-2"
    ),
    "20-falling": config({"labels.attributes.age.bins": [60, 30]}, "labels.attributes.age.bins", "must rise"),
    "20-no-map": config(
        {"labels.attributes.age.training_bins": [20, 35, 60]},
        "labels.attributes.age.training_bins",
        "do not map",
        "the edge 30",
        "add it",
    ),
    "21-no-loss": config({"loss.heads.mask": None}, "loss.heads has no loss for the head mask", "add one"),
    "21-no-head": config({"loss.heads.maks": {"type": "F1Loss"}}, "loss.heads.maks is a loss for no head", '"mask"?'),
    "22-input-size": config(
        {"arch": {"type": "TimmModelMulti", "args": {"model_name": "vit_tiny_patch16_224", "pretrained": False}}},
        "data_loader.args.input_size = 32 does not suit the model",
        "224",
    ),
    "23-no-peak": config({"lr_scheduler": {"type": "OneCycleLR"}}, "lr_scheduler.args.max_lr is missing"),
    "23-no-metric": config(
        {"lr_scheduler": {"type": "ReduceLROnPlateau"}}, "lr_scheduler.metric is missing", "val/loss"
    ),
    "24-unknown-key": override("trainer.epohcs=3", "--set trainer.epohcs=3: trainer.epohcs", 'did you mean "epochs"?'),
    "24-unparsable": override("trainer.epochs=[1,", "--set trainer.epochs=[1,: trainer.epochs", "number"),
    "24-no-equals-sign": override("trainer.epochs", "--set trainer.epochs: a.b.c=value is expected", "such as"),
    "25-another-model": Input(changed_model, 2, (("tiny.json: arch.args.width = 8", "4"), ("",)), "trained"),
}


def train_table(change: Callable[[str], str], *lines: tuple[str, ...]) -> Input:
    """train.csv after a change; the first fragment of each line follows its name."""

    def make(place: Workplace) -> Arguments:
        place.rewrite(place.train_root / "train.csv", change)
        return ["-c", place.write_config()]

    return Input(make, 3, tuple((f"{TRAIN}{first}", *others) for first, *others in lines), "workplace")


def table_bytes(encode: Callable[[str], bytes], *fragments: str) -> Input:
    def make(place: Workplace) -> Arguments:
        table = place.train_root / "train.csv"
        table.write_bytes(encode(table.read_text(encoding="utf-8")))
        return ["-c", place.write_config()]

    return Input(make, 3, ((f"{TRAIN} row {fragments[0]}", *fragments[1:]),), "workplace")


def evaluation_table(change: Callable[[str], str], *fragments: str) -> Input:
    def make(place: Workplace) -> Arguments:
        place.rewrite(place.info_dir / "info.csv", change)
        return ["--resume", place.run]

    return Input(make, 3, ((f"{INFO}{fragments[0]}", *fragments[1:]),), "trained", "test")


def link_out(place: Workplace) -> Arguments:
    shutil.move(place.photographs, place.folder / "elsewhere")
    place.photographs.symlink_to(place.folder / "elsewhere")
    return ["-c", place.write_config()]


def a_person_on_both_sides(place: Workplace) -> Arguments:
    rows = [
        f"images/{FOLDER}/{stem}.jpg,1,wear,male,20,{side}\n" for stem, side in (("mask1", "train"), ("mask2", "val"))
    ]
    place.write("data/train/labels.csv", f"path,person,mask,gender,age,side\n{''.join(rows)}")
    source = {"type": "AttributeTable", "args": {"path": "data/train/labels.csv", "split_column": "side"}}
    return ["-c", place.write_config({"data": [source], "split": {"type": "GivenSplit"}})]


def missing_images(place: Workplace) -> Arguments:
    for path in sorted((place.train_root / "images").rglob("normal.jpg")):
        path.unlink()
    (place.photographs / "mask1.jpg").unlink()
    rows = "".join(
        f"images/{person_folder(*person)}/normal.jpg,wear,male,{20 + at}\n" for at, person in enumerate(PEOPLE * 2)
    )
    rows = rows.replace("normal.jpg,wear,male,2", "gone.jpg,wear,male,2")
    place.write("data/train/labels.csv", f"path,mask,gender,age\n{rows}")
    return ["-c", place.write_config({"data": [{"type": "AttributeTable", "args": {"path": "data/train/labels.csv"}}]})]


def source(root: str) -> Callable[[Workplace], Arguments]:
    changes = {"data": [{"type": "CompetitionFolder", "args": {"root": root}}]}
    return lambda place: ["-c", place.write_config(changes)]


TABLES: dict[str, Input] = {
    "26-missing-column": train_table(replaced("gender,", "gendre,", 1), (": ", '"gender"', 'did you mean "gendre"?')),
    "27-no-rows": train_table(lambda content: content.splitlines()[0], (": has no rows under its header",)),
    "28-up": train_table(replaced(f",{FOLDER}", ",../../x"), (" row 2: ", '"../../x"', 'without ".."')),
    "28-absolute": train_table(replaced(f",{FOLDER}", ",/etc"), (" row 2: ", '"/etc"', "relative to the folder")),
    "28-link": Input(link_out, 3, ((f"{TRAIN} row 2: ", "link that leads out", "allow_links"),), "workplace"),
    "29-missing-images": Input(
        missing_images,
        3,
        (
            *((f"data/train/labels.csv row {row}: ", "gone.jpg", "is missing in") for row in range(2, 12)),
            ("... and 6 more",),
        ),
        "workplace",
    ),
    "30-duplicate-path": train_table(
        lambda content: content + content.splitlines()[1] + "\n", (" row 10: ", f'"{FOLDER}"', "row 2")
    ),
    "31-letters": train_table(replaced(",20,", ",abc,"), (" row 2: ", "age = 'abc'", "0 to 120")),
    "31-negative": train_table(replaced(",20,", ",-1,"), (" row 2: ", "age = '-1'", "0 to 120")),
    "31-too-old": train_table(replaced(",20,", ",300,"), (" row 2: ", "age = '300'", "0 to 120")),
    "32-gender": train_table(replaced("1,male", "1,mael"), (" row 2: ", "gender = 'mael'", "male, female")),
    "33-utf-16": table_bytes(lambda content: content.encode("utf-16"), "1: is not UTF-8", "save it as UTF-8"),
    "33-cp949": table_bytes(
        lambda content: content.replace("Asian", "한국", 1).encode("cp949"), "2: is not UTF-8", "save it"
    ),
    "34-NUL": table_bytes(
        lambda content: content.replace("male", "ma\0le", 1).encode(), "2: holds a NUL byte", "save it"
    ),
    "35-formula": evaluation_table(
        replaced(EVALUATION_NAMES[0], "=1+1.jpg"), " row 2: ", '"=1+1.jpg"', "rename the image"
    ),
    "36-both-sides": Input(
        a_person_on_both_sides,
        3,
        (("data/train/labels.csv row 3: ", '"1" is in validation', "row 2", "split_column"),),
        "workplace",
    ),
    "38-less-than-a-batch": Input(
        lambda place: ["-c", place.write_config({"data_loader.args.batch_size": 64})],
        3,
        (("", "batch_size = 64 needs 64 training images", "42 or less", "drop_last"),),
        "workplace",
    ),
    "39-none": Input(
        source("data/gone"),
        3,
        (("data/gone: there is no such folder", "train.csv and images/", "set data.0"),),
        "workplace",
    ),
    "39-wrong": Input(
        source("data"), 3, (("data: it holds eval, train", "expected train.csv and images/"),), "workplace"
    ),
    "40-an-id-twice": evaluation_table(lambda content: f"{content}{EVALUATION_NAMES[0]},0\n", " row 8: ", "row 2"),
    "40-other-columns": evaluation_table(replaced("ans", "answer"), ": ", 'no column "ans"', '"answer"'),
}


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


PHOTOGRAPH = Image.fromarray(photograph(77))
JPEG, PNG = encoded(PHOTOGRAPH, "JPEG"), encoded(PHOTOGRAPH, "PNG")


def huge(side: int) -> bytes:
    """A PNG whose header says so."""
    import struct
    import zlib

    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return PNG[:12] + header + struct.pack(">I", zlib.crc32(header)) + PNG[33:]


def progressive(scans: int) -> bytes:
    """A JPEG whose last scan is there again and again: each takes the time of the whole picture."""
    data = encoded(PHOTOGRAPH, "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * scans + b"\xff\xd9"


def image(data: bytes, *fragments: str) -> Input:
    def make(place: Workplace) -> Arguments:
        place.write(IMAGE, data)
        return ["-c", place.write_config()]

    lines = (("1 image cannot be read:",), (f"  {IMAGE}: ", *fragments), ("repair them, or leave them out", '"skip"'))
    return Input(make, 3, lines, "workplace")


IMAGES: dict[str, Input] = {
    "41-zero-bytes": image(b"", "is empty"),
    "42-html": image(b"<!DOCTYPE html><html>", "HTML"),
    "43-truncated-jpeg": image(JPEG[: len(JPEG) // 2], "damaged JPEG"),
    "44-broken-png": image(PNG[:60] + b"\0\0\0\0" + PNG[64:], "damaged PNG"),
    "45-20k-by-20k": image(huge(20_000), "has 20000 x 20000 pixels", "shrink it"),
    "45-a-thousand-scans": image(progressive(1000), "is a JPEG of 10", "scans", "save it anew"),
    "52-gif": image(encoded(PHOTOGRAPH, "GIF"), "GIF"),
    "52-svg": image(b'<svg xmlns="http://www.w3.org/2000/svg"/>', "is no JPEG, PNG, WEBP or BMP", "convert it"),
    "52-pdf": image(b"%PDF-1.7\n", "PDF"),
    "52-eps": image(b"%!PS-Adobe-3.0 EPSF-3.0\n", "is no JPEG, PNG, WEBP or BMP", "convert it"),
}


class Hostile:
    """Unpickled with full trust, it makes a folder in the working directory."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (CANARY,)


def checkpoint(spoil: Callable[[Path], object], *fragments: str) -> Input:
    def make(place: Workplace) -> Arguments:
        path = place.folder / place.run / "last.pth"
        data = path.read_bytes()
        path.unlink()  # it is one file under several names
        path.write_bytes(data)
        spoil(path)
        return ["--resume", place.run / "last.pth"]

    return Input(make, 4, (("saved/models/Tiny/", "last.pth: ", *fragments),), "trained", "test")


def content(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], object]:
    """With a right checksum."""

    def spoil(path: Path) -> None:
        found = read_checkpoint(path)
        change(found)
        write_checkpoint(path, found)

    return spoil


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


def torchscript(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), str(path))


def other_classes(found: dict[str, Any]) -> None:
    for name in ("weight", "bias"):
        tensor = found["model"][f"heads.head_age.{name}"]
        found["model"][f"heads.head_age.{name}"] = torch.cat([tensor, tensor])


def nan_weights(found: dict[str, Any]) -> None:
    found["model"]["heads.head_mask.bias"] *= float("nan")


NOTHING_RUN, EARLIER = "nothing was executed", "use an earlier checkpoint"
CHECKPOINTS: dict[str, Input] = {
    "55-truncated": checkpoint(lambda path: path.write_bytes(path.read_bytes()[:-900]), "truncated", EARLIER),
    "56-flipped-bit": checkpoint(flipped, "damaged", EARLIER),
    "57-empty": checkpoint(lambda path: path.write_bytes(b""), "is empty", EARLIER),
    "58-hostile": checkpoint(
        lambda path: torch.save({"model": Hostile()}, path), "posix.mkdir", NOTHING_RUN, "do not use it"
    ),
    "58-raw-pickle": checkpoint(lambda path: path.write_bytes(pickle.dumps(Hostile())), "posix.mkdir", NOTHING_RUN),
    "59-torchscript": checkpoint(torchscript, "TorchScript", NOTHING_RUN, "save the model's state_dict"),
    "60-whole-module": checkpoint(
        lambda path: torch.save(nn.Linear(2, 2), path), "nn.Module", NOTHING_RUN, "state_dict"
    ),
    "62-other-classes": checkpoint(content(other_classes), "heads.head_age.weight", "(6, 32)", "(3, 32)"),
    "63-nan": checkpoint(content(nan_weights), "heads.head_mask.bias", "finite", EARLIER),
    "65-newer-format": checkpoint(content(lambda found: found.update(version=99)), "99", "update the program"),
    "66-a-template's": checkpoint(
        lambda path: torch.save({"arch": "Net", "epoch": 3, "state_dict": {}}, path),
        "pytorch-template",
        "python -m scripts.import_checkpoint",
    ),
}

COMMAND_LINES: dict[str, Input] = {
    "67-resume-of-nothing": Input(lambda _: ["--resume", "gone"], 4, (("gone: there is no such run folder",),)),
    "67-test-of-nothing": Input(
        lambda _: ["--resume", "gone"], 4, (("gone: there is no such run folder",),), command="test"
    ),
    "68-no-cuda": Input(
        lambda place: ["-c", place.write_config(), "--device", "cuda"],
        2,
        (("--device cuda: there is no CUDA device", "use --device cpu"),),
    ),
    "69-unknown-flag": Input(
        lambda _: ["--confg", "tiny.json"], 2, (("", "--confg is not a known flag", 'did you mean "--config"?'),)
    ),
}


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(given, id=case)
        for kind in (CONFIGS, TABLES, IMAGES, CHECKPOINTS, COMMAND_LINES)
        for case, given in kind.items()
    ],
)
def test_what_is_wrong_is_refused(
    given: Input, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    place: Workplace = request.getfixturevalue(given.place)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    runs = place.runs
    given.run(place).check_refusal(given.exit_code, *given.lines)
    assert place.runs == runs
    assert place.submissions == []
    assert not (place.folder / CANARY).exists()


def of_another_encoding(change: Callable[[str], str]) -> Callable[[Workplace], None]:
    def check(place: Workplace) -> None:
        place.write("tiny.json", change(TEXT))
        outcome = place.train("-c", "tiny.json", "--print-config")
        outcome.check_success()
        assert json.loads(outcome.out)["name"] == "Tiny"

    return check


def a_class_is_absent(place: Workplace) -> None:
    """From a fold; the run says so, and trains."""
    for path in (place.train_root / "images").rglob("normal.jpg"):
        path.unlink()
    changes = {"data": [{"type": "CompetitionFolder", "args": {"root": "data/train", "on_missing": "skip"}}]}
    outcome = place.train("-c", place.write_config(changes), "--dry-run")
    outcome.check_success()
    assert any(line.startswith("warning: ") and "not_wear" in line for line in outcome.out.splitlines())


def picture(
    data: bytes, expected: np.ndarray, tolerance: int = 0, warning: str | None = None
) -> Callable[[Workplace], None]:
    """Training, the check and the page see these pixels. expected: (H, W, 3)"""

    def check(place: Workplace) -> None:
        path = place.folder / place.write("a picture.jpg", data)
        finding = inspect_image(path)
        assert finding.problem is None
        assert warning is None or warning in str(finding.warning)
        for found in (read_rgb(path), decode_rgb(data, "upload")):
            assert found.shape == expected.shape
            assert np.abs(found.astype(int) - expected.astype(int)).max() <= tolerance

    return check


def any_name(place: Workplace) -> None:
    """Also where the table composes its letters otherwise than the disk."""
    name = "김 철수 é 😷"
    (place.train_root / "images" / FOLDER).rename(place.train_root / "images" / unicodedata.normalize("NFC", name))
    place.rewrite(place.train_root / "train.csv", replaced(FOLDER, unicodedata.normalize("NFD", name)))
    place.train("-c", place.write_config(), "--dry-run").check_success()


def predictions(place: Workplace) -> bytes:
    place.test("--resume", place.run / "last.pth", "--output", "answers.csv").check_success()
    return (place.folder / "answers.csv").read_bytes()


def weights_as(
    change: Callable[[str, torch.Tensor], tuple[str, torch.Tensor]], warning: str
) -> Callable[[Workplace], None]:
    def check(place: Workplace) -> None:
        expected, path = predictions(place), place.folder / place.run / "last.pth"
        found = read_checkpoint(path)
        found["model"] = dict(change(name, tensor) for name, tensor in found["model"].items())
        path.unlink()
        write_checkpoint(path, found)
        assert predictions(place) == expected
        outcome = place.test("--resume", place.run / "last.pth", "--output", "answers.csv")
        assert warning in outcome.out

    return check


def ctrl_c_twice(place: Workplace) -> None:
    """The second leaves at once, before all is saved that the first asks for."""

    def press_twice() -> None:
        update = Learner.update

        def update_and_press(learner: Learner, *arguments: Any) -> bool:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            return update(learner, *arguments)

        setattr(Learner, "update", update_and_press)  # noqa: B010 - mypy

    code, _ = run_forked(train.main, ["-c", str(place.write_config())], place.folder, plant=press_twice)
    assert code in (130, -signal.SIGINT)
    assert "Traceback" not in (place.folder / "output.txt").read_text()


PIXELS = np.asarray(PHOTOGRAPH)
SMOOTH = Image.fromarray(np.dstack([np.full((32, 32), level, np.uint8) for level in (200, 120, 40)]))
GREY, ALPHA = PIXELS[..., 0], PIXELS[..., 1]
SIXTEEN = np.random.default_rng(5).integers(0, 65536, GREY.shape).astype(np.uint16)
ORIENTATION = Image.Exif()
ORIENTATION[0x0112] = 6
TRANSPARENT = PHOTOGRAPH.copy()
TRANSPARENT.putalpha(Image.fromarray(ALPHA))
PALETTE = Image.fromarray((GREY > 127).astype(np.uint8)).convert("P")
PALETTE.putpalette([10, 20, 30, 40, 50, 60])


def over_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return np.rint(colours * share + 255 * (1 - share))


def thrice(values: np.ndarray) -> np.ndarray:
    return np.dstack([values] * 3)


FINE: dict[str, tuple[str, Callable[[Workplace], None]]] = {
    "3-byte-order-mark": ("empty_workplace", of_another_encoding(lambda content: f"\ufeff{content}")),
    "3-comments": (
        "empty_workplace",
        of_another_encoding(lambda content: f"// one\n{content.replace('0,', '0, /* two */', 1)}// three"),
    ),
    "37-class-absent": ("workplace", a_class_is_absent),
    "46-16-bit": ("empty_workplace", picture(encoded(Image.fromarray(SIXTEEN), "PNG"), thrice(np.rint(SIXTEEN / 257)))),
    "47-cmyk": (
        "empty_workplace",
        picture(encoded(SMOOTH.convert("CMYK"), "JPEG", quality=100), np.asarray(SMOOTH), 4),
    ),
    "48-rgba": ("empty_workplace", picture(encoded(TRANSPARENT, "PNG"), over_white(PIXELS, ALPHA), 1)),
    "48-palette": (
        "empty_workplace",
        picture(encoded(PALETTE, "PNG", transparency=1), np.where(GREY[..., None] > 127, 255, [10, 20, 30])),
    ),
    "49-grey": ("empty_workplace", picture(encoded(Image.fromarray(GREY), "PNG"), thrice(GREY))),
    "49-1-bit": ("empty_workplace", picture(encoded(Image.fromarray(GREY > 127), "PNG"), thrice((GREY > 127) * 255))),
    "50-exif-rotation": (
        "empty_workplace",
        picture(encoded(PHOTOGRAPH, "PNG", exif=ORIENTATION), np.rot90(PIXELS, -1)),
    ),
    "51-1-by-30000": (
        "empty_workplace",
        picture(
            encoded(Image.fromarray(np.tile(PIXELS[:1], (1, 1000, 1))), "PNG"),
            np.tile(PIXELS[:1], (1, 1000, 1)),
            0,
            "30000 x 1 pixels",
        ),
    ),
    "51-1-by-1": (
        "empty_workplace",
        picture(encoded(Image.fromarray(PIXELS[:1, :1]), "PNG"), PIXELS[:1, :1], 0, "only 1 x 1"),
    ),
    "53-png-named-jpg": ("empty_workplace", picture(PNG, PIXELS, 0, "PNG file named .jpg")),
    "54-any-name": ("workplace", any_name),
    "61-module-prefix": ("trained", weights_as(lambda name, tensor: (f"module.{name}", tensor), "")),
    "64-half-precision": (
        "trained",
        weights_as(
            lambda name, tensor: (name, tensor.half() if tensor.is_floating_point() else tensor), "half-precision"
        ),
    ),
    "70-ctrl-c-twice": ("workplace", ctrl_c_twice),
}


@pytest.mark.parametrize("case", FINE)
def test_what_only_looks_wrong_works(case: str, request: pytest.FixtureRequest) -> None:
    fixture, check = FINE[case]
    check(request.getfixturevalue(fixture))


def test_none_of_the_seventy_is_left_out() -> None:
    cases = [*CONFIGS, *TABLES, *IMAGES, *CHECKPOINTS, *COMMAND_LINES, *FINE]
    assert {int(case.partition("-")[0]) for case in cases} == set(range(1, 71))
