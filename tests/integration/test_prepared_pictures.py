"""Pictures prepared once: the same for training, validation, test, page and predictions; and what is refused."""

from __future__ import annotations

import csv
import shutil
import sys
from pathlib import Path
from typing import Any

import albumentations
import pytest
import torch

from data_loader.preparation import BackgroundRemoval, FaceCrop
from data_loader.preparation.person_masks import OnnxMask
from data_loader.preparation.preparation import Preparation
from data_loader.records import Record
from inference.predictor import Predictor, find_checkpoint
from scripts import predict
from tests.data_loader.preparation.tiny_networks import red_mask_network
from tests.integration.drawn_road import assert_same_weights
from tests.integration.workplace import Workplace
from utils.images import read_rgb

MASK = {"backend": "onnx", "weights_file": "mask.onnx", "input_size": [16, 16], "fill": [9, 0, 200], "min_share": 0.02}
STEPS: list[dict[str, Any]] = [
    {"type": "BackgroundRemoval", "args": MASK},
    {"type": "FaceCrop", "args": {"detector": "haar", "fallback_share": 0.6}},
]
CHANGES = {"preparation": STEPS, "trainer.epochs": 2, "data_loader.args.num_workers": 1}


@pytest.fixture
def prepared(workplace: Workplace) -> Workplace:
    """A folder with a network, which finds a person in half of the photographs, and a config that names it."""
    workplace.write("mask.onnx", red_mask_network(16, 16))
    workplace.write_config(CHANGES)
    return workplace


def test_the_picture_is_the_same_everywhere(prepared: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the steps called by hand; a second run and its answers need no network, nor do workers."""
    trained = prepared.train("-c", "tiny.json", "--run-id", "first")
    trained.check_success()
    counted = [line for line in trained.out.splitlines() if "preparation: " in line]
    assert any("FaceCrop: no face was found, the centre was cropped: " in line for line in counted)
    without, *_ = [line for line in counted if "BackgroundRemoval: no person was found" in line]
    assert 5 < int(without.rpartition(" of 56 pictures")[0].rpartition(" ")[2]) < 51
    (kept,) = (prepared.save_dir / "preparation").iterdir()
    assert len(list(kept.rglob("*.npz"))) == 56

    predictor = Predictor.from_checkpoint(find_checkpoint(prepared.run))
    settings: Any = {**MASK, "weights_file": Path("mask.onnx"), "input_size": (16, 16), "fill": (9, 0, 200)}
    by_hand = Preparation([BackgroundRemoval(**settings), FaceCrop(detector="haar", fallback_share=0.6)])
    compose = albumentations.Compose([albumentations.Resize(32, 32), albumentations.Normalize((0.5,) * 3, (0.5,) * 3)])
    files = sorted(prepared.info_dir.glob("images/*.jpg"))
    expected = []
    for path in files:
        image, _ = by_hand(read_rgb(path))
        batch = torch.from_numpy(compose(image=image)["image"]).permute(2, 0, 1)[None]
        with torch.no_grad():
            expected.append({head: logits.softmax(1)[0] for head, logits in predictor.model(batch).items()})

    def refuse(_: OnnxMask) -> None:
        raise AssertionError("no network is needed: all is kept")

    by_head = predictor.predict([Record(path, path.name, path.name, {}, "") for path in files]).by_head
    for number, path in enumerate(files):
        single = predictor.predict_pixels(read_rgb(path)).by_head
        for head, probabilities in expected[number].items():
            torch.testing.assert_close(by_head[head][number], probabilities, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(single[head][0], probabilities, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(OnnxMask, "_load", refuse)
    prepared.test("--resume", prepared.run, "--output", "a.csv", "--probabilities", "--tta", "flip").check_success()
    prepared.test("--resume", prepared.run, "--output", "b.csv", "--probabilities").check_success()
    prepared._run(predict.main, [prepared.run, "data/eval", "--output", "c.csv"]).check_success()
    rows = {name: _rows(prepared.folder / name) for name in ("b_probabilities.csv", "c.csv")}
    assert rows["b_probabilities.csv"] == rows["c.csv"]
    for path in files:
        found = predictor.predict_pixels(read_rgb(path)).by_attribute["gender"][0, 0]
        assert float(rows["c.csv"][path.name]["gender male"]) == pytest.approx(float(found), abs=1e-5)
    again = prepared.train("-c", "tiny.json", "--run-id", "second", "--set", "data_loader.args.cache=disk")
    again.check_success()
    assert_same_weights(*prepared.runs)


def _rows(file: Path) -> dict[str, dict[str, str]]:
    return {Path(row.pop("ImageID")).name: row for row in csv.DictReader(file.open())}


def test_a_run_that_is_resumed_ends_as_one_that_was_not(prepared: Workplace) -> None:
    prepared.train("-c", "tiny.json", "--run-id", "whole").check_success()
    prepared.train("-c", "tiny.json", "--run-id", "parts", "--set", "trainer.epochs=1").check_success()
    parts, whole = prepared.runs
    moved = Path("elsewhere") / "mask.onnx"
    moved.parent.mkdir()
    Path("mask.onnx").rename(moved)
    shutil.rmtree(prepared.save_dir / "preparation")
    words = ["--resume", str(parts), "--set", "trainer.epochs=2", "--set", f"preparation.0.args.weights_file={moved}"]
    refused = prepared.train(*words, "--set", "preparation.1.args.margin=0.5")
    refused.check_refusal(2, ("--set", "preparation.1.args.margin = 0.5"), "resume without")
    prepared.train(*words).check_success()
    assert_same_weights(whole, parts)


def test_another_network_is_refused_and_a_missing_one_named(prepared: Workplace) -> None:
    prepared.train("-c", "tiny.json", "--set", "trainer.epochs=1").check_success()
    network = Path("mask.onnx")
    copy = network.read_bytes()
    network.write_bytes(red_mask_network(16, 32))
    file = str(prepared.run / "model_best.pth")
    wrong = ("mask.onnx is not the network that the model was trained with", "put that one there")
    prepared.test("--resume", prepared.run).check_refusal(4, (f"{file}: preparation.0 ", *wrong))
    resumed = prepared.train("--resume", prepared.run, "--set", "trainer.epochs=2")
    resumed.check_refusal(4, (f"{prepared.run}/last.pth: preparation.0 ", *wrong))
    network.unlink()
    missing = (f"{file}: preparation.0.args.weights_file = ", "mask.onnx is not a file", "beside model_best.pth")
    prepared.test("--resume", prepared.run).check_refusal(2, missing)
    prepared.write(f"{prepared.run}/mask.onnx", copy)
    prepared.test("--resume", prepared.run).check_success()


@pytest.mark.parametrize(
    ("step", "fragments"),
    [
        ({"type": "FaceCrop"}, ("detector", "pip install --no-deps facenet-pytorch")),
        ({"type": "BackgroundRemoval", "args": {"backend": "rembg"}}, ("backend", 'pip install "rembg[cpu]"')),
        ({"type": "BackgroundRemoval", "args": {"backend": "selfie"}}, ("weights_file", "selfie_segmentation.tflite")),
        (
            {"type": "FaceCrop", "args": {"detector": "yunet", "weights_file": "x"}},
            ("weights_file", "= x is not a file"),
        ),
        ({"type": "FaceCrops"}, ("type", "FaceCrop")),
    ],
)
def test_what_is_missing_is_one_line(
    workplace: Workplace, step: dict[str, Any], fragments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("facenet_pytorch", "rembg"):
        monkeypatch.setitem(sys.modules, name, None)
    config = workplace.write_config({"preparation": [step]})
    workplace.train_and_change_nothing("-c", config).check_refusal(2, (f"{config}:", "preparation.0.", *fragments))


def test_a_file_that_is_no_network_is_one_line(prepared: Workplace) -> None:
    Path("mask.onnx").write_bytes(b"x")
    prepared.train("-c", "tiny.json").check_refusal(
        2, ("weights_file = mask.onnx is not an ONNX network", "set it to an ONNX file")
    )
    assert not prepared.runs
