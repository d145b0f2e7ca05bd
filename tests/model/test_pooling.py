"""GeM against the formula in NumPy, within timm's models, and refused where there is no feature map."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from timm.layers import SelectAdaptivePool2d
from torch import nn

from model.model import TimmModelMulti
from model.pooling import GeM, use_gem


def gem(features: np.ndarray, p: float, places: tuple[int, int] = (2, 3)) -> np.ndarray:
    return np.mean(np.maximum(features, 1e-6) ** p, axis=places) ** (1 / p)


def positive(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) + 0.1


@pytest.mark.parametrize("p", [1.0, 2.5, 3.0, 8.0])
def test_the_formula(p: float) -> None:
    features = positive(2, 5, 4, 3)
    layer = GeM()
    assert layer.p.item() == 3.0
    layer.p.data.fill_(p)
    np.testing.assert_allclose(layer(features).detach().numpy(), gem(features.double().numpy(), p), rtol=1e-5)


def test_zeros_negatives_and_half_precision_stay_finite() -> None:
    layer = GeM()
    features = torch.tensor([[[[0.0, -3.0]]]], requires_grad=True)
    pooled = layer(features)
    pooled.sum().backward()
    torch.testing.assert_close(pooled.detach(), torch.tensor([[1e-6]]), rtol=1e-3, atol=0)
    assert features.grad is not None
    assert layer.p.grad is not None
    assert features.grad.isfinite().all()
    assert layer.p.grad.isfinite().all()
    large = GeM().half()(torch.full((1, 1, 2, 2), 1000.0, dtype=torch.float16))
    assert large.dtype == torch.float16
    assert large.item() == pytest.approx(1000, rel=1e-3)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("flatten", [True, False])
def test_it_replaces_the_pooling_of_each_of_timms_layouts(layout: str, flatten: bool) -> None:
    features = positive(2, 4, 3, 5)
    model = nn.Sequential(SelectAdaptivePool2d(flatten=flatten, input_fmt=layout))
    expected = model(features).shape
    use_gem(model)
    pooled = model(features)
    assert pooled.shape == expected
    axes = (2, 3) if layout == "NCHW" else (1, 2)
    np.testing.assert_allclose(pooled.detach().flatten(1).numpy(), gem(features.double().numpy(), 3.0, axes), rtol=1e-5)


def test_a_model_that_pools_nowhere_or_twice_is_refused() -> None:
    for model in (
        nn.Flatten(),
        nn.Sequential(*[SelectAdaptivePool2d() for _ in range(2)]),
        SelectAdaptivePool2d(1, ""),
    ):
        with pytest.raises(ValueError, match="feature map"):
            use_gem(model)


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "mobilenetv3_small_050"])
def test_in_a_model_the_layers_behind_the_pooling_stay(name: str) -> None:
    """The same weights with timm's pooling, whose output is replaced by the formula's, answer alike."""
    torch.manual_seed(0)
    ours = TimmModelMulti({"mask": 3}, name, pooling="gem").eval()
    (p_name,) = [key for key in ours.backbone.state_dict() if key.endswith("global_pool.pool.p")]
    plain = timm.create_model(name, num_classes=0).eval()
    plain.load_state_dict({key: value for key, value in ours.backbone.state_dict().items() if key != p_name})
    pool = plain.get_submodule(p_name.removesuffix(".pool.p"))

    def formula(_: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(gem(inputs[0].double().numpy(), 3.0)).float().reshape(output.shape)

    pool.register_forward_hook(formula)
    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours.backbone(images), plain(images), rtol=1e-4, atol=1e-4)
    ours.train()(images)["mask"].square().sum().backward()
    gradient = ours.backbone.get_parameter(p_name).grad
    assert gradient is not None
    assert gradient.item() != 0
    assert f"backbone.{p_name}" not in [key for stage in ours.stages() for key in stage]  # new, like the heads


@pytest.mark.parametrize("name", ["vit_base_patch16_224", "resnet50_clip", "levit_128s"])
def test_backbones_without_a_feature_map_refuse_gem(name: str) -> None:
    with pytest.raises(ValueError, match=f"^pooling = gem: .*{name}"), torch.device("meta"):
        TimmModelMulti({"mask": 3}, name, pooling="gem")


@pytest.mark.parametrize(("name", "pooling"), [("test_resnet", "gem"), ("test_vit", "map")])
def test_weights_file_of_the_usual_model_fills_all_but_the_pooling(tmp_path: Path, name: str, pooling: str) -> None:
    state = timm.create_model(name).state_dict()
    torch.save(state, tmp_path / "weights.pth")
    model = TimmModelMulti({"mask": 3}, name, weights_file=str(tmp_path / "weights.pth"), pooling=pooling)  # type: ignore[arg-type]
    own = model.backbone.state_dict()
    new = own.keys() - state.keys()
    assert new
    assert all(torch.equal(own[key], state[key]) for key in own.keys() - new)
    assert {key.removeprefix("backbone.") for stage in model.stages() for key in stage}.isdisjoint(new)
    torch.save({key: value for key, value in state.items() if "1" not in key}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth"):
        TimmModelMulti({"mask": 3}, name, weights_file=str(tmp_path / "other.pth"), pooling=pooling)  # type: ignore[arg-type]
