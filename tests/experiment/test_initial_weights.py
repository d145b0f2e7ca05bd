"""A new run begins with an earlier run's weights: its backbone, and its heads where they are of the same classes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from base.label_space import LabelSpace
from experiment.initial_weights import load_initial_weights
from model.model import BaselineCNN, TimmModelMulti
from utils.checkpoint import write_checkpoint
from utils.errors import CheckpointError

MASK: Any = {"classes": ["wear", "incorrect", "not_wear"]}
GENDER: Any = {"classes": ["male", "female"]}
EARLIER: Any = {"mask": MASK, "gender": GENDER, "age": {"bins": [30, 60]}}
CONFIG = {"data": [{"type": "MaskFolders", "args": {"root": "photos"}}], "split": {"type": "PersonSplit"}, "seed": 42}


def save_run(folder: Path, model: Any, **others: Any) -> dict[str, torch.Tensor]:
    """A checkpoint of a run whose weights are those of `model`."""
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    content = {"model": state, "labels": LabelSpace(EARLIER).to_config(), "config": CONFIG, **others}
    write_checkpoint(folder / "model_best.pth", content)
    return state


def test_the_backbone_and_the_heads_of_the_same_classes_are_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    state = save_run(tmp_path, TimmModelMulti({"mask": 3, "gender": 2, "age": 3}, "test_resnet"))
    labels = LabelSpace({"mask": MASK, "gender": {"classes": ["female", "male"]}, "hat": {"classes": ["no", "yes"]}})
    model = TimmModelMulti(labels.num_classes, "test_resnet")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    load_initial_weights(model, labels, tmp_path, CONFIG)
    for name, tensor in model.state_dict().items():
        is_new = name.startswith(("heads.head_gender", "heads.head_hat"))  # another order of classes; another head
        assert torch.equal(tensor, before[name] if is_new else state[name]), name
    for fragment in ("model_best.pth", "heads.head_mask", "heads.head_gender", "heads.head_age", "heads.head_hat"):
        assert fragment in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_larger_image_takes_the_backbone_too(tmp_path: Path) -> None:
    state = save_run(tmp_path, TimmModelMulti({"mask": 3, "gender": 2, "age": 3}, "test_vit"))
    labels = LabelSpace({"mask": MASK})
    model = TimmModelMulti(labels.num_classes, "test_vit", img_size=96)
    load_initial_weights(model, labels, tmp_path / "model_best.pth", CONFIG)
    for name in ("backbone.blocks.0.attn.qkv.weight", "heads.head_mask.bias"):
        assert torch.equal(model.state_dict()[name], state[name])


def test_the_weights_that_the_run_answers_with_are_taken(tmp_path: Path) -> None:
    torch.manual_seed(1)
    average = BaselineCNN({"mask": 3, "gender": 2, "age": 3}, 4).state_dict()
    last = BaselineCNN({"mask": 3, "gender": 2, "age": 3}, 4)
    save_run(tmp_path, last, answers_with="average", averaging={"average": average})
    labels = LabelSpace(EARLIER)
    model = BaselineCNN(labels.num_classes, 4)
    load_initial_weights(model, labels, tmp_path, CONFIG)
    assert all(torch.equal(tensor, average[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "warned"),
    [({}, False), ({"seed": 7}, True), ({"split": {"type": "ImageSplit"}}, True), ({"seed": 7, "data": []}, False)],
)
def test_another_split_of_the_same_data_is_warned_of(
    tmp_path: Path, changes: dict[str, Any], warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Its run has trained on people who are validated with now."""
    save_run(tmp_path, BaselineCNN({"mask": 3, "gender": 2, "age": 3}, 4))
    labels = LabelSpace(EARLIER)
    load_initial_weights(BaselineCNN(labels.num_classes, 4), labels, tmp_path, CONFIG | changes)
    assert ("split" in caplog.text) == warned


def test_labels_of_another_version_are_one_line(tmp_path: Path) -> None:
    save_run(tmp_path, BaselineCNN({"mask": 3}, 4), labels=[1])
    with pytest.raises(CheckpointError, match=r"model_best\.pth: .*labels"):
        load_initial_weights(BaselineCNN({"mask": 3}, 4), LabelSpace({"mask": MASK}), tmp_path, CONFIG)
