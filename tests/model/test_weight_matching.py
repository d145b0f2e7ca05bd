"""Weights as other programs name them predict in our models as they did there: the same logits for the same image."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from model.model import BaselineCNN, TimmModelMulti
from model.weight_matching import find_weights, match_model, match_weights, read_weights
from utils.errors import CheckpointError

Weights = dict[str, Tensor]
CLASSES = {"mask": 3, "gender": 2, "age": 6}
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def trained_model(name: str) -> TimmModelMulti:
    """A model whose every weight and running statistic is its own."""
    torch.manual_seed(3)
    model = TimmModelMulti(CLASSES, name).eval()
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor += 0.1 * torch.rand_like(tensor)
        if key.endswith("num_batches_tracked"):
            tensor += 5
    return model


def renamed(*replacements: tuple[str, str]) -> Callable[[Weights], Weights]:
    """The names of the backbone's weights after regular expressions were replaced, one after the other."""

    def rename(weights: Weights) -> Weights:
        result = {}
        for name, tensor in weights.items():
            for pattern, new in replacements if name.startswith("backbone.") else ():
                name = re.sub(pattern, new, name)
            result[name] = tensor
        return result

    return rename


def without_counters(weights: Weights) -> Weights:
    """As torch wrote them before 2018."""
    return {name: tensor for name, tensor in weights.items() if not name.endswith("num_batches_tracked")}


def as_numbered_children(weights: Weights) -> Weights:
    """nn.Sequential(*backbone.children()): numbers for the layers' names."""
    steps = list(dict.fromkeys(name.split(".")[1] for name in weights if name.startswith("backbone.")))
    return renamed(*((rf"^backbone\.{step}\.", f"features.{number}.") for number, step in enumerate(steps)))(weights)


def with_timms_classifier(weights: Weights) -> Weights:
    return {**weights, "backbone.fc.weight": torch.zeros(1000, 4), "backbone.fc.bias": torch.zeros(1000)}


torchvision_mobilenet = renamed(
    (r"^backbone\.conv_stem", "features.0.0"), (r"^backbone\.bn1", "features.0.1"),
    (r"^backbone\.blocks\.(\d)\.(\d)\.", r"features.\1\2.conv."), (r"^backbone\.conv_head", "features.18.0"),
    (r"^backbone\.bn2", "features.18.1"),
)  # fmt: skip
efficientnet_pytorch = renamed(
    (r"^backbone\.conv_stem", "_conv_stem"), (r"^backbone\.bn1", "_bn0"), (r"^backbone\.conv_head", "_conv_head"),
    (r"^backbone\.bn2", "_bn1"), (r"^backbone\.blocks\.(\d)\.(\d)\.", r"_blocks.\1\2._"), ("conv_pwl", "project_conv"),
    ("conv_dw", "depthwise_conv"), ("conv_pw", "expand_conv"), (r"se\.conv_", "se_"),
)  # fmt: skip
facebooks_convnext = renamed(
    (r"\.stem\.", ".downsample_layers.0."), (r"stages\.(\d)\.downsample\.", r"downsample_layers.\1."),
    (r"stages\.(\d)\.blocks\.", r"stages.\1."), ("conv_dw", "dwconv"), (r"mlp\.fc", "pwconv"),
    (r"head\.norm\.", "norm."),
)  # fmt: skip

CASES: dict[str, tuple[str, Callable[[Weights], Weights], str]] = {
    "ours": ("test_resnet", dict, "by name"),
    "another-prefix": ("test_efficientnet", renamed((r"^backbone\.", "net.model.")), "under net.model."),
    "no-prefix": ("test_vit", renamed((r"^backbone\.", "")), "by name"),
    "timms-classifier": ("test_resnet", with_timms_classifier, "by name"),
    "torchvision": ("test_efficientnet", torchvision_mobilenet, "order"),
    "efficientnet-pytorch": ("test_efficientnet", efficientnet_pytorch, "order"),
    "numbered": ("test_resnet", as_numbered_children, "order"),
    "numbered-without-counters": ("test_resnet", lambda each: without_counters(as_numbered_children(each)), "order"),
    "facebooks-convnext": ("test_convnext", facebooks_convnext, "timm"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_logits_are_those_of_the_model_that_the_weights_are_of(case: str) -> None:
    name, write, how = CASES[case]
    original = trained_model(name)
    ours = TimmModelMulti(CLASSES, name).eval()
    match = match_model(ours, write(original.state_dict()))
    assert match.is_complete
    assert match.unused == {}
    assert how in match.how
    ours.load_state_dict(ours.state_dict() | match.weights)
    with torch.no_grad():
        expected, given = original(IMAGES), ours(IMAGES)
    assert all(torch.equal(given[head], logits) for head, logits in expected.items())


def on_meta(name: str, **options: Any) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name, **options)


def test_torchvisions_vgg_is_converted_by_timm() -> None:
    """Its first two linear layers are convolutions in timm."""
    network = on_meta("vgg11", num_classes=0)
    names = {"pre_logits.fc1.weight": "classifier.0.weight", "pre_logits.fc2.weight": "classifier.3.weight"}
    names |= {"pre_logits.fc1.bias": "classifier.0.bias", "pre_logits.fc2.bias": "classifier.3.bias"}
    theirs = {names.get(name, name): tensor.flatten(1) if "fc" in name and tensor.ndim == 4 else tensor
              for name, tensor in network.state_dict().items()}  # fmt: skip
    assert match_weights(network.state_dict(), theirs, network).is_complete


@pytest.mark.parametrize("backbone", ["resnet18", "resnet34"])
def test_another_depth_of_the_same_network_is_no_match(backbone: str) -> None:
    """The deeper file holds every weight of the shallower network, and is not of it."""
    network, other = on_meta(backbone, num_classes=0), on_meta({"resnet18": "resnet34"}.get(backbone, "resnet18"))
    for prefix in ("", "model."):
        theirs = {f"{prefix}{name}": tensor for name, tensor in other.state_dict().items()}
        match = match_weights(network.state_dict(), theirs, network)
        assert not match.is_complete
        assert bool(match.missing) == (backbone == "resnet34")
        assert f"{prefix}layer1.2.conv1.weight" in match.deeper or match.missing["layer1.2.conv1.weight"].ndim == 4


def test_an_order_that_could_be_read_in_two_ways_is_no_match() -> None:
    model = trained_model("test_resnet")
    numbered = as_numbered_children(model.state_dict())
    twice = {f"{side}.{name}": tensor for side in ("left", "right") for name, tensor in numbered.items()}
    assert not match_model(model, twice).is_complete


def test_heads_are_found_by_their_names_alone() -> None:
    """Another layer of the same shape, whatever it is called, is not taken for one."""
    model = BaselineCNN({"mask": 3, "age": 3}, 4)
    theirs = {name.replace("heads.head_mask", "mask_out"): each for name, each in model.state_dict().items()}
    match = match_model(model, theirs)
    assert set(match.missing) == {"heads.head_mask.weight", "heads.head_mask.bias"}
    assert set(match.unused) == {"mask_out.weight", "mask_out.bias"}
    problems = match.problems()
    assert any("heads.head_mask" in line and "(3, 32)" in line for line in problems)
    assert any("mask_out" in line and "(3,)" in line for line in problems)


ONE, OTHER = torch.zeros(1), torch.ones(1)


@pytest.mark.parametrize(
    "content",
    [
        {"a": ONE},
        {"epoch": 3, "state_dict": {"a": ONE}, "optimizer": {"state": {}}},
        {"model_state_dict": {"a": ONE}, "ema": {"a": OTHER}},
        {"epoch": 3, "anything": {"a": ONE}},
        {"scaler": {"scale": OTHER}, "model": {"epoch": 3, "state_dict": {"a": ONE}}},
        {"answers_with": "average", "model": {"a": OTHER}, "averaging": {"average": {"a": ONE}}},
    ],
)
def test_the_weights_are_found_in_what_programs_save(content: Any) -> None:
    assert find_weights(content) == {"a": ONE}


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [ONE], {"state_dict": {}}])
def test_a_file_without_weights_says_so(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "old.pth")
    with pytest.raises(CheckpointError, match=r"old\.pth: .*state_dict"):
        read_weights(tmp_path / "old.pth")
