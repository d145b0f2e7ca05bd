"""One preprocessing and one model, however they are asked: the numbers are the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import albumentations
import numpy as np
import pytest
import torch
from PIL import Image

from base.label_space import LabelSpace
from data_loader import datasets
from data_loader.records.records import Record
from inference.predictor import Predictor, find_checkpoint, predict
from tests.inference.conftest import MakeCheckpoint, joint_of
from utils.errors import CheckpointError
from utils.images.decoding import read_rgb

LABELS = LabelSpace({"mask": {"classes": ["on", "off"]}, "age": {"bins": [30, 60], "training_bins": [20, 30, 60]}})
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
FLIP = {"type": "HorizontalFlip", "args": {"p": 1}}


@pytest.fixture
def checkpoint(make_checkpoint: MakeCheckpoint) -> Path:
    return make_checkpoint(LABELS)


def by_hand(predictor: Predictor, pixels: np.ndarray) -> dict[str, torch.Tensor]:
    """Albumentations' own Resize and Normalize, and plain torch: the probabilities of one image by head."""
    compose = albumentations.Compose([albumentations.Resize(24, 20), albumentations.Normalize(MEAN, STD)])
    image = torch.from_numpy(compose(image=pixels)["image"]).permute(2, 0, 1)[None]
    with torch.no_grad():
        return {head: logits.softmax(1)[0] for head, logits in predictor.model(image).items()}


def test_batch_sizes_workers_and_single_images_agree(checkpoint: Path, records: list[Record]) -> None:
    predictor = Predictor.from_checkpoint(checkpoint)
    expected = predictor.predict(records)
    assert len(joint_of(expected)) == 7
    for batch_size, workers in ((1, 0), (3, 0), (2, 2)):
        (found,) = predict([predictor], records, batch_size, workers)
        torch.testing.assert_close(joint_of(found), joint_of(expected))
        for head, probabilities in expected.by_head.items():
            torch.testing.assert_close(found.by_head[head], probabilities)
    for number, record in enumerate(records):
        single = predictor.predict_image(read_rgb(record.path))
        for name, classes in single.items():
            assert list(classes) == list(LABELS.attributes[name].class_names)
            assert list(classes.values()) == pytest.approx(expected.by_attribute[name][number].tolist(), abs=1e-6)


def test_the_probabilities_are_the_models_on_the_preprocessed_image(checkpoint: Path, records: list[Record]) -> None:
    """Re-derived with Pillow's pixels; the training bins are summed to the scored ones."""
    predictor = Predictor.from_checkpoint(checkpoint)
    found = predictor.predict(records)
    for number, record in enumerate(records):
        expected = by_hand(predictor, np.asarray(Image.open(record.path)))
        for head, probabilities in expected.items():
            torch.testing.assert_close(found.by_head[head][number], probabilities, rtol=1e-3, atol=1e-4)
        age = torch.stack([expected["age"][:2].sum(), expected["age"][2], expected["age"][3]])
        torch.testing.assert_close(found.by_attribute["age"][number], age, rtol=1e-3, atol=1e-4)
        joint = torch.outer(expected["mask"], age).flatten()
        torch.testing.assert_close(joint_of(found)[number], joint, rtol=1e-3, atol=1e-4)


def test_several_models_share_one_decoding(
    make_checkpoint: MakeCheckpoint, records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of other sizes, normalisation and TTA: each predicts what it predicts alone."""
    paths = [
        make_checkpoint(LABELS),
        make_checkpoint(LABELS, 2, (16, 32), (0.1, 0.1, 0.1), "b.pth"),
        make_checkpoint(LABELS, 3, name="c.pth", config={"views": {"plain": [], "flip": [FLIP]}}),
    ]
    predictors = [Predictor.from_checkpoint(path) for path in paths]
    alone = [predictor.predict(records) for predictor in predictors]
    decoded: list[Path] = []

    def spy(path: Path, bits: Any = 16) -> np.ndarray:
        decoded.append(path)
        return read_rgb(path, bits)

    monkeypatch.setattr(datasets, "read_rgb", spy)
    together = predict(predictors, records, batch_size=3, num_workers=0)
    assert decoded == [record.path for record in records]
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(joint_of(one), joint_of(other))
    assert not torch.allclose(joint_of(together[0]), joint_of(together[1]), atol=0.05)


def test_the_views_probabilities_are_averaged(make_checkpoint: MakeCheckpoint, records: list[Record]) -> None:
    """The joint of each view is averaged: the heads' mean alone would lose their dependence."""
    path = make_checkpoint(LABELS, config={"views": {"flip": [FLIP], "plain": []}})
    plain, views = Predictor.from_checkpoint(path, tta={"plain": []}), Predictor.from_checkpoint(path)
    found = views.predict(records)
    for number, record in enumerate(records):
        pixels = np.asarray(Image.open(record.path))
        both = [by_hand(plain, pixels), by_hand(plain, pixels[:, ::-1].copy())]
        joints = []
        for one in both:
            age = torch.stack([one["age"][:2].sum(), one["age"][2], one["age"][3]])
            joints.append(torch.outer(one["mask"], age).flatten())
        torch.testing.assert_close(joint_of(found)[number], sum(joints) / 2, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(
            found.by_head["mask"][number], (both[0]["mask"] + both[1]["mask"]) / 2, rtol=1e-3, atol=1e-4
        )
    assert not torch.allclose(joint_of(found), joint_of(plain.predict(records)), atol=1e-3)


def test_checkpoints_are_found_by_name(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = checkpoint.parent
    assert find_checkpoint(checkpoint, "last") == checkpoint
    assert find_checkpoint(folder) == checkpoint
    (folder / "best_f1.pth").write_bytes(b"")
    assert find_checkpoint(folder, "best_f1") == find_checkpoint(folder, "best_f1.pth") == folder / "best_f1.pth"
    for monitor, warned in (("max val/f1", True), ("off", False)):
        run = folder / monitor.replace("/", "_")
        run.mkdir()
        (run / "last.pth").write_bytes(b"")
        (run / "config.json").write_text(json.dumps({"trainer": {"monitor": monitor}}))
        caplog.clear()
        assert find_checkpoint(run) == run / "last.pth"
        assert bool(caplog.records) == warned
    with pytest.raises(CheckpointError, match=r"has no checkpoint 'best_f2'; it has best_f1, model_best"):
        find_checkpoint(folder, "best_f2")
