"""Models on random weights: every family of backbone gives logits by head, and errors are told in a line."""

from __future__ import annotations

import inspect
import re
import time
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch

from base.base_model import BaseModel
from model import architectures
from model.architectures import BaselineCNN, TimmModelMulti
from utils.errors import ConfigError

HEADS = {"mask": 3, "gender": 2, "age": 6}

FAMILIES = [  # the families of FEATURES.md C1, and those whose classifier has another name or another layer before it
    "efficientnetv2_rw_s",
    "efficientnet_b0",
    "tf_efficientnet_b4",
    "resnet18",
    "resnext101_32x8d",
    "vgg11",
    "vgg16_bn",
    "inception_v3",
    "inception_resnet_v2",
    "densenet121",
    "vit_base_patch16_224",
    "vit_small_patch16_384",
    "deit_tiny_distilled_patch16_224",
    "swin_tiny_patch4_window7_224",
    "swin_large_patch4_window12_384",
    "swinv2_large_window12to24_192to384",
    "eca_nfnet_l2",
    "convnext_tiny",
    "vit_base_patch32_clip_224",
    "resnet50_clip",
    "mobilenetv3_small_050",
    "levit_128s",
    "xcit_nano_12_p8_224",
    "mobilenetv4_conv_small",
]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_gives_logits_by_head_at_its_own_size(name: str) -> None:
    with torch.device("meta"):  # shapes only: no memory, no arithmetic
        model = TimmModelMulti(HEADS, name, drop_rate=0.2).eval()
        assert model.input_hw is not None
        logits = model(torch.zeros(2, 3, *model.input_hw))
    assert {head: tuple(output.shape) for head, output in logits.items()} == {
        "mask": (2, 3),
        "gender": (2, 2),
        "age": (2, 6),
    }
    whole = timm.get_pretrained_cfg(name)
    assert (model.input_hw, model.mean, model.std) == (tuple(whole.input_size[1:]), tuple(whole.mean), tuple(whole.std))


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
    for name in ("test_efficientnet", "vgg11", "mobilenetv3_small_050"):
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


def test_img_size_rebuilds_a_model_of_one_size() -> None:
    model = TimmModelMulti({"mask": 3}, "test_vit", img_size=96).eval()
    assert model.input_hw == (96, 96)
    assert model(torch.zeros(1, 3, 96, 96))["mask"].shape == (1, 3)


# Arguments, before anything is built


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
        TimmModelMulti.check_arguments(**arguments)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("name", ["efficientnetv2_rw_s", "resnet18.a1_in1k", "swin_large_patch4_window12_384"])
def test_right_arguments_are_checked_quickly(name: str) -> None:
    start = time.monotonic()
    TimmModelMulti.check_arguments(model_name=name, pretrained=True, drop_rate=0.2, drop_path_rate=0.1)
    assert time.monotonic() - start < 5


def test_baseline_has_nothing_more_to_check() -> None:
    BaselineCNN.check_arguments(width=8)
    assert BaselineCNN.arguments_without_weights({"width": 8}) == {"width": 8}


# Weights


def save_weights(tmp_path: Path, kind: str, name: str = "test_resnet") -> tuple[Path, dict[str, torch.Tensor]]:
    """A file as the hub has it: the whole model, classifier included."""
    torch.manual_seed(1)
    state = timm.create_model(name).state_dict()
    path = tmp_path / f"weights.{kind}"
    if kind == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)
    return path, state


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
@pytest.mark.parametrize("pretrained", [True, False])
def test_weights_file_fills_the_backbone_and_leaves_the_heads_new(tmp_path: Path, kind: str, pretrained: bool) -> None:
    path, state = save_weights(tmp_path, kind)
    TimmModelMulti.check_arguments(model_name="test_resnet", pretrained=pretrained, weights_file=str(path))
    model = TimmModelMulti({"mask": 1000}, "test_resnet", pretrained, str(path))
    for key, value in model.backbone.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert not torch.equal(model.heads.get_submodule("head_mask").weight, state["fc.weight"])  # type: ignore[arg-type]


def test_weights_of_another_image_size_are_fitted(tmp_path: Path) -> None:
    path, state = save_weights(tmp_path, "pth", "test_vit")
    model = TimmModelMulti({"mask": 3}, "test_vit", weights_file=str(path), img_size=96)
    assert model.backbone.state_dict()["pos_embed"].shape != state["pos_embed"].shape
    assert torch.equal(model.backbone.state_dict()["blocks.0.attn.qkv.weight"], state["blocks.0.attn.qkv.weight"])


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_bad_weights_files_are_refused_in_a_line_and_run_nothing(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    torch.save({"conv1.weight": Bomb(touched)}, tmp_path / "hostile.pth")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "empty.safetensors").write_bytes(b"")
    (tmp_path / "page.pth").write_text("<html>")
    torch.save([1, 2], tmp_path / "list.pth")
    good = save_weights(tmp_path, "safetensors")[0].read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(good[: len(good) // 2])
    torch.save({"stem.weight": torch.zeros(1)}, tmp_path / "other.pth")
    torch.save(
        timm.create_model("test_resnet").state_dict() | {"conv1.0.weight": torch.zeros(1)}, tmp_path / "shape.pth"
    )
    for name in (
        "hostile.pth",
        "empty.pth",
        "empty.safetensors",
        "page.pth",
        "list.pth",
        "cut.safetensors",
        "other.pth",
        "shape.pth",
    ):
        with pytest.raises(ConfigError) as caught:
            TimmModelMulti({"mask": 3}, "test_resnet", weights_file=str(tmp_path / name))
        message = str(caught.value)
        assert name in message
        assert "arch.args.weights_file" in message
        assert "\n" not in message
    assert not touched.exists()


def test_a_silent_hub_is_asked_once_and_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[str] = []

    class Silent:
        def head(self, url: str, **_: Any) -> None:
            asked.append(url)
            raise OSError("no route")

    monkeypatch.setattr("model.backbone.get_session", Silent)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    start = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        TimmModelMulti({"mask": 3}, "test_resnet", pretrained=True)
    assert time.monotonic() - start < 5
    assert len(asked) == 1
    message = str(caught.value)
    assert "weights of test_resnet could not be fetched" in message
    assert "arch.args.pretrained to false" in message
    assert "arch.args.weights_file" in message
    assert "\n" not in message
    assert huggingface_hub.constants.HF_HUB_OFFLINE is False


def test_a_checkpoint_brings_its_own_weights() -> None:
    arguments = {"model_name": "resnet18", "pretrained": True, "weights_file": "x.pth", "drop_rate": 0.1}
    assert TimmModelMulti.arguments_without_weights(arguments) == {
        "model_name": "resnet18",
        "pretrained": False,
        "weights_file": None,
        "drop_rate": 0.1,
    }


def test_names_that_a_config_may_use_are_models() -> None:
    for name in architectures.__all__:
        assert issubclass(getattr(architectures, name), BaseModel)


def test_a_model_without_forward_is_refused() -> None:
    class Nothing(BaseModel):
        pass

    with pytest.raises(TypeError, match="forward"):
        Nothing({"mask": 3})  # type: ignore[abstract]
