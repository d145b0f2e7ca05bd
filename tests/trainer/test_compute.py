"""What a run computes in: what its settings say, and for as long as it is resumed, what it began with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from base.base_trainer import TrainerSettings
from tests.trainer.conftest import CPU, MakeTrainer
from trainer.compute import Compute, choose_compute, kept_computes
from utils.checkpoint.checkpoint_file import read_checkpoint
from utils.errors import CheckpointError

FLOAT = {"precision": "float32", "channels_last": True}


@pytest.mark.parametrize("channels_last", [True, False, "auto"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_new_run_computes_in_what_its_settings_say(precision: Any, channels_last: Any) -> None:
    settings = TrainerSettings(epochs=1, precision=precision, channels_last=channels_last)
    assert choose_compute(settings, CPU) == Compute(precision, channels_last is not False)


@pytest.mark.parametrize("compute", [Compute("bfloat16", True), Compute("bfloat16", False), Compute("float32", False)])
def test_a_resumed_run_computes_in_what_it_began_with(make_trainer: MakeTrainer, compute: Compute) -> None:
    """As a run of an earlier version may have chosen by measuring, which its config does not say."""
    first = make_trainer("first", computes={"cpu": compute}, epochs=1)
    first.trainer.train()
    content = read_checkpoint(first.folder / "last.pth")
    second = make_trainer("second", resume=content, epochs=2)
    seen: list[torch.Tensor] = []
    second.trainer.learner.model.register_forward_pre_hook(lambda _model, images: seen.append(images[0]))
    second.trainer.train()
    assert seen
    assert all(images.dtype == compute.dtype for images in seen)
    assert all(images.is_contiguous(memory_format=compute.memory_format) for images in seen)
    assert {parameter.dtype for parameter in second.trainer.learner.model.parameters()} == {torch.float32}
    assert read_checkpoint(second.folder / "last.pth")["compute"] == content["compute"]


def test_a_run_that_comes_back_to_a_kind_of_device_keeps_what_it_began_with_there(make_trainer: MakeTrainer) -> None:
    first = make_trainer("first", epochs=1)
    first.trainer.train()
    elsewhere = {**read_checkpoint(first.folder / "last.pth"), "compute": {"cuda": {**FLOAT, "precision": "bfloat16"}}}
    second = make_trainer("second", resume=elsewhere, precision="float32", epochs=2)
    second.trainer.train()
    kept = read_checkpoint(second.folder / "last.pth")["compute"]
    assert kept == {**elsewhere["compute"], "cpu": FLOAT}


def test_a_checkpoint_of_the_first_version_says_nothing() -> None:
    assert kept_computes({}, Path("last.pth")) == {}


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        [],
        {"cpu": None},
        {"cpu": {}},
        {"cpu": {"channels_last": True}},
        {"cpu": {**FLOAT, "precision": "float8"}},
        {"cpu": {**FLOAT, "precision": ["float32"]}},
        {"cpu": {**FLOAT, "channels_last": "no"}},
        {"cpu": {**FLOAT, "channels_last": 1}},
        {"cpu": FLOAT, "cuda": torch.zeros(3)},
        {5: FLOAT},
    ],
    ids=repr,
)
def test_what_no_run_has_written_is_refused(wrong: Any) -> None:
    with pytest.raises(CheckpointError, match=r"^last\.pth: compute"):
        kept_computes({"compute": wrong}, Path("last.pth"))
