"""Groups of parameters, against timm's of the same model."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from timm.models import group_parameters
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import Tensor, nn

from base.base_model import BaseModel
from model.model import BaselineCNN
from model.parameter_groups import parameter_groups


class Wrapped(BaseModel):
    """A small timm model with its classifier for a head, its stages timm's finest groups of layers."""

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__({"mask": 3})
        self.inner = timm.create_model(name, num_classes=3, **options)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"mask": self.inner(images)}

    def stages(self) -> list[list[str]]:
        groups = group_parameters(self.inner, self.inner.group_matcher(coarse=False))
        names = [[f"inner.{name}" for name in groups[key]] for key in sorted(groups)]
        return names[:-1]  # the last is the classifier


MODELS: dict[str, Any] = {
    "vit_tiny_patch16_224": {"img_size": 32, "depth": 3, "embed_dim": 24, "num_heads": 2},
    "swin_tiny_patch4_window7_224": {"img_size": 56, "depths": (1, 1, 1, 1), "embed_dim": 12, "num_heads": (1,) * 4},
    "resnet18": {},
}


@pytest.fixture(scope="module", params=MODELS)
def wrapped(request: pytest.FixtureRequest) -> Wrapped:
    torch.manual_seed(0)
    return Wrapped(request.param, **MODELS[request.param])


def by_parameter(model: nn.Module, groups: list[dict[str, Any]], key: str, default: float) -> dict[str, float]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {names[id(parameter)]: group.get(key, default) for group in groups for parameter in group["params"]}
    assert found.keys() == set(names.values())
    assert sum(len(group["params"]) for group in groups) == len(names)
    return found


def test_what_decays_is_what_timm_says(wrapped: Wrapped) -> None:
    exempt: set[str] = getattr(wrapped.inner, "no_weight_decay", set)()
    theirs = by_parameter(
        wrapped.inner, param_groups_weight_decay(wrapped.inner, 0.05, no_weight_decay_list=exempt), "weight_decay", 0
    )
    ours = parameter_groups(wrapped, decay_norms_and_biases=False)
    assert len(ours) == 2
    decays = by_parameter(wrapped, ours, "weight_decay", 0.05)
    assert decays == {f"inner.{name}": decay for name, decay in theirs.items()}
    assert set(decays.values()) == {0.0, 0.05}


def test_a_model_exempts_more_than_norms_and_biases(wrapped: Wrapped) -> None:
    groups = parameter_groups(wrapped, decay_norms_and_biases=False)
    exempt = [name for name, decay in by_parameter(wrapped, groups, "weight_decay", 1).items() if decay == 0]
    shapes = {name: parameter.ndim for name, parameter in wrapped.named_parameters()}
    larger = {name for name in exempt if shapes[name] > 1 and not name.endswith("bias")}
    kind = type(wrapped.inner).__name__
    assert {name.split(".")[-1] for name in larger} == {
        "VisionTransformer": {"pos_embed", "cls_token"},
        "SwinTransformer": {"relative_position_bias_table"},
        "ResNet": set(),
    }[kind]


@pytest.mark.parametrize("decay_norms_and_biases", [True, False])
def test_rates_by_layer_are_timms(wrapped: Wrapped, decay_norms_and_biases: bool) -> None:
    theirs = by_parameter(
        wrapped.inner, param_groups_layer_decay(wrapped.inner, layer_decay=0.7), "lr_scale", float("nan")
    )
    groups = parameter_groups(wrapped, decay_norms_and_biases, layer_decay=0.7)
    ours = by_parameter(wrapped, groups, "lr_scale", float("nan"))
    assert ours == pytest.approx({f"inner.{name}": scale for name, scale in theirs.items()})
    assert max(ours.values()) == 1
    assert len(set(ours.values())) == len(wrapped.stages()) + 1


def test_plain_settings_group_nothing(wrapped: Wrapped) -> None:
    (group,) = parameter_groups(wrapped)
    assert [*map(id, group["params"])] == [*map(id, wrapped.parameters())]
    assert group.keys() == {"params"}


def test_frozen_parameters_are_in_the_groups() -> None:
    model = BaselineCNN({"mask": 3}, width=2)
    model.requires_grad_(False)
    groups = parameter_groups(model, False, 0.5)
    assert len(by_parameter(model, groups, "lr_scale", 1.0)) == len(list(model.parameters()))


def test_a_model_without_stages_has_no_rates_by_layer() -> None:
    class Flat(BaseModel):
        def forward(self, images: Tensor) -> dict[str, Tensor]:
            return {"mask": images}

    with pytest.raises(ValueError, match=r"^layer_decay = 0\.5: Flat has no stages; leave it out$"):
        parameter_groups(Flat({"mask": 3}), layer_decay=0.5)
