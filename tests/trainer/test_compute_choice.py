"""What a run computes in: what settings, machine and measurement make of it, and that measuring leaves no trace."""

from __future__ import annotations

import copy
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from base.base_trainer import TrainerSettings
from tests.trainer.conftest import CPU, MakeTrainer, SmallModel
from trainer import compute_choice
from trainer.compute_choice import MEASURED_BATCH, MEASURED_FROM, MEASURED_ROUNDS, Compute, choose_compute
from trainer.resume import ResumePoint
from utils import distributed
from utils.checkpoint.checkpoint_file import read_checkpoint
from utils.errors import CheckpointError
from utils.run_folders import RunFolders

USUAL = Compute(torch.float32, channels_last=True)
HW = (12, 10)
Rates = dict[tuple[torch.dtype, bool], float]


def make_native(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU with instructions for bfloat16, and a measurement of as few rounds as may be."""
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


def point(content: dict[str, Any], name: str = "last.pth") -> ResumePoint:
    return ResumePoint(RunFolders(Path("saved"), "Name", "run"), content, Path(name))


def choose(
    images: int = MEASURED_FROM,
    checkpoint: dict[str, Any] | None = None,
    model: SmallModel | None = None,
    others: Sequence[dict[str, Any]] = (),
    **settings: Any,
) -> Compute:
    """others: the checkpoints of other folds."""
    resume = None if checkpoint is None else point(checkpoint)
    folds = [point(content, f"fold_{number}/last.pth") for number, content in enumerate(others)]
    return choose_compute(
        TrainerSettings(epochs=1, **settings), model or SmallModel(), (6, 6), CPU, images, resume, folds
    )


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
    assert timed == [*timed[:4]] * (1 + MEASURED_ROUNDS)  # in turn, the first time to prepare
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


def test_noise_does_not_decide(with_rates: Callable[[Rates], list[Compute]], monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 is twice as fast, and all of its rounds but one are disturbed."""
    with_rates({})
    for calm in range(3):
        disturbed = [4.5 if number != calm else 0.5 for number in range(3)]
        rounds = {FLOAT: iter([9.0, 1.0, 1.0, 1.0]), HALF: iter([9.0, *disturbed])}  # the first time to prepare

        def seconds(compute: Compute, *_: Any, rounds: dict[torch.dtype, Iterator[float]] = rounds) -> float:
            return next(rounds[compute.compute_type])

        monkeypatch.setattr(compute_choice, "_seconds", seconds)
        assert choose(channels_last=True) == Compute(HALF, True)


def test_a_fold_takes_what_the_first_of_the_others_computes_in(with_rates: Callable[[Rates], list[Compute]]) -> None:
    timed = with_rates({})
    first, second = Compute(HALF, False), Compute(FLOAT, False)
    contents: list[dict[str, Any]] = [
        {},  # of an earlier version
        {"compute": {"cuda": second.to_config()}},
        {"compute": {"cpu": first.to_config(), "cuda": second.to_config()}},
        {"compute": {"cpu": second.to_config()}},
    ]
    assert choose(others=contents) == first
    assert choose(MEASURED_FROM - 1, others=contents) == first  # folds are not all of one size
    assert choose(checkpoint=contents[3], others=contents) == second
    assert timed == []
    timed = with_rates({(FLOAT, True): 10, (FLOAT, False): 20, (HALF, True): 10, (HALF, False): 10})
    assert choose(others=contents[:2]) == second
    assert timed


CHOICE = {"precision": "float32", "channels_last": True}


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        [],
        "cpu",
        5,
        {"cpu": None},
        {"cpu": []},
        {"cpu": "float32"},
        {"cpu": {}},
        {"cpu": {"channels_last": True}},
        {"cpu": {**CHOICE, "precision": "float8"}},
        {"cpu": {**CHOICE, "precision": ["float32"]}},
        {"cpu": {**CHOICE, "precision": 32}},
        {"cpu": {**CHOICE, "channels_last": "no"}},
        {"cpu": {**CHOICE, "channels_last": 1}},
        {"cpu": CHOICE, "cuda": torch.zeros(3)},
        {5: CHOICE},
    ],
    ids=repr,
)
def test_a_choice_that_is_none_is_refused(with_rates: Callable[[Rates], list[Compute]], wrong: Any) -> None:
    with_rates({})
    with pytest.raises(CheckpointError, match=r"^last\.pth: cannot be used: its compute is not what this program"):
        choose(checkpoint={"compute": wrong})
    with pytest.raises(CheckpointError, match=r"^fold_0/last\.pth: cannot be used: its compute"):
        choose(others=[{"compute": wrong}])


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

    monkeypatch.setattr(distributed, "broadcast_text", broadcast)
    assert choose() == Compute(HALF, True)
    timed.clear()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(distributed, "broadcast_text", lambda _text: said[0])
    others = [{"compute": {"cpu": Compute(FLOAT, False).to_config()}}]  # which has come there meanwhile
    assert choose(others=others) == Compute(HALF, True)
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


def test_a_run_that_comes_back_to_a_kind_of_device_keeps_to_what_it_began_with(make_trainer: MakeTrainer) -> None:
    first = make_trainer("first", compute=Compute(HALF, False), epochs=1)
    first.trainer.train()
    content = read_checkpoint(first.folder / "last.pth")
    elsewhere = {**content, "compute": {"cuda": content["compute"]["cpu"], "cpu": CHOICE}}
    second = make_trainer("second", resume=elsewhere, compute=Compute(FLOAT, False), epochs=2)
    second.trainer.train()
    assert read_checkpoint(second.folder / "last.pth")["compute"] == {
        "cuda": {"precision": "bfloat16", "channels_last": False},
        "cpu": {"precision": "float32", "channels_last": False},
    }
    with pytest.raises(CheckpointError, match="its compute is not what"):
        make_trainer("third", resume={**content, "compute": None})
