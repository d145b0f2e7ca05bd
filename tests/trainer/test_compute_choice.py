"""What a run computes in: what settings, machine and measurement make of it, and that measuring leaves no trace."""

from __future__ import annotations

import copy
import itertools
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch

from base.base_trainer import TrainerSettings
from tests.trainer.conftest import CPU, MakeTrainer, SmallModel
from trainer import compute_choice
from trainer.compute_choice import MEASURED_BATCH, MEASURED_FROM, Compute, choose_compute
from utils import process_group
from utils.checkpoint_file import read_checkpoint
from utils.errors import CheckpointError

USUAL = Compute(torch.float32, channels_last=True)
HW = (12, 10)
Rates = dict[tuple[torch.dtype, bool], float]


def make_native(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU with instructions for bfloat16, and a measurement of one round."""
    monkeypatch.setattr(compute_choice, "computes_bfloat16_natively", lambda: True)
    monkeypatch.setattr(compute_choice, "MEASURED_SECONDS", 0.0)


@pytest.fixture
def with_rates(monkeypatch: pytest.MonkeyPatch) -> Callable[[Rates], list[Compute]]:
    """with_rates({(type, channels_last): images/s}): what measuring will find; returns the list of what is timed."""
    make_native(monkeypatch)

    def give(rates: Rates) -> list[Compute]:
        timed: list[Compute] = []

        def seconds(compute: Compute, *_: Any) -> float:
            timed.append(compute)
            return MEASURED_BATCH / rates[compute.compute_type, compute.channels_last]

        monkeypatch.setattr(compute_choice, "_seconds", seconds)
        return timed

    return give


def choose(
    images: int = MEASURED_FROM, checkpoint: Any = None, model: SmallModel | None = None, **settings: Any
) -> Compute:
    return choose_compute(TrainerSettings(epochs=1, **settings), model or SmallModel(), (6, 6), CPU, images, checkpoint)


FLOAT, HALF = torch.float32, torch.bfloat16


@pytest.mark.parametrize(
    ("rates", "chosen"),
    [
        ({(FLOAT, True): 10, (FLOAT, False): 9, (HALF, True): 25, (HALF, False): 20}, Compute(HALF, True)),
        ({(FLOAT, True): 10, (FLOAT, False): 10.9, (HALF, True): 11.9, (HALF, False): 11}, USUAL),
        ({(FLOAT, True): 10, (FLOAT, False): 11.1, (HALF, True): 11.9, (HALF, False): 9}, Compute(FLOAT, False)),
        ({(FLOAT, True): 10, (FLOAT, False): 20, (HALF, True): 21, (HALF, False): 25}, Compute(HALF, False)),
        ({(FLOAT, True): 10, (FLOAT, False): 20, (HALF, True): 12, (HALF, False): 23}, Compute(FLOAT, False)),
    ],
)
def test_the_fastest_wins_by_a_margin(
    with_rates: Callable[[Rates], list[Compute]], rates: Rates, chosen: Compute, caplog: pytest.LogCaptureFixture
) -> None:
    timed = with_rates(rates)
    with caplog.at_level(logging.INFO, compute_choice.logger.name):
        assert choose() == chosen
    assert timed == [*timed[:4]] * 2  # in turn, the first time to prepare
    assert len(set(timed)) == 4
    (line,) = caplog.messages
    assert chosen.title() in line
    for (kind, channels_last), rate in rates.items():
        assert f"{Compute(kind, channels_last).title()} {rate:.1f}" in line


def test_only_what_is_left_open_is_measured(with_rates: Callable[[Rates], list[Compute]]) -> None:
    rates: Rates = dict.fromkeys(itertools.product([FLOAT, HALF], [True, False]), 10.0)
    timed = with_rates(rates | {(HALF, False): 30.0})
    assert choose(precision="float32") == USUAL
    assert {compute.compute_type for compute in timed} == {FLOAT}
    timed.clear()
    assert choose(channels_last=False) == Compute(HALF, False)
    assert {compute.channels_last for compute in timed} == {False}
    timed.clear()
    assert choose(precision="bfloat16", channels_last=True) == Compute(HALF, True)
    assert choose(precision="float32", channels_last=False) == Compute(FLOAT, False)
    assert timed == []


def test_short_runs_and_other_machines_are_not_measured(
    with_rates: Callable[[Rates], list[Compute]], monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = with_rates({})
    assert choose(MEASURED_FROM - 1) == USUAL
    assert choose(MEASURED_FROM - 1, precision="bfloat16") == Compute(HALF, True)
    monkeypatch.setattr(compute_choice, "computes_bfloat16_natively", lambda: False)
    assert choose() == USUAL
    assert timed == []


def test_a_resumed_run_keeps_to_its_choice(with_rates: Callable[[Rates], list[Compute]]) -> None:
    timed = with_rates({})
    kept = Compute(HALF, False)
    assert choose(checkpoint={"compute": {"cpu": kept.to_config()}}) == kept
    assert choose(checkpoint={"compute": {"cuda": kept.to_config()}}) == USUAL
    assert choose(checkpoint={}) == USUAL
    assert timed == []
    for wrong in ({"precision": "float8", "channels_last": True}, {"channels_last": True}, "float32"):
        with pytest.raises(CheckpointError, match="compute: is not what"):
            choose(checkpoint={"compute": {"cpu": wrong}})


def test_the_main_process_decides(
    with_rates: Callable[[Rates], list[Compute]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another finds other times, and would choose otherwise."""
    said: list[str] = []
    rates = {(FLOAT, True): 10.0, (FLOAT, False): 9.0, (HALF, True): 25.0, (HALF, False): 9.0}
    timed = with_rates(rates)

    def broadcast(text: str) -> str:
        said.append(text)
        return text

    monkeypatch.setattr(process_group, "broadcast_text", broadcast)
    assert choose() == Compute(HALF, True)
    timed.clear()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(process_group, "broadcast_text", lambda _text: said[0])
    assert choose() == Compute(HALF, True)
    assert timed == []


def test_measuring_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    make_native(monkeypatch)
    model = SmallModel().eval()
    before = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    chosen = choose(model=model)
    assert chosen.compute_type in (FLOAT, HALF)
    assert torch.equal(torch.get_rng_state(), random)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
        assert tensor.is_contiguous()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.training


@pytest.mark.parametrize("compute", [Compute(HALF, False), Compute(HALF, True), Compute(FLOAT, False)], ids=str)
def test_a_run_computes_in_its_choice_and_keeps_it(make_trainer: MakeTrainer, compute: Compute) -> None:
    built = make_trainer(compute=compute, epochs=1)
    seen: list[torch.Tensor] = []
    built.trainer.learner.model.register_forward_pre_hook(lambda _model, images: seen.append(images[0]))
    built.trainer.train()
    assert all(images.dtype == compute.compute_type for images in seen)
    assert all(images.is_contiguous(memory_format=compute.memory_format) for images in seen)
    kept = read_checkpoint(built.folder / "last.pth")
    assert choose(checkpoint=kept) == compute
    assert {parameter.dtype for parameter in built.trainer.learner.model.parameters()} == {FLOAT}
