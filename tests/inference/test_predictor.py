"""One preprocessing and one model, however they are asked: the numbers are the same."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from base.label_space import LabelSpace
from base.preprocessing import Preprocessing
from data_loader.loaders import evaluation_loader
from data_loader.records import Record
from inference.predictor import Predictor, find_checkpoint
from model.architectures import BaselineCNN
from utils.checkpoint_file import write_checkpoint
from utils.errors import CheckpointError, StopSignal
from utils.image_decoding import read_rgb
from utils.random_streams import numpy_stream
from utils.stop_signals import StopSignals

LABELS = LabelSpace({"mask": {"classes": ["on", "off"]}, "age": {"bins": [30, 60], "training_bins": [20, 30, 60]}})
PREPROCESSING = Preprocessing(
    (24, 20), (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), [{"type": "Resize", "args": {"height": 24, "width": 20}}]
)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    model = BaselineCNN({name: head.num_classes for name, head in LABELS.heads.items()}, width=4)
    content = {
        "model": model.state_dict(),
        "config": {"name": "Test", "arch": {"type": "BaselineCNN", "args": {"width": 4}}},
        "labels": LABELS.to_config(),
        "preprocessing": PREPROCESSING.to_config(),
        "run_name": "run",
        "completed_epochs": 3,
    }
    write_checkpoint(tmp_path / "run" / "model_best.pth", content)
    return tmp_path / "run" / "model_best.pth"


@pytest.fixture
def records(tmp_path: Path) -> list[Record]:
    stream = numpy_stream(1, "images")
    found = []
    for number in range(7):
        path = tmp_path / f"{number}.png"
        Image.fromarray(stream.integers(0, 256, (40 + number, 30, 3)).astype("uint8")).save(path)
        found.append(Record(path, path.name, path.name, {}, "test"))
    return found


def test_batch_sizes_workers_and_single_images_agree(checkpoint: Path, records: list[Record]) -> None:
    predictor = Predictor.from_checkpoint(checkpoint)
    expected = predictor.probabilities(evaluation_loader(records, PREPROCESSING, LABELS, 7))
    assert expected.indices.tolist() == list(range(7))
    for batch_size, workers in ((1, 0), (3, 0), (2, 2)):
        found = predictor.probabilities(evaluation_loader(records, PREPROCESSING, LABELS, batch_size, workers))
        for head, probabilities in expected.by_head.items():
            torch.testing.assert_close(found.by_head[head], probabilities)
    by_attribute = LABELS.attribute_probabilities(expected.by_head)
    for number, record in enumerate(records):
        single = predictor.predict_image(read_rgb(record.path))
        for name, classes in single.items():
            assert list(classes) == list(LABELS.attributes[name].class_names)
            assert list(classes.values()) == pytest.approx(by_attribute[name][number].tolist(), abs=1e-6)


def test_the_probabilities_are_the_models_on_the_preprocessed_image(checkpoint: Path, records: list[Record]) -> None:
    """Re-derived with Pillow's pixels, albumentations' own Resize and Normalize, and plain torch."""
    import albumentations

    predictor = Predictor.from_checkpoint(checkpoint)
    compose = albumentations.Compose(
        [albumentations.Resize(24, 20), albumentations.Normalize(PREPROCESSING.mean, PREPROCESSING.std)]
    )
    found = predictor.probabilities(evaluation_loader(records, PREPROCESSING, LABELS, 4))
    for number, record in enumerate(records):
        pixels = compose(image=np.asarray(Image.open(record.path)))["image"]
        with torch.no_grad():
            logits = predictor.model(torch.from_numpy(pixels).permute(2, 0, 1)[None])
        for head, output in logits.items():
            torch.testing.assert_close(found.by_head[head][number], output.softmax(1)[0], rtol=1e-4, atol=1e-5)


def test_a_stop_is_answered_between_two_batches(checkpoint: Path, records: list[Record]) -> None:
    stop = StopSignals()
    stop.request(signal.SIGTERM)
    with pytest.raises(StopSignal):
        Predictor.from_checkpoint(checkpoint).probabilities(evaluation_loader(records, PREPROCESSING, LABELS, 2), stop)


def test_checkpoints_are_found_by_name(checkpoint: Path) -> None:
    folder = checkpoint.parent
    assert find_checkpoint(checkpoint, "last") == checkpoint
    assert find_checkpoint(folder) == checkpoint
    (folder / "best_f1.pth").write_bytes(b"")
    assert find_checkpoint(folder, "best_f1") == find_checkpoint(folder, "best_f1.pth") == folder / "best_f1.pth"
    with pytest.raises(CheckpointError, match=r"has no checkpoint 'best_f2'; it has best_f1, model_best"):
        find_checkpoint(folder, "best_f2")
    checkpoint.rename(folder / "last.pth")
    assert find_checkpoint(folder) == folder / "last.pth"
    (folder / "empty").mkdir()
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        find_checkpoint(folder / "empty")
    with pytest.raises(CheckpointError, match="no such run folder or checkpoint"):
        find_checkpoint(folder / "none")
