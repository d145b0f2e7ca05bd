"""Gradient checkpointing changes what is kept in memory, and nothing else."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from model.model import TimmModelMulti
from trainer.freezing import Freezing

SIDE = 64


def build(name: str, gradient_checkpointing: bool) -> TimmModelMulti:
    torch.manual_seed(0)
    return TimmModelMulti(
        {"mask": 3},
        name,
        drop_rate=0.5,
        drop_path_rate=0.3,
        img_size=SIDE if name == "test_vit" else None,
        dropout_samples=2,
        gradient_checkpointing=gradient_checkpointing,
    ).train()


def two_steps(model: TimmModelMulti) -> dict[str, Tensor]:
    """Gradients of two backward passes, with dropout and stochastic depth drawn from one seed each."""
    images = torch.randn(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    for seed in (1, 2):
        torch.manual_seed(seed)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(images)["mask"]
        nn.functional.cross_entropy(logits.float(), torch.tensor([0, 1, 2, 0])).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def assert_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit", "test_convnext", "test_nfnet"])
def test_gradients_and_running_statistics_are_the_same(name: str) -> None:
    plain, checkpointed = build(name, False), build(name, True)
    assert_equal(two_steps(checkpointed), two_steps(plain))
    assert_equal(checkpointed.state_dict(), plain.state_dict())  # a norm counts a batch once, although it sees it twice


def test_blocks_are_computed_again_in_the_backward_pass() -> None:
    counts = {}
    for gradient_checkpointing in (False, True):
        model = build("test_resnet", gradient_checkpointing)
        calls: list[int] = []
        model.backbone.get_submodule("layer2.0.conv1").register_forward_hook(lambda *_, calls=calls: calls.append(1))
        two_steps(model)
        counts[gradient_checkpointing] = len(calls)
    assert counts == {False: 2, True: 4}


@pytest.mark.parametrize("stages", [1, "all"])
def test_frozen_stages_go_with_it(stages: int) -> None:
    plain, checkpointed = build("test_resnet", False), build("test_resnet", True)
    for model in (plain, checkpointed):
        Freezing(stages).begin_epoch(model, 1)
    assert_equal(two_steps(checkpointed), two_steps(plain))
    assert_equal(checkpointed.state_dict(), plain.state_dict())


def test_a_copy_counts_for_itself() -> None:
    """Averages of weights are copies of the model."""
    model, untouched = build("test_resnet", True), build("test_resnet", True)
    copied = copy.deepcopy(model)
    two_steps(copied)
    assert_equal(model.state_dict(), untouched.state_dict())
    plain = build("test_resnet", False)
    two_steps(plain)
    assert_equal(copied.state_dict(), plain.state_dict())
