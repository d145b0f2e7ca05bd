"""Models on random weights: what their arguments do, their stages, their weights; errors are told in a line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from base.base_model import BaseModel
from base.weights import load_weights
from model import model as architectures
from model.model import BaselineCNN, TimmModelMulti

HEADS = {"mask": 3, "gender": 2, "age": 6}


@pytest.mark.parametrize(
    ("name", "pooling"),
    [
        ("test_efficientnet", None),
        ("test_convnext", None),
        ("mobilenetv3_small_050", None),
        ("test_resnet", "catavgmax"),
        ("test_vit", "avg"),
    ],
)
def test_heads_see_what_timms_own_classifier_sees(name: str, pooling: Any) -> None:
    """With the weights of timm's whole model the head's logits are that model's."""
    torch.manual_seed(0)
    whole = timm.create_model(name, num_classes=3, **({"global_pool": pooling} if pooling else {})).eval()
    ours = TimmModelMulti({"mask": 3}, name, pooling=pooling).eval()
    kept = {key: value for key, value in whole.state_dict().items() if key in ours.backbone.state_dict()}
    ours.backbone.load_state_dict(kept)
    ours.heads.get_submodule("head_mask").load_state_dict(whole.get_classifier().state_dict())
    images = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        torch.testing.assert_close(ours(images)["mask"], whole(images))


@pytest.mark.parametrize(
    "build", [lambda heads: TimmModelMulti(heads, "test_resnet"), lambda heads: BaselineCNN(heads)]
)
def test_heads_may_have_names_that_modules_use(build: Any) -> None:
    model: BaseModel = build({"type": 2, "train": 4})
    assert {head: output.shape[1] for head, output in model(torch.randn(2, 3, 32, 32)).items()} == {
        "type": 2,
        "train": 4,
    }


def test_drop_rate_is_dropout_before_the_heads_in_training_only() -> None:
    torch.manual_seed(0)
    model = BaselineCNN({"mask": 3}, width=4, drop_rate=0.5)
    images = torch.randn(4, 3, 16, 16)
    model.eval()
    assert torch.equal(model(images)["mask"], model(images)["mask"])
    model.heads.train()
    assert not torch.equal(model(images)["mask"], model(images)["mask"])


@pytest.mark.parametrize("size", [(1, 1), (17, 33), (96, 64)])
def test_baseline_takes_any_size(size: tuple[int, int]) -> None:
    logits = BaselineCNN(HEADS, width=4)(torch.randn(2, 3, *size))
    assert {head: output.shape[1] for head, output in logits.items()} == HEADS


def test_summary_is_one_line_with_parameters_counted_by_hand() -> None:
    model = BaselineCNN({"mask": 3, "gender": 2}, width=4)
    convolutions = 9 * (3 * 4 + 4 * 8 + 8 * 16 + 16 * 32)
    norms = 2 * (4 + 8 + 16 + 32)
    assert model.num_parameters == model.num_trainable == convolutions + norms + 32 * 5 + 5
    model.features.requires_grad_(False)
    assert model.num_trainable == 5 * 33
    assert model.summary() == "BaselineCNN: 0.01 M parameters, heads mask 3, gender 2"
    assert TimmModelMulti({"mask": 3}, "test_resnet").summary().endswith("heads mask 3, made for 160 x 160")


def test_baselines_stages_are_its_convolutions_with_their_norms() -> None:
    model = BaselineCNN(HEADS, width=4, embedding_size=5)
    assert [[model.get_parameter(name).shape[0] for name in stage] for stage in model.stages()] == [
        [width] * 3 for width in (4, 8, 16, 32)
    ]
    names = [name for stage in model.stages() for name in stage]
    assert names == [name for name, _ in model.named_parameters() if not name.startswith("heads.")]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"model_name": "efficientnetv2_rw_x"}, ["model_name = efficientnetv2_rw_x is not", "efficientnetv2_rw_s"]),
        ({"model_name": "qqqqqqqq"}, ["model_name = qqqqqqqq is not"]),
        ({"model_name": "resnet18.a1_in2k"}, ["model_name = resnet18.a1_in2k is not", "resnet18.a1_in1k"]),
        ({"model_name": "hf-hub:someone/resnet18"}, ["model_name = hf-hub:someone/resnet18 is not"]),
        ({"model_name": "vgg11", "drop_path_rate": 0.1}, ["model_name = vgg11", "drop_path_rate = 0.1"]),
        ({"model_name": "resnet18", "img_size": 200}, ["model_name = resnet18", "img_size = 200"]),
        ({"model_name": "resnet18", "pooling": "token"}, ["model_name = resnet18", "pooling = token"]),
        ({"model_name": "levit_128s", "pooling": "max"}, ["model_name = levit_128s", "pooling = max"]),
        ({"model_name": "inception_v3", "gradient_checkpointing": True}, ["gradient_checkpointing = true"]),
    ],
)
def test_arguments_that_a_backbone_cannot_take_are_one_line(arguments: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(words[0])) as caught, torch.device("meta"):
        TimmModelMulti({"mask": 3}, **arguments)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words)


def test_weights_that_do_not_exist_are_found_before_a_model_is_built() -> None:
    TimmModelMulti.check_weights(model_name="resnet18", pretrained=True, weights_file=None)
    with pytest.raises(ValueError, match=r"^pretrained = true: .*test_vit_relpos"):
        TimmModelMulti.check_weights(model_name="test_vit_relpos", pretrained=True, weights_file=None)
    with pytest.raises(ValueError, match=r"^weights_file = no/such\.pth"):
        TimmModelMulti.check_weights(model_name="resnet18", pretrained=False, weights_file="no/such.pth")


# Coming back from a checkpoint


@pytest.mark.parametrize(
    "arch",
    [
        {"type": "BaselineCNN", "args": {"width": 4, "drop_rate": 0.5, "dropout_samples": 5, "embedding_size": 7}},
        {"type": "TimmModelMulti", "args": {"model_name": "test_vit", "img_size": 64, "pooling": "avg"}},
        {
            "type": "TimmModelMulti",
            "args": {
                "model_name": "test_resnet",
                "pretrained": True,
                "drop_rate": 0.5,
                "pooling": "gem",
                "dropout_samples": 5,
                "embedding_size": 7,
                "gradient_checkpointing": True,
            },
        },
    ],
)
def test_every_argument_comes_back_with_a_checkpoint(arch: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    trained = architectures.build_without_weights(arch, HEADS).eval()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.1 * torch.rand_like(parameter))  # nothing is left as it was built
    torch.save(trained.state_dict(), tmp_path / "weights.pth")
    again = architectures.build_without_weights(arch, HEADS).eval()
    load_weights(again, torch.load(tmp_path / "weights.pth", weights_only=True), tmp_path / "weights.pth")
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        outputs, expected = again(images), trained(images)
    assert list(outputs) == [*HEADS, *(["embedding"] if "embedding_size" in arch["args"] else [])]
    for name, output in outputs.items():
        assert torch.equal(output, expected[name])


def test_weights_have_the_names_that_earlier_checkpoints_use() -> None:
    assert [name for name in BaselineCNN({"mask": 3}, width=4).state_dict() if "running" not in name][:3] == [
        "features.0.weight",
        "features.1.weight",
        "features.1.bias",
    ]
    timms = timm.create_model("test_resnet", num_classes=0).state_dict()
    assert list(TimmModelMulti({"mask": 3}, "test_resnet", embedding_size=4).state_dict()) == [
        *(f"backbone.{name}" for name in timms),
        *(f"heads.{layer}.{kind}" for layer in ("head_mask", "embedding") for kind in ("weight", "bias")),
    ]
