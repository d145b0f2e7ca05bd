"""Freezing: what is trained, what is not, and from which epoch on."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from base.base_model import BaseModel
from model.model import BaselineCNN, TimmModelMulti
from trainer.freezing import Freezing

HEADS = {"mask": 3}
SIDE = 64

MODELS: dict[str, Callable[[], BaseModel]] = {
    "BaselineCNN": lambda: BaselineCNN(HEADS, width=4, drop_rate=0.3),
    "test_resnet": lambda: TimmModelMulti(HEADS, "test_resnet", drop_path_rate=0.5),
    "test_efficientnet": lambda: TimmModelMulti(HEADS, "test_efficientnet", drop_path_rate=0.5, pooling="gem"),
    "test_vit": lambda: TimmModelMulti(HEADS, "test_vit", drop_path_rate=0.5, img_size=SIDE, embedding_size=4),
}


def build(name: str) -> BaseModel:
    torch.manual_seed(0)
    return MODELS[name]()


def images() -> Tensor:
    return torch.randn(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def steps(model: BaseModel, count: int = 2) -> set[str]:
    """Trains, with weight decay and momentum, which move whatever they are given; returns what has changed."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    before = copy.deepcopy(model.state_dict())
    for _ in range(count):
        outputs = model(images())
        loss = torch.stack([output.square().mean() for output in outputs.values()]).sum()
        optimizer.zero_grad()
        (loss + nn.functional.cross_entropy(outputs["mask"], torch.tensor([0, 1, 2, 0]))).backward()
        optimizer.step()
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def norms_of(model: BaseModel, parameters: set[str]) -> set[str]:
    """The running statistics of the norms whose weights are among `parameters`."""
    owners = {name.rpartition(".")[0] for name in parameters}
    return {name for name, _ in model.named_buffers() if name.rpartition(".")[0] in owners}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("stages", [1, 3, "all"])
def test_frozen_stages_do_not_change_and_all_else_is_trained(name: str, stages: Any) -> None:
    model = build(name).train()
    assert Freezing(stages).begin_epoch(model, 1)
    changed = steps(model)
    parameters = {key for key, _ in model.named_parameters()}
    frozen = {key for stage in model.stages()[: None if stages == "all" else stages] for key in stage}
    assert frozen
    assert changed & parameters <= parameters - frozen
    assert {key for key, parameter in model.named_parameters() if parameter.grad is None} == frozen
    assert any(key.startswith("heads.") for key in changed)
    statistics = {key for key, _ in model.named_buffers()}
    assert changed & statistics == statistics - norms_of(model, frozen)


@pytest.mark.parametrize("name", MODELS)
def test_a_frozen_backbone_gives_the_features_that_it_gives_in_evaluation(name: str) -> None:
    """No dropout, stochastic depth or batch statistics in it; the heads' dropout stays on."""
    model = build(name)
    features: nn.Module = model.backbone if isinstance(model, TimmModelMulti) else model.features  # type: ignore[assignment]
    with torch.no_grad():
        expected = features.eval()(images())
        assert not torch.equal(copy.deepcopy(features).train()(images()), expected)
    Freezing("all").begin_epoch(model.train(), 1)
    assert torch.equal(features(images()), expected)
    assert model.heads.training  # type: ignore[union-attr]


@pytest.mark.parametrize("name", MODELS)
def test_all_of_it_is_trained_after_its_epochs(name: str) -> None:
    model = build(name)
    freezing = Freezing("all", epochs=2)
    assert [freezing.begin_epoch(model.train(), epoch) for epoch in (1, 2, 3, 4)] == [True, False, True, False]
    assert all(module.training for module in model.modules())
    assert {key for key, parameter in model.named_parameters() if parameter.ndim > 1} <= steps(model)


def test_without_a_number_of_epochs_it_is_for_good() -> None:
    model = build("BaselineCNN")
    freezing = Freezing(2)
    assert [freezing.begin_epoch(model.train(), epoch) for epoch in (1, 2, 1000)] == [True, False, False]
    frozen = {key for key, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {key for stage in model.stages()[:2] for key in stage}


@pytest.mark.parametrize("name", MODELS)
def test_a_resumed_run_freezes_by_its_epoch_alone(name: str) -> None:
    freezing = Freezing(2, epochs=2)

    def state(model: BaseModel, epoch: int) -> tuple[dict[str, bool], dict[str, bool]]:
        freezing.begin_epoch(model.train(), epoch)
        trained = {key: parameter.requires_grad for key, parameter in model.named_parameters()}
        return trained, {key: module.training for key, module in model.named_modules()}

    fresh = {epoch: state(build(name), epoch) for epoch in (1, 2, 3, 4)}
    assert fresh[1] == fresh[2] != fresh[3] == fresh[4]
    model = build(name)
    for epoch in [1, 2, 3, 4, *random.Random(0).choices([1, 2, 3, 4], k=8)]:
        assert state(model, epoch) == fresh[epoch]
        assert not freezing.begin_epoch(model, epoch)  # a second call changes nothing
        assert state(model, epoch) == fresh[epoch]


def test_gradients_from_before_are_not_used() -> None:
    model = build("BaselineCNN").train()
    steps(model, count=1)
    before = copy.deepcopy(model.state_dict())
    Freezing("all").begin_epoch(model, 1)
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert all(key.startswith("heads.") for key, value in model.state_dict().items() if not value.equal(before[key]))


def test_what_a_backbone_never_trains_is_not_unfrozen() -> None:
    with torch.device("meta"):
        model = TimmModelMulti(HEADS, "efficientvim_m1")
    freezing = Freezing("all", epochs=1)
    freezing.begin_epoch(model, 1)
    freezing.begin_epoch(model, 2)
    assert [key for key, parameter in model.named_parameters() if not parameter.requires_grad] == ["backbone.weights"]


class WithoutStages(BaseModel):
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"mask": images.mean((1, 2, 3))[:, None]}


def test_more_stages_than_there_are_is_an_error_before_the_run() -> None:
    with torch.device("meta"):
        model = TimmModelMulti(HEADS, "efficientnet_b0")
    Freezing(8).check(model)
    Freezing("all").check(model)
    with pytest.raises(ValueError, match=r"^stages = 9: .* 8 stages"):
        Freezing(9).check(model)
    with pytest.raises(ValueError, match=r"^stages = all: WithoutStages has no stages"):
        Freezing("all").check(WithoutStages(HEADS))
