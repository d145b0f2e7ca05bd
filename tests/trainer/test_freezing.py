"""Freezing: what stands still, what does not, and from which epoch on."""

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
from utils.config.signatures import argument_problems

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


def steps(model: BaseModel, optimizer: torch.optim.Optimizer, count: int = 2) -> None:
    for _ in range(count):
        outputs = model(images())
        loss = torch.stack([output.square().mean() for output in outputs.values()]).sum()
        optimizer.zero_grad()
        (loss + nn.functional.cross_entropy(outputs["mask"], torch.tensor([0, 1, 2, 0]))).backward()
        optimizer.step()


def changed_names(model: BaseModel, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def norms_of(model: BaseModel, parameters: set[str]) -> set[str]:
    """The running statistics of the norms whose weights are among `parameters`."""
    owners = {name.rpartition(".")[0] for name in parameters}
    return {name for name, _ in model.named_buffers() if name.rpartition(".")[0] in owners}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("stages", [1, 3, "all"])
def test_frozen_stages_stand_still_and_all_else_learns(name: str, stages: Any) -> None:
    model = build(name).train()
    # Weight decay and momentum move whatever they are given.
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    assert Freezing(stages).begin_epoch(model, 1)
    before = copy.deepcopy(model.state_dict())
    steps(model, optimizer)
    parameters = {key for key, _ in model.named_parameters()}
    frozen = {key for stage in model.stages()[: None if stages == "all" else stages] for key in stage}
    assert frozen
    assert changed_names(model, before) & parameters <= parameters - frozen
    assert {key for key, parameter in model.named_parameters() if parameter.grad is None} == frozen
    assert any(not torch.equal(model.get_parameter(key), before[key]) for key in parameters if key.startswith("heads."))
    statistics = {key for key, _ in model.named_buffers()}
    assert changed_names(model, before) & statistics == statistics - norms_of(model, frozen)


@pytest.mark.parametrize("name", MODELS)
def test_a_frozen_backbone_gives_the_features_that_it_gives_in_evaluation(name: str) -> None:
    """No dropout, stochastic depth or batch statistics in it; the heads' dropout stays on."""
    model = build(name)
    features: nn.Module = model.backbone if isinstance(model, TimmModelMulti) else model.features  # type: ignore[assignment]
    with torch.no_grad():
        expected = features.eval()(images())
        assert not torch.equal(features.train()(images()), expected)
    model = build(name).train()
    Freezing("all").begin_epoch(model, 1)
    features = model.backbone if isinstance(model, TimmModelMulti) else model.features  # type: ignore[assignment]
    assert torch.equal(features(images()), expected)
    assert model.heads.training  # type: ignore[union-attr]


def test_it_equals_training_the_heads_on_features_computed_once() -> None:
    model = build("BaselineCNN")
    model.heads.dropout.p = 0.0  # type: ignore[union-attr]
    alone = copy.deepcopy(model)
    Freezing("all").begin_epoch(model.train(), 1)
    steps(model, torch.optim.AdamW(model.parameters(), lr=0.01), count=3)
    assert isinstance(alone, BaselineCNN)
    with torch.no_grad():
        features = alone.features.eval()(images())
    linear = alone.heads.get_submodule("head_mask")
    optimizer = torch.optim.AdamW(linear.parameters(), lr=0.01)
    for _ in range(3):
        logits = linear(features)
        optimizer.zero_grad()
        (logits.square().mean() + nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0]))).backward()
        optimizer.step()
    torch.testing.assert_close(model.get_parameter("heads.head_mask.weight"), linear.weight)


@pytest.mark.parametrize("name", MODELS)
def test_all_of_it_learns_after_its_epochs(name: str) -> None:
    model = build(name)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    freezing = Freezing("all", epochs=2)
    assert [freezing.begin_epoch(model.train(), epoch) for epoch in (1, 2, 3, 4)] == [True, False, True, False]
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.modules())
    before = copy.deepcopy(model.state_dict())
    steps(model, optimizer)
    weights = {key for key, parameter in model.named_parameters() if parameter.ndim > 1}
    assert weights <= changed_names(model, before)


def test_without_a_number_of_epochs_it_is_for_good() -> None:
    model = build("BaselineCNN")
    freezing = Freezing(2)
    assert [freezing.begin_epoch(model.train(), epoch) for epoch in (1, 2, 1000)] == [True, False, False]
    frozen = {key for key, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {key for stage in model.stages()[:2] for key in stage}


@pytest.mark.parametrize("name", MODELS)
def test_only_the_epoch_counts_not_the_way_to_it(name: str) -> None:
    """As where a run goes on: a new model at epoch k stands as one that passed all the epochs before."""
    freezing = Freezing(2, epochs=2)

    def state(model: BaseModel, epoch: int) -> tuple[dict[str, bool], dict[str, bool]]:
        freezing.begin_epoch(model.train(), epoch)
        learns = {key: parameter.requires_grad for key, parameter in model.named_parameters()}
        return learns, {key: module.training for key, module in model.named_modules()}

    fresh = {epoch: state(build(name), epoch) for epoch in (1, 2, 3, 4)}
    assert fresh[1] == fresh[2] != fresh[3] == fresh[4]
    model = build(name)
    for epoch in [1, 2, 3, 4, *random.Random(0).choices([1, 2, 3, 4], k=8)]:
        assert state(model, epoch) == fresh[epoch]
        assert not freezing.begin_epoch(model, epoch)  # once more changes nothing
        assert state(model, epoch) == fresh[epoch]


def test_gradients_from_before_are_not_used() -> None:
    model = build("BaselineCNN").train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    steps(model, optimizer, count=1)
    before = copy.deepcopy(model.state_dict())
    Freezing("all").begin_epoch(model, 1)
    optimizer.step()
    assert all(key.startswith("heads.") for key in changed_names(model, before))


def test_what_a_backbone_never_learns_is_not_thawed() -> None:
    with torch.device("meta"):
        model = TimmModelMulti(HEADS, "efficientvim_m1")
    freezing = Freezing("all", epochs=1)
    freezing.begin_epoch(model, 1)
    freezing.begin_epoch(model, 2)
    assert [key for key, parameter in model.named_parameters() if not parameter.requires_grad] == ["backbone.weights"]


def test_more_stages_than_there_are_is_told_before_the_run() -> None:
    with torch.device("meta"):
        model = TimmModelMulti(HEADS, "efficientnet_b0")
    Freezing(8).check(model)
    Freezing("all").check(model)
    for act in (Freezing(9).check, lambda model: Freezing(9).begin_epoch(model, 1)):
        with pytest.raises(ValueError, match=r"^stages = 9: .* 8 stages"):
            act(model)


@pytest.mark.parametrize("stages", [1, "all"])
def test_a_model_without_stages_is_refused(stages: Any) -> None:
    class Plain(BaseModel):
        def forward(self, images: Tensor) -> dict[str, Tensor]:
            return {"mask": images.mean((1, 2, 3))[:, None]}

    with pytest.raises(ValueError, match=f"^stages = {stages}: Plain has no stages"):
        Freezing(stages).check(Plain(HEADS))


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"stages": 0}, "stages = 0"),
        ({"stages": "al"}, 'did you mean "all"?'),
        ({"stages": True}, "stages = true"),
        ({"stages": 2.5}, "stages = 2.5"),
        ({"stages": 2, "epochs": 0}, "epochs = 0"),
        ({"epochs": 2}, "stages"),
    ],
)
def test_wrong_values_are_refused_by_the_signature(arguments: dict[str, Any], word: str) -> None:
    (problem,) = argument_problems(Freezing, arguments)
    assert word in str(problem)


@pytest.mark.parametrize("arguments", [{"stages": "all"}, {"stages": 6, "epochs": 3}, {"stages": 6, "epochs": None}])
def test_right_values_are_taken(arguments: dict[str, Any]) -> None:
    assert argument_problems(Freezing, arguments) == []
