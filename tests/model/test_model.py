"""Models on random weights: what their arguments do, their stages, their weights; errors are told in a line."""

from __future__ import annotations

import inspect
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from base.base_model import BaseModel
from base.weights import load_weights
from model import model as architectures
from model.model import BaselineCNN, TimmModelMulti
from utils.config.signatures import argument_problems

HEADS = {"mask": 3, "gender": 2, "age": 6}


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit", "test_convnext", "test_nfnet"])
def test_one_step_trains_backbone_and_heads(name: str) -> None:
    torch.manual_seed(0)
    model = TimmModelMulti(HEADS, name, img_size=64 if name == "test_vit" else None).train()
    before = {key: value.clone() for key, value in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    logits = model(torch.randn(4, 3, 64, 64))
    loss = torch.stack([output.square().mean() for output in logits.values()]).sum()
    loss.backward()
    optimizer.step()
    changed = {key for key, value in model.named_parameters() if not torch.equal(value, before[key])}
    assert {f"heads.head_{head}.weight" for head in HEADS} <= changed
    assert any(key.startswith("backbone.") for key in changed)


def test_heads_see_what_timms_own_classifier_sees() -> None:
    """With the weights of timm's whole model the head's logits are that model's."""
    torch.manual_seed(0)
    for name in ("test_efficientnet", "test_convnext", "mobilenetv3_small_050"):
        whole = timm.create_model(name, num_classes=3).eval()
        ours = TimmModelMulti({"mask": 3}, name).eval()
        classifier = whole.get_classifier()
        kept = {key: value for key, value in whole.state_dict().items() if key in ours.backbone.state_dict()}
        ours.backbone.load_state_dict(kept)
        ours.heads.get_submodule("head_mask").load_state_dict(classifier.state_dict())
        images = torch.randn(2, 3, 64, 64)
        with torch.no_grad():
            torch.testing.assert_close(ours(images)["mask"], whole(images))


def test_the_published_arguments_are_taken() -> None:
    names = list(inspect.signature(TimmModelMulti).parameters)
    assert names[:3] == ["num_classes", "model_name", "pretrained"]


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
    assert model.num_parameters == convolutions + norms + 32 * 5 + 5
    assert model.summary() == "BaselineCNN: 0.01 M parameters, heads mask 3, gender 2"
    assert TimmModelMulti({"mask": 3}, "test_resnet").summary().endswith("heads mask 3, made for 160 x 160")


def test_what_is_trained_is_counted() -> None:
    model = BaselineCNN({"mask": 3}, width=4)
    model.features.requires_grad_(False)
    assert model.num_trainable == 3 * 33 < model.num_parameters


def test_baselines_stages_are_its_convolutions_with_their_norms() -> None:
    model = BaselineCNN(HEADS, width=4, embedding_size=5)
    assert [[model.get_parameter(name).shape[0] for name in stage] for stage in model.stages()] == [
        [width] * 3 for width in (4, 8, 16, 32)
    ]
    names = [name for stage in model.stages() for name in stage]
    assert names == [name for name, _ in model.named_parameters() if not name.startswith("heads.")]


def test_a_model_that_says_nothing_of_its_stages_has_none() -> None:
    class Plain(BaseModel):
        def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"mask": images.mean((1, 2, 3))[:, None].expand(-1, 3)}

    assert Plain({"mask": 3}).stages() == []


def test_img_size_rebuilds_a_model_of_one_size() -> None:
    model = TimmModelMulti({"mask": 3}, "test_vit", img_size=96).eval()
    assert model.input_hw == (96, 96)
    assert model(torch.zeros(1, 3, 96, 96))["mask"].shape == (1, 3)


# Arguments, before anything is built


def check_all_arguments(**arguments: Any) -> None:
    TimmModelMulti.check_arguments(**arguments)
    TimmModelMulti.check_weights(**arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"model_name": "efficientnetv2_rw_x"}, ["efficientnetv2_rw_x is not a timm model", "efficientnetv2_rw_s"]),
        ({"model_name": "qqqqqqqq"}, ["qqqqqqqq is not a timm model"]),
        ({"model_name": "resnet18.a1_in2k"}, ["resnet18.a1_in2k is not a timm model", "resnet18.a1_in1k"]),
        ({"model_name": "hf-hub:someone/resnet18"}, ["only its own names", "weights_file"]),
        ({"model_name": "local-dir:/tmp"}, ["only its own names"]),
        ({"model_name": "vgg11", "drop_path_rate": 0.1}, ["vgg11 cannot be built with drop_path_rate = 0.1"]),
        ({"model_name": "resnet18", "img_size": 200}, ["resnet18 cannot be built with img_size = 200"]),
        ({"model_name": "test_vit_relpos", "pretrained": True}, ["no pretrained weights of test_vit_relpos"]),
        ({"model_name": "resnet18", "weights_file": "no/such.pth"}, ["weights_file = no/such.pth is not a file"]),
    ],
)
def test_wrong_arguments_are_told_in_a_line(arguments: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError, match=re.escape(words[0])) as caught:
        check_all_arguments(**arguments)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("name", ["efficientnetv2_rw_s", "resnet18.a1_in1k", "swin_large_patch4_window12_384"])
def test_right_arguments_are_checked_quickly(name: str) -> None:
    start = time.monotonic()
    TimmModelMulti.check_arguments(model_name=name, pretrained=True, drop_rate=0.2, drop_path_rate=0.1)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    "check", [partial(TimmModelMulti.check_arguments, model_name="test_resnet"), BaselineCNN.check_arguments]
)
def test_several_dropouts_that_drop_nothing_are_refused(check: Callable[..., None]) -> None:
    check(drop_rate=0.5, dropout_samples=5)
    check(dropout_samples=1)
    for arguments in ({"dropout_samples": 5}, {"dropout_samples": 5, "drop_rate": 0.0}):
        with pytest.raises(ValueError, match=r"^dropout_samples = 5: .* drop_rate"):
            check(**arguments)


@pytest.mark.parametrize("name", ["vgg11", "inception_v3"])
def test_gradient_checkpointing_is_refused_where_timm_has_none(name: str) -> None:
    with pytest.raises(ValueError, match=f"^gradient_checkpointing = true: timm cannot do it with {name}$"):
        TimmModelMulti.check_arguments(model_name=name, gradient_checkpointing=True)


@pytest.mark.parametrize(
    ("model", "arguments", "word"),
    [
        (TimmModelMulti, {"pooling": "gme"}, '"gem"'),
        (TimmModelMulti, {"img_size": 0}, "greater than 0"),
        (TimmModelMulti, {"dropout_samples": 0}, "greater than 0"),
        (TimmModelMulti, {"embedding_size": 0}, "greater than 0"),
        (TimmModelMulti, {"gradient_checkpointing": "yes"}, "boolean"),
        (BaselineCNN, {"dropout_samples": 2.5}, "integer"),
        (BaselineCNN, {"embedding_size": -1}, "greater than 0"),
    ],
)
def test_wrong_values_are_refused_by_the_signature(model: Any, arguments: dict[str, Any], word: str) -> None:
    needed = {"model_name": "resnet18"} if model is TimmModelMulti else {}
    (problem,) = argument_problems(model, {**needed, **arguments}, (), ("num_classes",))
    assert problem.key_path == (*arguments,)
    assert word in problem.text


def test_baseline_has_nothing_to_load() -> None:
    assert BaselineCNN.arguments_without_weights({"width": 8}) == {"width": 8}


# Coming back from a checkpoint


def test_a_checkpoint_brings_its_own_weights() -> None:
    arguments = {"model_name": "resnet18", "pretrained": True, "weights_file": "x.pth", "drop_rate": 0.1}
    assert TimmModelMulti.arguments_without_weights(arguments) == {
        "model_name": "resnet18",
        "pretrained": False,
        "weights_file": None,
        "drop_rate": 0.1,
    }


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


def test_names_that_a_config_may_use_are_models() -> None:
    for name in architectures.__all__:
        assert issubclass(getattr(architectures, name), BaseModel)


def test_a_model_without_forward_is_refused() -> None:
    class Nothing(BaseModel):
        pass

    with pytest.raises(TypeError, match="forward"):
        Nothing({"mask": 3})  # type: ignore[abstract]
