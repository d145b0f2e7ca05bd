"""Optimizers by name: what JSON may say of them, their steps, and their state through a checkpoint file."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm.optim
import torch
from jsonschema import Draft202012Validator
from timm.models import group_parameters
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import Tensor, nn

from base.base_model import BaseModel
from experiment.schema import OPTIMIZER
from model import optim
from model.optim import OptimizerSettings, build_optimizer, parameter_groups
from utils.checkpoint.checkpoint_file import read_checkpoint, write_checkpoint
from utils.config.signatures import convert_arguments

SECTION = OPTIMIZER

ARGUMENTS: dict[str, dict[str, Any]] = {  # some keep state of several kinds
    "SGD": {"momentum": 0.9, "nesterov": True},
    "AdamW": {"amsgrad": True},
    "AdafactorBigVision": {"min_dim_size_to_factor": 4, "momentum_dtype": "bfloat16"},
    "Muon": {"algo": "adamuon", "nesterov": True},
}


class Net(BaseModel):
    """Convolutions, norms and matrices, in two stages."""

    def __init__(self) -> None:
        super().__init__({"mask": 3})
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
        self.body = nn.Sequential(nn.Linear(8 * 16, 12), nn.LayerNorm(12))
        self.head = nn.Linear(12, 3)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"mask": self.head(self.body(self.stem(images)))}

    def stages(self) -> list[list[str]]:
        return [[name for name, _ in self.named_parameters() if name.startswith(part)] for part in ("stem.", "body.")]


def make_net() -> Net:
    torch.manual_seed(0)
    return Net()


def take_step(net: Net, optimizer: torch.optim.Optimizer, number: int) -> float:
    """Step `number` of a training in which the stem is frozen before step 2."""
    net.stem.requires_grad_(number >= 2)
    torch.manual_seed(100 + number)
    images, target = torch.randn(6, 3, 6, 6), torch.randint(3, (6,))
    optimizer.zero_grad(set_to_none=True)
    loss = nn.functional.cross_entropy(net(images)["mask"], target)
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def built(name: str, net: Net, further: Any = (), **settings: Any) -> torch.optim.Optimizer:
    """As a config builds it, checked."""
    config = {"type": name, "args": ARGUMENTS.get(name, {}), **settings}
    assert SECTION.problems(config, ("optimizer",)) == []
    extra = OptimizerSettings(**convert_arguments(OptimizerSettings, settings))
    return build_optimizer(
        lambda groups: SECTION.build(config, ("optimizer",), {"params": groups}), net, further, extra
    )


@pytest.mark.parametrize(
    ("name", "lookahead"), [*((name, False) for name in ARGUMENTS), ("RMSprop", False), ("AdamP", False), ("SGD", True)]
)
def test_an_optimizer_resumes_exactly_from_a_checkpoint_file(name: str, lookahead: bool, tmp_path: Path) -> None:
    """Before and after a frozen part is unfrozen, between two steps of Lookahead; weights and file, bit for bit."""
    steps = 7

    def make(net: Net) -> torch.optim.Optimizer:
        return optim.lookahead(built(name, net), k=3) if lookahead else built(name, net)

    def save(net: Net, optimizer: torch.optim.Optimizer, file: str) -> Path:
        write_checkpoint(tmp_path / file, {"model": net.state_dict(), "optimizer": optimizer.state_dict()})
        return tmp_path / file

    net = make_net()
    optimizer = make(net)
    saved = []
    for number in range(steps):
        take_step(net, optimizer, number)
        saved.append(save(net, optimizer, f"{number}.pth"))
    assert not torch.equal(net.head.weight, make_net().head.weight)
    for stopped_after in (0, 1, 2, 4):
        again = make_net()
        resumed = make(again)
        content = read_checkpoint(saved[stopped_after])
        again.load_state_dict(content["model"])
        resumed.load_state_dict(content["optimizer"])
        for number in range(stopped_after + 1, steps):
            take_step(again, resumed, number)
        assert save(again, resumed, "resumed.pth").read_bytes() == saved[-1].read_bytes()


def test_a_config_may_name_every_optimizer() -> None:
    validator = Draft202012Validator(SECTION.schema())
    for name in optim.__all__:
        arguments = {"lr": 0.1, **ARGUMENTS.get(name, {})}
        config = {"type": name, "args": arguments, "lookahead": {"k": 5}}
        assert validator.is_valid(config), name
        assert SECTION.problems(config, ()) == []
        assert not validator.is_valid({**config, "args": {"no_such": 1}}), name
        optim.dry_run(partial(getattr(optim, name), **arguments))


@pytest.mark.parametrize(
    ("config", "key_path", "value"),
    [
        ({"type": "Adm"}, ("type",), '"Adam"'),
        ({"type": "Adam", "args": {"maximize": True}}, ("args", "maximize"), "not a known key"),
        ({"type": "AdamP", "args": {"lr": "fast"}}, ("args", "lr"), "number"),
        ({"type": "Adam", "layer_decay": 0}, ("layer_decay",), "above 0"),
        ({"type": "Adam", "lookahead": {"alph": 0.5}}, ("lookahead", "alph"), '"alpha"'),
        ({"type": "Adam", "sharpness_aware": {"rho": 0}}, ("sharpness_aware", "rho"), "above 0"),
        ({"type": "Adam", "lookahed": {}}, ("lookahed",), '"lookahead"'),
    ],
)
def test_wrong_settings_are_refused_in_one_line(config: dict[str, Any], key_path: tuple[str, ...], value: str) -> None:
    (problem,) = SECTION.problems(config, ())
    assert problem.key_path[: len(key_path)] == key_path
    assert value in str(problem)


@pytest.mark.parametrize(
    ("name", "argument", "value"),
    [
        # taken by timm in silence
        ("AdamP", "lr", -1),
        ("AdamP", "betas", [2, 0.9]),
        ("AdafactorBigVision", "eps", -1.0),
        ("SGD", "momentum", 1.5),
        # refused by a constructor
        ("Adam", "lr", -1),
        ("Muon", "algo", "mion"),
        # refused at the first step
        ("AdamP", "betas", [0.9]),
        ("Muon", "ns_coefficients", "sixtic"),
    ],
)
def test_nonsense_is_refused_by_the_dry_run(name: str, argument: str, value: Any) -> None:
    with pytest.raises((ValueError, TypeError, AssertionError, RuntimeError)):
        optim.dry_run(lambda parameters: getattr(optim, name)(parameters, **{"lr": 0.1, argument: value}))


def test_only_weights_decay_and_each_stage_has_its_rate() -> None:
    """Seen from the weights after one step: without a gradient AdamW only decays them, by lr * weight_decay."""
    net = make_net()
    own = nn.Parameter(torch.ones(3))
    optimizer = built("AdamW", net, [own], decay_norms_and_biases=False, layer_decay=0.5)
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    for parameter in (*net.parameters(), own):
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    decays = {"stem.0.weight": 0.25, "body.0.weight": 0.5, "head.weight": 1.0}
    for name, parameter in net.named_parameters():
        factor = 1 - 1e-3 * decays[name] * 1e-2 if name in decays else 1.0
        torch.testing.assert_close(parameter, before[name] * factor, rtol=0, atol=1e-8)
        assert torch.equal(parameter, before[name]) == (name not in decays or not before[name].any())
    assert torch.equal(own, torch.ones(3))


def test_steps_are_fused_on_a_gpu_unless_the_config_says_otherwise() -> None:
    fused = {"SGD", "Adam", "AdamW", "Adagrad"}  # as torch's manual lists them
    for name in optim.__all__:
        kind, added = getattr(optim, name), {"fused": True} if name in fused else {}
        assert optim.fused_argument(kind, {"lr": 0.1, "fused": None}, torch.device("cuda")) == added
        assert optim.fused_argument(kind, {"lr": 0.1}, torch.device("cpu")) == {}
        assert optim.fused_argument(kind, {"foreach": False}, torch.device("cuda")) == {}


# --- groups of parameters, against timm's of the same model ---


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
    decays = by_parameter(wrapped, parameter_groups(wrapped, decay_norms_and_biases=False), "weight_decay", 0.05)
    assert decays == {f"inner.{name}": decay for name, decay in theirs.items()}


@pytest.mark.parametrize("decay_norms_and_biases", [True, False])
def test_rates_by_layer_are_timms(wrapped: Wrapped, decay_norms_and_biases: bool) -> None:
    theirs = by_parameter(
        wrapped.inner, param_groups_layer_decay(wrapped.inner, layer_decay=0.7), "lr_scale", float("nan")
    )
    groups = parameter_groups(wrapped, decay_norms_and_biases, layer_decay=0.7)
    ours = by_parameter(wrapped, groups, "lr_scale", float("nan"))
    assert ours == pytest.approx({f"inner.{name}": scale for name, scale in theirs.items()})


def test_plain_settings_make_one_group_also_of_frozen_parameters(wrapped: Wrapped) -> None:
    wrapped.requires_grad_(False)
    (group,) = parameter_groups(wrapped)
    assert [*map(id, group["params"])] == [*map(id, wrapped.parameters())]
    assert group.keys() == {"params"}
    wrapped.requires_grad_(True)


def test_a_model_without_stages_has_no_rates_by_layer() -> None:
    class Flat(BaseModel):
        def forward(self, images: Tensor) -> dict[str, Tensor]:
            return {"mask": images}

    with pytest.raises(ValueError, match=r"^layer_decay = 0\.5: "):
        parameter_groups(Flat({"mask": 3}), layer_decay=0.5)
