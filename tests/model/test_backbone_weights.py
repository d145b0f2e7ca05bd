"""timm's weights: read from a file, fitted, refused; and a hub that does not answer."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch

from model.model import TimmModelMulti


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
        with pytest.raises(ValueError, match="weights") as caught:
            TimmModelMulti({"mask": 3}, "test_resnet", weights_file=str(tmp_path / name))
        message = str(caught.value)
        assert name in message
        assert message.startswith("weights_file = ")
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
    with pytest.raises(ValueError, match="weights") as caught:
        TimmModelMulti({"mask": 3}, "test_resnet", pretrained=True)
    assert time.monotonic() - start < 5
    assert len(asked) == 1
    message = str(caught.value)
    assert "weights of test_resnet could not be fetched" in message
    assert message.startswith("pretrained = true")
    assert "weights_file" in message
    assert "\n" not in message
    assert huggingface_hub.constants.HF_HUB_OFFLINE is False
