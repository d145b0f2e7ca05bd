"""Weights as other programs write them answer in our models as they did there: the same logits for the same image."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from base.label_space import LabelSpace
from inference.foreign_weights import Fitting, state_dict_in
from model.model import BaselineCNN, TimmModelMulti
from utils.errors import CheckpointError, ConfigError

ATTRIBUTES: Any = {
    "mask": {"classes": ["wear", "incorrect", "not_wear"]},
    "gender": {"classes": ["male", "female"]},
    "age": {"bins": [30, 60], "training_bins": [20, 30, 40, 50, 60]},
}
THREE_HEADS = LabelSpace(ATTRIBUTES)
ONE_HEAD = LabelSpace(
    {**ATTRIBUTES, "age": {"bins": [30, 60]}}, {"all": ["mask", "gender", "age"]}, ["mask", "gender", "age"]
)
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


class Outputs(nn.Module):
    """Three layers on the features, called as a team called them."""

    def __init__(self, num_features: int, ages: int = 6) -> None:
        super().__init__()
        self.mask_out = nn.Sequential(nn.Linear(num_features, 3))
        self.gender_out = nn.Sequential(nn.Linear(num_features, 2))
        self.age_out = nn.Sequential(nn.Linear(num_features, ages))

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        return {"mask": self.mask_out(features), "gender": self.gender_out(features), "age": self.age_out(features)}


class InTheClassifiersPlace(nn.Module):
    def __init__(self, name: str, attribute: str = "model") -> None:
        super().__init__()
        backbone = timm.create_model(name)
        classifier = backbone.pretrained_cfg["classifier"]
        place, _, last = classifier.rpartition(".")
        outputs = nn.Sequential(Outputs(backbone.get_submodule(classifier).in_features))
        setattr(backbone.get_submodule(place), last, outputs)
        self.attribute = attribute
        self.add_module(attribute, backbone)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.get_submodule(self.attribute)(images)


class BesideTheBackbone(nn.Module):
    """`feature_extractor` has kept timm's own classifier, which nothing uses; names in camel case."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.feature_extractor = timm.create_model(name)
        self.imageStageAge = nn.Linear(self.feature_extractor.num_features, 6)
        self.fcMask = nn.Linear(self.feature_extractor.num_features, 3)
        self.fcGender = nn.Linear(self.feature_extractor.num_features, 2)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        extractor = self.feature_extractor
        features = extractor.forward_head(extractor.forward_features(images), pre_logits=True)
        return {"mask": self.fcMask(features), "gender": self.fcGender(features), "age": self.imageStageAge(features)}


class OfItsChildren(nn.Module):
    """The backbone's layers in an nn.Sequential, so that numbers are their names."""

    def __init__(self, name: str) -> None:
        super().__init__()
        backbone = timm.create_model(name, num_classes=0)
        self.features = nn.Sequential(*backbone.children())
        self.heads = nn.ModuleDict({"age": nn.Linear(backbone.num_features, 6)})
        self.heads["mask"] = nn.Linear(backbone.num_features, 3)
        self.heads["gender"] = nn.Linear(backbone.num_features, 2)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.features(images)
        return {name: head(features) for name, head in self.heads.items()}


class AllInOne(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.backbone = timm.create_model(name, num_classes=18)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"all": self.backbone(images)}


def trained(make: Callable[[], nn.Module]) -> nn.Module:
    """A model whose every weight and running statistic is its own."""
    torch.manual_seed(3)
    model = make().eval()
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor += 0.1 * torch.rand_like(tensor)
        if name.endswith("num_batches_tracked"):
            tensor += 5
    return model


def same_weights(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    return state_dict


def wrapped(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"module.{name}": tensor for name, tensor in state_dict.items()}


def without_counters(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """As torch wrote them before 2018."""
    return {name: tensor for name, tensor in state_dict.items() if not name.endswith("num_batches_tracked")}


def as_facebook_has_convnext(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of the repository that timm took the network from."""
    renamed = {}
    for name, tensor in state_dict.items():
        name = re.sub(r"^backbone\.stem\.", "backbone.downsample_layers.0.", name)
        name = re.sub(r"stages\.(\d)\.downsample\.", r"downsample_layers.\1.", name)
        name = re.sub(r"stages\.(\d)\.blocks\.", r"stages.\1.", name)
        name = name.replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv")
        name = name.replace("head.norm.", "norm.").replace("head.fc.", "head.")
        renamed[name] = tensor
    return renamed


CASES: dict[str, tuple[LabelSpace, str, Callable[[], nn.Module], Callable[..., Any], str]] = {
    "efficientnet": (
        THREE_HEADS, "test_efficientnet", lambda: InTheClassifiersPlace("test_efficientnet"), same_weights,
        "those under model.",
    ),
    "parallel": (
        THREE_HEADS, "test_efficientnet", lambda: InTheClassifiersPlace("test_efficientnet"), wrapped,
        "those under model.",
    ),
    "vit": (
        THREE_HEADS, "test_vit", lambda: InTheClassifiersPlace("test_vit", "Vit"), same_weights, "those under Vit.",
    ),
    "beside": (
        THREE_HEADS, "test_resnet", lambda: BesideTheBackbone("test_resnet"), same_weights,
        "the head age is imageStageAge;",
    ),
    "uncounted": (
        THREE_HEADS, "test_resnet", lambda: BesideTheBackbone("test_resnet"), without_counters,
        "those under feature_extractor.",
    ),
    "children": (
        THREE_HEADS, "test_resnet", lambda: OfItsChildren("test_resnet"), same_weights, "matched by order and shapes",
    ),
    "one-head": (ONE_HEAD, "test_resnet", lambda: AllInOne("test_resnet"), same_weights, "the head all is backbone.fc"),
    "earlier-layout": (
        ONE_HEAD, "test_convnext", lambda: AllInOne("test_convnext"), as_facebook_has_convnext, "an earlier layout",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_logits_are_those_of_the_model_that_the_weights_are_of(case: str) -> None:
    labels, name, make, written, told = CASES[case]
    original = trained(make)
    ours = TimmModelMulti(labels.num_classes, name).eval()
    fitting = Fitting(ours, labels, written(original.state_dict()))
    assert fitting.problems() == []
    ours.load_state_dict(fitting.weights)
    with torch.no_grad():
        expected, found = original(IMAGES), ours(IMAGES)
    for head, logits in expected.items():
        torch.testing.assert_close(found[head], logits, rtol=1e-4, atol=1e-5)
    assert any(told in note for note in fitting.notes)
    assert any("taken to be 0 wear" in note for note in fitting.notes)


def test_the_smallest_network_goes_by_its_own_names() -> None:
    torch.manual_seed(1)
    original, ours = BaselineCNN({"all": 18}, 4), BaselineCNN({"all": 18}, 4)
    state_dict = {name.replace("heads.head_all", "fc"): tensor for name, tensor in original.state_dict().items()}
    fitting = Fitting(ours, ONE_HEAD, state_dict)
    assert fitting.problems() == []
    for name, tensor in original.state_dict().items():
        assert torch.equal(fitting.weights[name], tensor)


def fitted(state_dict: dict[str, Tensor], *renames: tuple[str, str], name: str = "test_resnet") -> Fitting:
    return Fitting(TimmModelMulti(THREE_HEADS.num_classes, name), THREE_HEADS, state_dict, renames)


def test_layers_without_words_must_be_renamed() -> None:
    state_dict = {
        name.replace("fcMask", "fc1").replace("fcGender", "fc2"): tensor
        for name, tensor in BesideTheBackbone("test_resnet").state_dict().items()
    }
    lines = fitted(state_dict).problems()
    num_features = state_dict["fc1.weight"].shape[1]
    assert f"the file lacks heads.head_mask.weight (3, {num_features})" in lines
    assert f"the model has no place for fc2.weight (2, {num_features})" in lines
    assert "--rename old=new" in lines[-1]
    renamed = fitted(state_dict, ("fc1", "heads.head_mask"), ("fc2", "heads.head_gender"))
    assert renamed.problems() == []
    assert torch.equal(renamed.weights["heads.head_mask.bias"], state_dict["fc1.bias"])
    with pytest.raises(ConfigError, match="no weight of the file is called fc, or begins with fc"):
        fitted(state_dict, ("fc", "heads.head_mask"))


def test_a_layer_too_many_is_told_and_can_be_left_out() -> None:
    state_dict = BesideTheBackbone("test_resnet").state_dict() | {"race.weight": torch.zeros(5, 2)}
    lines = fitted(state_dict).problems()
    assert lines[1:-1] == ["the model has no place for race.weight (5, 2)"]  # timm's own classifier is not told of
    assert fitted(state_dict, ("race", "")).problems() == []


@pytest.mark.parametrize("attributes", [{"mask": ATTRIBUTES["mask"]}, {**ATTRIBUTES, "age": {"bins": [30, 60]}}])
def test_a_layer_of_another_attribute_is_not_taken(attributes: Any) -> None:
    """It has as many classes, and is the only one; whether the config knows its attribute or not."""
    torch.manual_seed(1)
    labels, original = LabelSpace(attributes, {"mask": ["mask"]}, ["mask"]), BaselineCNN({"mask": 3}, 4)
    state_dict = {name.replace("heads.head_mask", "age_fc"): each for name, each in original.state_dict().items()}
    fitting = Fitting(BaselineCNN({"mask": 3}, 4), labels, state_dict)
    assert "heads.head_mask.weight" not in fitting.weights
    assert any("the file lacks heads.head_mask.weight" in line for line in fitting.problems())
    assert any("the model has no place for age_fc.weight" in line for line in fitting.problems())
    renamed = Fitting(BaselineCNN({"mask": 3}, 4), labels, state_dict, [("age_fc", "heads.head_mask")])
    assert renamed.problems() == []


def test_heads_of_several_layers_and_other_networks_are_told() -> None:
    state_dict = BesideTheBackbone("test_resnet").state_dict()
    hidden = {name: tensor for name, tensor in state_dict.items() if "Age" not in name}
    hidden |= {"age.0.weight": torch.zeros(256, 64), "age.2.weight": torch.zeros(6, 256), "age.2.bias": torch.zeros(6)}
    lines = fitted(hidden).problems()
    assert "the model has no place for age.2.weight (6, 256)" in lines
    lines = fitted(state_dict, name="test_vit").problems()
    assert lines[0].startswith("0 of the ")
    assert any("... and " in line for line in lines)
    assert "another arch.args.model_name" in lines[-1]
    fewer_ages = {name: tensor[:3] if "Age" in name else tensor for name, tensor in state_dict.items()}
    assert any("the file lacks heads.head_age.weight (6, " in line for line in fitted(fewer_ages).problems())


@pytest.mark.parametrize(
    "content",
    [
        {"a": torch.zeros(1)},
        {"epoch": 3, "state_dict": {"a": torch.zeros(1)}, "optimizer": {"state": {}}},
        {"model_state_dict": {"a": torch.zeros(1)}, "ema": {"a": torch.ones(1)}},
        {"epoch": 3, "anything": {"a": torch.zeros(1)}},
        {"model": {"net": {"a": torch.zeros(1)}}},
        {"scaler": {"scale": torch.ones(1)}, "model": {"epoch": 3, "state_dict": {"a": torch.zeros(1)}}},
        {"others": {"deep": {"b": torch.ones(1)}}, "anything": {"a": torch.zeros(1)}},
    ],
)
def test_the_weights_are_found_in_what_programs_save(content: Any) -> None:
    assert state_dict_in(content, Path("old.pth")) == {"a": torch.zeros(1)}


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [torch.zeros(1)], {"state_dict": {}}])
def test_what_holds_no_weights_says_so(content: Any) -> None:
    with pytest.raises(CheckpointError, match=r"old\.pth: holds no weights by name"):
        state_dict_in(content, Path("old.pth"))
