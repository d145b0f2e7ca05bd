"""What a run computes in: chosen from its settings, and kept for as long as it is resumed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from base.base_trainer import TrainerSettings
from tests.trainer.conftest import CPU, MakeTrainer
from trainer.compute import Compute, choose_compute
from utils.checkpoint.checkpoint_file import read_checkpoint


@pytest.mark.parametrize("channels_last", [True, False, "auto"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_new_run_computes_in_its_settings(precision: Any, channels_last: Any) -> None:
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


def test_each_kind_of_device_keeps_its_own(make_trainer: MakeTrainer) -> None:
    first = make_trainer("first", epochs=1)
    first.trainer.train()
    on_gpu = {"cuda": {"precision": "bfloat16", "channels_last": True}}
    elsewhere = {**read_checkpoint(first.folder / "last.pth"), "compute": on_gpu}
    second = make_trainer("second", resume=elsewhere, precision="float32", epochs=2)
    second.trainer.train()
    kept = read_checkpoint(second.folder / "last.pth")["compute"]
    assert kept == {**on_gpu, "cpu": {"precision": "float32", "channels_last": True}}
