"""Weights are loaded whole, from under any wrapper, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from base.weights import load_weights, without_wrappers
from utils.errors import CheckpointError

PATH = Path("last.pth")


def layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: model,
        lambda model: nn.DataParallel(model),
        torch.compile,
        lambda model: nn.DataParallel(torch.compile(model)),  # type: ignore[type-var]
        lambda model: torch.compile(nn.DataParallel(model)),
    ],
    ids=["bare", "parallel", "compiled", "parallel-compiled", "compiled-parallel"],
)
def test_61_weights_of_a_wrapped_model_fit_the_bare_one(wrap) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(1)
    trained, model = layers(), layers()
    load_weights(model, wrap(trained).state_dict(), PATH)
    for name, tensor in trained.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_a_name_that_only_some_begin_with_is_a_layer_of_that_name() -> None:
    weights = {"module.weight": torch.zeros(1), "bias": torch.zeros(1)}
    assert without_wrappers(weights) == weights
    assert without_wrappers({}) == {}


def test_62_the_layer_that_does_not_fit_is_named_and_nothing_is_loaded() -> None:
    model = layers()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    wrapped = {f"module.{name}": tensor + 1 for name, tensor in before.items()}
    wrapped["module.2.weight"] = torch.zeros(3, 4)
    with pytest.raises(
        CheckpointError, match=r"last\.pth: .* 2\.weight has shape \(3, 4\), and the model's has \(2, 4"
    ):
        load_weights(model, wrapped, PATH)
    del wrapped["module.2.weight"]
    with pytest.raises(CheckpointError, match=r"it lacks 2\.weight, and has nothing that the model lacks"):
        load_weights(model, wrapped, PATH)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensor: tensor.to("meta"), "another type"),
        (lambda tensor: tensor.to_sparse(), "another type"),
        (lambda tensor: tensor > 0, "another type"),
        (lambda tensor: tensor.to(torch.complex64), "another type"),
        (lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8), "another type"),
        (lambda tensor: tensor.double() * 1e300, "not finite"),
    ],
)
def test_weights_of_another_kind_are_refused(change: Callable[[torch.Tensor], torch.Tensor], words: str) -> None:
    weights = layers().state_dict()
    with pytest.raises(CheckpointError, match=rf"last\.pth: .*2\.bias .*{words}"):
        load_weights(layers(), weights | {"2.bias": change(weights["2.bias"])}, PATH)
