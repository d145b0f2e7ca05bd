"""The backbones of the competition, each at its own size: on the meta device, and in the long suite for real."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from model.model import TimmModelMulti, build_without_weights

HEADS = {"mask": 3, "gender": 2, "age": 6}

COMPETITION = {  # the teams' backbones, with the side of their images and the features that timm's classifier reads
    "efficientnetv2_rw_s": (288, 1792),
    "efficientnet_b0": (224, 1280),
    "efficientnet_b1": (240, 1280),
    "efficientnet_b3": (288, 1536),
    "tf_efficientnet_b4": (380, 1792),
    "resnet18": (224, 512),
    "resnet34": (224, 512),
    "resnet50": (224, 2048),
    "resnet101": (224, 2048),
    "resnext101_32x8d": (224, 2048),
    "vgg11": (224, 4096),
    "vgg11_bn": (224, 4096),
    "vgg13": (224, 4096),
    "vgg13_bn": (224, 4096),
    "vgg16": (224, 4096),
    "vgg16_bn": (224, 4096),
    "vgg19": (224, 4096),
    "vgg19_bn": (224, 4096),
    "inception_v3": (299, 2048),
    "inception_resnet_v2": (299, 1536),
    "densenet121": (224, 1024),
    "densenet201": (224, 1920),
    "vit_base_patch16_224": (224, 768),
    "vit_small_patch16_384": (384, 384),
    "vit_base_patch16_384": (384, 768),
    "swin_tiny_patch4_window7_224": (224, 768),
    "swin_large_patch4_window12_384": (384, 1536),
    "swinv2_large_window12to24_192to384": (384, 1536),
    "eca_nfnet_l2": (320, 3072),
    "convnext_tiny": (224, 768),
    "convnext_base": (224, 1024),
    "vit_base_patch32_clip_224": (224, 768),
    "vit_base_patch16_clip_224": (224, 768),
    "resnet50_clip": (224, 2048),
}
OTHERS = [  # whose classifier has another name, another layer before it, or none of timm's usual pooling
    "deit_tiny_distilled_patch16_224",
    "mobilenetv3_small_050",
    "mobilenetv4_conv_small",
    "levit_128s",
    "xcit_nano_12_p8_224",
]


def on_meta(name: str, **arguments: Any) -> TimmModelMulti:
    """Shapes only: no memory, no arithmetic."""
    with torch.device("meta"):
        return TimmModelMulti(HEADS, name, **arguments)


def answers(model: TimmModelMulti, side: int) -> dict[str, Tensor]:
    with torch.device("meta"), torch.no_grad():
        return model.eval()(torch.empty(2, 3, side, side))


def executed_stages(model: TimmModelMulti, side: int) -> list[int]:
    """The stages in the order in which an image first comes to a layer of each."""
    stage_of = {name: number for number, names in enumerate(model.stages()) for name in names}
    seen: list[int] = []
    for name, module in model.named_modules():
        own = {stage_of[f"{name}.{key}"] for key, _ in module.named_parameters(recurse=False) if "backbone" in name}
        if own and name != "backbone":  # the whole backbone is no layer: what it owns it uses in between
            module.register_forward_pre_hook(partial(lambda number, *_: seen.append(number), min(own)))
    answers(model, side)
    return list(dict.fromkeys(seen))


@pytest.mark.parametrize("name", [*COMPETITION, *OTHERS])
def test_every_backbone_gives_logits_by_head_and_has_its_stages_in_order(name: str) -> None:
    model = on_meta(name, drop_rate=0.2)
    assert model.input_hw is not None
    whole = timm.get_pretrained_cfg(name)
    assert (model.input_hw, model.mean, model.std) == (tuple(whole.input_size[1:]), tuple(whole.mean), tuple(whole.std))
    side = model.input_hw[0]  # they are square
    assert {head: tuple(output.shape) for head, output in answers(model, side).items()} == {
        "mask": (2, 3),
        "gender": (2, 2),
        "age": (2, 6),
    }
    if name in COMPETITION:
        assert (side, model.heads.get_submodule("head_mask").in_features) == COMPETITION[name]
    stages = model.stages()
    names = [f"backbone.{key}" for key, _ in model.backbone.named_parameters()]
    assert sorted(key for stage in stages for key in stage) == sorted(names)
    assert executed_stages(model, side) == list(range(len(stages)))


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("efficientnet_b0", 8),  # the stem and seven groups of blocks
        ("efficientnetv2_rw_s", 7),
        ("resnet50", 5),
        ("convnext_tiny", 5),
        ("swin_tiny_patch4_window7_224", 5),
        ("vit_base_patch16_224", 13),  # the patches and twelve blocks
        ("vgg16", 14),  # thirteen convolutions, and the two layers behind them
        ("vgg16_bn", 14),
        ("poolformer_s12", 1),  # timm does not group it
    ],
)
def test_stages_are_as_many_as_the_architecture_has(name: str, count: int) -> None:
    assert len(on_meta(name).stages()) == count


@pytest.mark.parametrize(
    ("name", "img_size", "taken", "refused"),
    [
        ("vit_base_patch16_224", None, 224, 240),
        ("swin_tiny_patch4_window7_224", None, 224, 230),
        ("swin_tiny_patch4_window7_224", 256, 256, 224),
        ("swinv2_large_window12to24_192to384", None, 384, 256),
        ("resnet50_clip", None, 224, 240),
        ("inception_v3", None, 75, 60),
        ("vgg11", None, 32, 16),
    ],
)
def test_a_size_that_a_backbone_cannot_take_shows_on_the_meta_device(
    name: str, img_size: int | None, taken: int, refused: int
) -> None:
    """Which is how the check of a config tells, before anything is built."""
    model = on_meta(name, img_size=img_size)
    assert answers(model, taken)["mask"].shape == (2, 3)
    with pytest.raises((AssertionError, RuntimeError)) as caught:
        answers(model, refused)
    assert "meta" not in str(caught.value)  # of the layer, not of the device


@pytest.fixture
def memory_given_back() -> Iterator[None]:
    yield
    gc.collect()


@pytest.mark.long
@pytest.mark.parametrize("name", COMPETITION)
@pytest.mark.usefixtures("memory_given_back")
def test_every_backbone_trains_a_step_and_comes_back_from_its_weights(name: str) -> None:
    torch.manual_seed(0)
    model = TimmModelMulti(HEADS, name).train()
    assert model.input_hw is not None
    images = torch.randn(2, 3, *model.input_hw)
    watched = [stage[0] for stage in model.stages()] + ["heads.head_mask.weight"]
    before = {key: model.get_parameter(key).detach().clone() for key in watched}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.01)
    loss = sum(nn.functional.cross_entropy(logits, torch.tensor([0, 1])) for logits in model(images).values())
    assert isinstance(loss, Tensor)
    loss.backward()
    assert all(parameter.grad is not None for key, parameter in model.named_parameters() if key in watched)
    optimizer.step()
    optimizer.zero_grad()
    assert all(not torch.equal(model.get_parameter(key), value) for key, value in before.items())
    state = model.state_dict()
    with torch.inference_mode():
        expected = model.eval()(images)
    again = build_without_weights({"type": "TimmModelMulti", "args": {"model_name": name, "pretrained": True}}, HEADS)
    again.load_state_dict(state)
    with torch.inference_mode():
        given = again.eval()(images)
    for head, logits in expected.items():
        assert torch.isfinite(logits).all()
        assert torch.equal(given[head], logits)
