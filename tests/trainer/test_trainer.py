"""The step, the epoch, stopping and resuming: each against an independent derivation."""

from __future__ import annotations

import json
import logging
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau, StepLR

from base.base_trainer import BaseTrainer
from base.batch import UNKNOWN
from tests.trainer.conftest import Built, MakeTrainer, MemoryLoader, SmallModel, stop_after
from trainer.schedule import Schedule
from trainer.trainer import Trainer
from utils.checkpoint.checkpoint_file import read_checkpoint
from utils.errors import ConfigError, DivergenceError, KeyboardStop, StopSignal

SCHEDULES: dict[str, Any] = {
    "none": None,
    "StepLR": lambda optimizer: Schedule(StepLR(optimizer, 2, 0.5), "epoch"),
    "OneCycleLR": lambda optimizer: Schedule(OneCycleLR(optimizer, 0.05, total_steps=30), "step"),
    "plateau": lambda optimizer: Schedule(ReduceLROnPlateau(optimizer, patience=0), "epoch", "val/loss"),
}


def weights(built: Built) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in built.trainer.learner.model.state_dict().items()}


def assert_equal_weights(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_the_base_trainer_is_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        BaseTrainer(3)  # type: ignore[abstract]


def test_the_same_run_twice_is_identical(make_trainer: MakeTrainer) -> None:
    first, second = make_trainer("first"), make_trainer("second")
    first.trainer.train()
    second.trainer.train()
    assert_equal_weights(weights(first), weights(second))
    assert first.metrics_file.read_bytes() == second.metrics_file.read_bytes()
    assert (first.folder / "last.pth").read_bytes() == (second.folder / "last.pth").read_bytes()


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_a_run_stopped_after_any_update_ends_the_same(
    make_trainer: MakeTrainer, schedule: str, accumulation_steps: int
) -> None:
    arguments = {
        "schedule": SCHEDULES[schedule], "accumulation_steps": accumulation_steps, "save_best": ["max val/f1"],
    }  # fmt: skip
    whole = make_trainer("whole", **arguments)
    whole.trainer.train()
    for updates in range(1, whole.trainer.learner.updates + 1):
        stopped = make_trainer(f"stopped{updates}", **arguments)
        stop_after(stopped, updates)
        with pytest.raises(StopSignal):
            stopped.trainer.train()
        assert stopped.trainer.learner.updates == updates
        resumed = make_trainer(f"stopped{updates}", resume=read_checkpoint(stopped.folder / "last.pth"), **arguments)
        resumed.trainer.train()
        assert_equal_weights(weights(whole), weights(resumed))
        assert resumed.metrics_file.read_bytes() == whole.metrics_file.read_bytes()
        for file in ("last.pth", "model_best.pth", "best_f1.pth"):
            assert (resumed.folder / file).read_bytes() == (whole.folder / file).read_bytes()


def test_a_resumed_run_that_forgets_its_schedule_would_differ(make_trainer: MakeTrainer) -> None:
    """The comparison above can fail."""
    whole = make_trainer("whole", schedule=SCHEDULES["StepLR"])
    whole.trainer.train()
    stopped = make_trainer("stopped", schedule=SCHEDULES["StepLR"])
    stop_after(stopped, 7)
    with pytest.raises(StopSignal):
        stopped.trainer.train()
    content = read_checkpoint(stopped.folder / "last.pth")
    resumed = make_trainer("stopped", resume={**content, "schedule": None}, schedule=SCHEDULES["StepLR"])
    resumed.trainer.train()
    assert any(not torch.equal(a, b) for a, b in zip(weights(whole).values(), weights(resumed).values(), strict=True))


def test_a_run_may_be_extended_and_a_finished_one_is_left_alone(make_trainer: MakeTrainer) -> None:
    whole, short = make_trainer("whole", epochs=4), make_trainer("short", epochs=2)
    whole.trainer.train()
    short.trainer.train()
    before = (short.folder / "last.pth").read_bytes()
    again = make_trainer("short", epochs=2, resume=read_checkpoint(short.folder / "last.pth"))
    again.trainer.train()
    assert (short.folder / "last.pth").read_bytes() == before
    longer = make_trainer("short", epochs=4, resume=read_checkpoint(short.folder / "last.pth"))
    longer.trainer.train()
    assert_equal_weights(weights(whole), weights(longer))
    assert longer.metrics_file.read_bytes() == whole.metrics_file.read_bytes()


def test_a_schedule_that_was_planned_for_another_length_is_refused(make_trainer: MakeTrainer) -> None:
    short = make_trainer("run", epochs=2, schedule=SCHEDULES["OneCycleLR"])
    short.trainer.train()
    content = read_checkpoint(short.folder / "last.pth")
    with pytest.raises(ConfigError, match="was planned for 30 steps, and the run would now take 40"):
        make_trainer(
            "run", epochs=8, resume=content, schedule=lambda o: Schedule(OneCycleLR(o, 0.05, total_steps=40), "step")
        )


def test_accumulation_equals_one_large_batch(make_trainer: MakeTrainer) -> None:
    """Also where the batches know different numbers of labels. Without batch statistics and dropout the two are one."""
    models = [SmallModel(False, 0), SmallModel(False, 0)]
    models[1].load_state_dict(models[0].state_dict())
    arguments = {"epochs": 1, "lr": 0.1, "optimizer": torch.optim.SGD}
    small = make_trainer(
        "small", loader=MemoryLoader(24, 8, batch_size=4), model=models[0], accumulation_steps=3, **arguments
    )
    large = make_trainer("large", loader=MemoryLoader(24, 8, batch_size=12), model=models[1], **arguments)
    small.trainer.train()
    large.trainer.train()
    assert small.trainer.learner.updates == large.trainer.learner.updates == 2
    for name, tensor in weights(small).items():
        torch.testing.assert_close(tensor, weights(large)[name], rtol=1e-5, atol=1e-6)
    lines = [json.loads(built.metrics_file.read_text()) for built in (small, large)]
    assert lines[0]["val/loss"] == pytest.approx(lines[1]["val/loss"], rel=1e-5)


def test_one_update_is_the_mathematics(make_trainer: MakeTrainer) -> None:
    """One SGD step on a batch with unknown labels, against plain torch on the known labels alone."""
    loader = MemoryLoader(8, 4, batch_size=8)
    torch.manual_seed(0)
    model = SmallModel(False, 0)
    built = make_trainer("run", loader=loader, model=model, epochs=1, lr=0.5, optimizer=torch.optim.SGD)
    batch = next(loader.train_batches(1))
    assert (batch.targets["mask"] == UNKNOWN).any()
    assert (batch.targets["age"] == UNKNOWN).any()
    torch.manual_seed(0)
    reference = SmallModel(False, 0)
    reference.load_state_dict(model.state_dict())
    logits = reference((batch.images / 255 - 0.5) / 0.25)
    known = {name: target != UNKNOWN for name, target in batch.targets.items()}
    mask = nn.functional.cross_entropy(
        logits["mask"][known["mask"]], batch.targets["mask"][known["mask"]], weight=torch.tensor([1.0, 2.0])
    )
    p = logits["age"][known["age"]].softmax(1).gather(1, batch.targets["age"][known["age"]][:, None])[:, 0]
    age = (-((1 - p) ** 2) * p.log()).mean()
    (0.4 * mask + 0.6 * age).backward()
    expected = {name: parameter - 0.5 * parameter.grad for name, parameter in reference.named_parameters()}  # type: ignore[operator]
    built.trainer.train()
    for name, parameter in built.trainer.learner.model.named_parameters():
        torch.testing.assert_close(parameter, expected[name], rtol=1e-4, atol=1e-5)
    line = json.loads(built.metrics_file.read_text())
    assert line["train/loss_mask"] == pytest.approx(float(mask.detach()), rel=1e-5)
    assert line["train/loss_age"] == pytest.approx(float(age.detach()), rel=1e-5)
    assert line["train/loss"] == pytest.approx(0.4 * float(mask.detach()) + 0.6 * float(age.detach()), rel=1e-5)


@pytest.mark.parametrize("valid_batch_size", [1, 2, 5, 40])
def test_validation_equals_scikit_learn_for_every_batch_size(make_trainer: MakeTrainer, valid_batch_size: int) -> None:
    loader = MemoryLoader(16, 37, valid_batch_size=valid_batch_size)
    built = make_trainer("run", loader=loader)
    metrics = built.trainer.validate(1)
    rows = torch.arange(16, 53)
    built.trainer.learner.model.eval()
    with torch.no_grad():
        logits = built.trainer.learner.model((loader.images[rows] / 255 - 0.5) / 0.25)
    probabilities = {name: output.softmax(1).numpy() for name, output in logits.items()}
    to_scoring = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    said = {"mask": probabilities["mask"].argmax(1), "age": (probabilities["age"] @ to_scoring).argmax(1)}
    truth = {name: loader.truth[name][rows].numpy() for name in ("mask", "age")}
    for name in ("mask", "age"):
        known = truth[name] >= 0
        assert metrics[f"val/{name}_f1"] == pytest.approx(
            f1_score(truth[name][known], said[name][known], average="macro")
        )
        assert metrics[f"val/{name}_accuracy"] == pytest.approx(accuracy_score(truth[name][known], said[name][known]))
    known = (truth["mask"] >= 0) & (truth["age"] >= 0)
    true_answer, said_answer = truth["mask"] * 3 + truth["age"], said["mask"] * 3 + said["age"]
    assert metrics["val/f1"] == pytest.approx(f1_score(true_answer[known], said_answer[known], average="macro"))
    assert metrics["val/accuracy"] == pytest.approx(accuracy_score(true_answer[known], said_answer[known]))
    criterion = built.trainer.learner.criterion
    loss, _ = criterion(logits, {name: target[rows] for name, target in loader.targets.items()})
    assert metrics["val/loss"] == pytest.approx(float(loss), rel=1e-5)


def test_early_stopping_and_best_checkpoints(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = [0.9, 0.7, 0.8, 0.7, 0.75, 0.1]
    monkeypatch.setattr(Trainer, "validate", lambda _self, epoch: {"val/loss": losses[epoch - 1], "val/f1": epoch / 10})
    built = make_trainer("run", epochs=6, early_stop=3, save_period=2, save_best=["max val/f1"])
    built.trainer.train()
    assert built.trainer.completed_epochs == 5
    assert built.trainer.stopped_early
    assert read_checkpoint(built.folder / "model_best.pth")["completed_epochs"] == 2
    assert read_checkpoint(built.folder / "best_f1.pth")["completed_epochs"] == 5
    assert {path.name for path in built.folder.glob("*.pth")} == {
        "last.pth", "model_best.pth", "best_f1.pth", "checkpoint-epoch2.pth", "checkpoint-epoch4.pth",
    }  # fmt: skip


def test_best_is_saved_on_epochs_that_are_not_periodic(make_trainer: MakeTrainer) -> None:
    built = make_trainer("run", epochs=1, save_period=5)
    built.trainer.train()
    assert (built.folder / "model_best.pth").exists()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_clipping_bounds_the_step(make_trainer: MakeTrainer, precision: str) -> None:
    settings = {"epochs": 1, "max_grad_norm": 0.01, "precision": precision}
    built = make_trainer("run", lr=1.0, optimizer=torch.optim.SGD, loader=MemoryLoader(4, 2), **settings)
    before = {name: parameter.detach().clone() for name, parameter in built.trainer.learner.model.named_parameters()}
    built.trainer.train()
    after = dict(built.trainer.learner.model.named_parameters())
    moved = sum(float((after[name].detach() - before[name]).square().sum()) for name in before)
    assert 0 < math.sqrt(moved) <= 0.0101


def test_a_diverged_run_stops_and_says_which_head(make_trainer: MakeTrainer) -> None:
    built = make_trainer("run", lr=1e30, optimizer=torch.optim.SGD)
    with pytest.raises(DivergenceError, match=r"loss of .*(mask|age).* no longer finite") as caught:
        built.trainer.train()
    assert "remain" not in str(caught.value)  # there are no checkpoints
    assert not (built.folder / "last.pth").exists()


def test_a_validation_that_diverges_leaves_the_earlier_checkpoint(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {1: 0.5, 2: math.nan}
    monkeypatch.setattr(Trainer, "validate", lambda _self, epoch: {"val/loss": 1.0, "val/loss_mask": values[epoch]})
    built = make_trainer("run")
    with pytest.raises(DivergenceError, match=r"epoch 2: the loss of mask.*checkpoints remain"):
        built.trainer.train()
    assert read_checkpoint(built.folder / "last.pth")["completed_epochs"] == 1


@pytest.mark.parametrize("verbosity", [1, 2])
def test_an_epoch_is_one_line_with_its_time(
    make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture, verbosity: int
) -> None:
    built = make_trainer("run", epochs=2, verbosity=verbosity)
    with caplog.at_level(logging.DEBUG):
        built.trainer.train()
    lines = [message for message in caplog.messages if message.startswith("epoch ")]
    assert [re.match(r"epoch (\d)/2: .* [\d.]+ s\b", line)[1] for line in lines] == ["1", "2"]  # type: ignore[index]
    assert ("train/mask_f1" in lines[0]) == (verbosity == 2)


def test_ctrl_c_is_another_exit_code(make_trainer: MakeTrainer) -> None:
    import signal

    built = make_trainer("run")
    built.stop.request(signal.SIGINT)
    with pytest.raises(KeyboardStop, match=r"SIGINT.*--resume") as stopped:
        built.trainer.train()
    assert stopped.value.exit_code == 130
    assert built.trainer.learner.updates == 1


def test_a_full_disk_loses_nothing(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails in mid-run is told; the next epoch's is kept."""
    built = make_trainer("run", epochs=2)
    original = built.trainer.checkpoints.save
    calls: list[int] = []

    def save(state: dict[str, Any], also_as: list[str]) -> Path:
        calls.append(1)
        if len(calls) == 1:
            raise OSError(28, "No space left on device")
        return original(state, also_as)

    monkeypatch.setattr(built.trainer.checkpoints, "save", save)
    built.trainer.train()
    assert read_checkpoint(built.folder / "last.pth")["completed_epochs"] == 2


def test_unknown_labels_of_a_whole_head_leave_no_metric(make_trainer: MakeTrainer) -> None:
    loader = MemoryLoader()
    loader.targets["age"].fill_(UNKNOWN)
    loader.truth["age"].fill_(UNKNOWN)
    built = make_trainer("run", loader=loader, epochs=1)
    built.trainer.train()
    line = json.loads(built.metrics_file.read_text())
    assert "val/mask_f1" in line
    assert not {"val/age_f1", "val/f1", "val/loss_age", "train/loss_age"} & line.keys()
    assert line["val/loss"] == pytest.approx(0.4 * line["val/loss_mask"])
