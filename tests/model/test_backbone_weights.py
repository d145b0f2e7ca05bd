"""The backbone's first weights: read from a file of any program, or refused; and a hub that does not answer."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch

from model.model import TimmModelMulti
from utils.checkpoint import write_checkpoint
from utils.errors import run_command

SHARED_WEIGHTS = Path(__file__).parents[3] / "shared" / "weights"


def save_weights(tmp_path: Path, kind: str, name: str = "test_resnet") -> tuple[Path, dict[str, torch.Tensor]]:
    """A file as the hub has it, the classifier included; or a checkpoint of a run of ours."""
    torch.manual_seed(1)
    state = timm.create_model(name).state_dict()
    path = tmp_path / f"weights.{kind}"
    if kind == "safetensors":
        safetensors.torch.save_file(state, path)
    elif kind == "ours":
        model = TimmModelMulti({"mask": 1000}, name)
        write_checkpoint(path, {"model": model.state_dict(), "config": {}})
        state = model.backbone.state_dict() | {"fc.weight": model.heads.get_parameter("head_mask.weight")}
    else:
        torch.save(state, path)
    return path, state


@pytest.mark.parametrize("kind", ["safetensors", "pth", "ours"])
@pytest.mark.parametrize("pretrained", [True, False])
def test_weights_file_fills_the_backbone_and_leaves_the_heads_new(tmp_path: Path, kind: str, pretrained: bool) -> None:
    path, state = save_weights(tmp_path, kind)
    TimmModelMulti.check_weights(model_name="test_resnet", pretrained=pretrained, weights_file=str(path))
    model = TimmModelMulti({"mask": 1000}, "test_resnet", pretrained, str(path))
    for key, value in model.backbone.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert not torch.equal(model.heads.get_parameter("head_mask.weight"), state["fc.weight"])


def test_weights_of_another_image_size_are_fitted(tmp_path: Path) -> None:
    path, state = save_weights(tmp_path, "pth", "test_vit")
    model = TimmModelMulti({"mask": 3}, "test_vit", weights_file=str(path), img_size=96)
    assert model.backbone.state_dict()["pos_embed"].shape != state["pos_embed"].shape
    assert torch.equal(model.backbone.state_dict()["blocks.0.attn.qkv.weight"], state["blocks.0.attn.qkv.weight"])


@pytest.mark.parametrize("name", ["mobilenetv2_100", "tf_efficientnet_lite0"])
def test_real_weights_are_read(name: str) -> None:
    file = SHARED_WEIGHTS / f"{name}.safetensors"
    if not file.is_file():
        pytest.skip(f"needs {file}: ImageNet weights under timm's names")
    model = TimmModelMulti({"mask": 3}, name, weights_file=str(file))
    state = safetensors.torch.load_file(file)
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.backbone.state_dict().items())


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


BAD_FILES: dict[str, tuple[Callable[[Path, dict[str, torch.Tensor]], object], str]] = {  # and what the error names
    "hostile": (lambda path, _: torch.save({"a": Bomb(path.with_name("touched"))}, path), "weights.pth"),
    "page": (lambda path, _: path.write_text("<!DOCTYPE html><title>404</title>"), "<!DOCTYPE html>"),
    "half": (lambda path, state: path.write_bytes(safetensors.torch.save(state)[:2000]), "cannot be read"),
    "another network": (lambda path, _: torch.save({"stem.weight": torch.zeros(1)}, path), "stem: weight (1,)"),
    "another shape": (
        lambda path, state: torch.save(state | {"conv1.0.weight": torch.zeros(1)}, path),
        "conv1.0: weight (1,)",
    ),
    "not finite": (
        lambda path, state: torch.save(state | {"conv1.0.weight": state["conv1.0.weight"] / 0}, path),
        "conv1.0.weight",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_refused_in_a_line_and_runs_nothing(
    tmp_path: Path, case: str, capfd: pytest.CaptureFixture[str]
) -> None:
    write, fragment = BAD_FILES[case]
    write(tmp_path / "weights.pth", timm.create_model("test_resnet").state_dict())
    with pytest.raises(ValueError, match=r"^weights_file = .*weights\.pth") as caught:
        TimmModelMulti({"mask": 3}, "test_resnet", weights_file=str(tmp_path / "weights.pth"))
    message = str(caught.value)
    assert fragment in message
    assert "\n" not in message
    assert "trust" not in message  # which is torch's advice
    assert capfd.readouterr() == ("", "")
    assert not (tmp_path / "touched").exists()


def test_a_silent_hub_is_asked_once_and_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[str] = []

    class Silent:
        def head(self, url: str, **_: Any) -> None:
            asked.append(url)
            raise OSError("no route")

    monkeypatch.setattr("model.backbone.get_session", Silent)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"^pretrained = true.*test_resnet.*weights_file") as caught:
        TimmModelMulti({"mask": 3}, "test_resnet", pretrained=True)
    assert time.monotonic() - start < 5
    assert len(asked) == 1
    assert "\n" not in str(caught.value)
    assert huggingface_hub.constants.HF_HUB_OFFLINE is False


@pytest.mark.parametrize("asked_of", ["the hub", "timm"])
def test_a_signal_during_the_download_is_no_failed_download(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], asked_of: str
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        signal.raise_signal(signal.SIGTERM)

    class Hub:
        def head(self, *_: Any, **__: Any) -> None:
            if asked_of == "the hub":
                interrupted()

    monkeypatch.setattr("model.backbone.get_session", Hub)
    monkeypatch.setattr(timm, "create_model", interrupted)
    assert run_command(lambda: TimmModelMulti({"mask": 3}, "test_resnet", pretrained=True)) == 75
    assert capsys.readouterr().err == "stopped by SIGTERM\n"
