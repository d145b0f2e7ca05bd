"""The step, the epoch, stopping and resuming: each against an independent derivation."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau, StepLR

from base.batch import UNKNOWN, Batch
from logger.tracker import Tracker, Trackers
from tests.trainer.conftest import MakeTrainer, MemoryLoader, SmallModel, assert_equal_states, train_until
from trainer.schedule import Schedule
from trainer.trainer import Trainer
from utils.errors import DivergenceError, KeyboardStop, StopSignal, StorageFullError

SCHEDULES: dict[str, Any] = {
    "none": None,
    "StepLR": lambda optimizer: Schedule(StepLR(optimizer, 2, 0.5), "epoch"),
    "OneCycleLR": lambda optimizer: Schedule(OneCycleLR(optimizer, 0.05, total_steps=30), "step"),
    "plateau": lambda optimizer: Schedule(ReduceLROnPlateau(optimizer, patience=0), "epoch", "val/loss"),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_a_run_stopped_after_any_update_ends_the_same(
    make_trainer: MakeTrainer, schedule: str, accumulation_steps: int
) -> None:
    arguments = {
        "schedule": SCHEDULES[schedule], "accumulation_steps": accumulation_steps, "save_best": ["max val/f1"],
    }  # fmt: skip
    whole = make_trainer("whole", **arguments).train()
    for updates in range(1, whole.trainer.learner.updates + 1):
        folder = f"stopped{updates}"
        content = train_until(make_trainer(folder, **arguments), updates)
        assert content["updates"] == updates
        resumed = make_trainer(folder, resume=content, **arguments).train()
        for file in ("last.pth", "model_best.pth", "best_f1.pth", "metrics.jsonl"):
            assert (resumed.folder / file).read_bytes() == (whole.folder / file).read_bytes()


def test_a_run_may_be_extended_and_a_finished_one_is_left_alone(make_trainer: MakeTrainer) -> None:
    whole, short = make_trainer("whole", epochs=4).train(), make_trainer("short", epochs=2).train()
    before = (short.folder / "last.pth").read_bytes()
    make_trainer("short", epochs=2, resume=short.checkpoint()).train()
    assert (short.folder / "last.pth").read_bytes() == before
    longer = make_trainer("short", epochs=4, resume=short.checkpoint()).train()
    assert_equal_states(whole.state(), longer.state())
    assert longer.metrics_file.read_bytes() == whole.metrics_file.read_bytes()


def test_accumulation_equals_one_large_batch(make_trainer: MakeTrainer) -> None:
    """Also where the batches know different numbers of labels. Without batch statistics and dropout the two are one."""
    models = [SmallModel(False, 0), SmallModel(False, 0)]
    models[1].load_state_dict(models[0].state_dict())
    arguments = {"epochs": 1, "lr": 0.1, "optimizer": torch.optim.SGD}
    small = make_trainer("small", loader=MemoryLoader(24, 8, 4), model=models[0], accumulation_steps=3, **arguments)
    large = make_trainer("large", loader=MemoryLoader(24, 8, 12), model=models[1], **arguments)
    assert small.train().trainer.learner.updates == large.train().trainer.learner.updates == 2
    for name, tensor in small.state().items():
        torch.testing.assert_close(tensor, large.state()[name], rtol=1e-5, atol=1e-6)
    lines = [json.loads(built.metrics_file.read_text()) for built in (small, large)]
    assert lines[0]["val/loss"] == pytest.approx(lines[1]["val/loss"], rel=1e-5)


def test_one_update_is_the_mathematics(make_trainer: MakeTrainer) -> None:
    """One SGD step on a batch with unknown labels, against plain torch on the known labels alone."""
    loader = MemoryLoader(8, 4, batch_size=8)
    torch.manual_seed(0)
    model, reference = SmallModel(False, 0), SmallModel(False, 0)
    reference.load_state_dict(model.state_dict())
    built = make_trainer(loader=loader, model=model, epochs=1, lr=0.5, optimizer=torch.optim.SGD)
    batch = next(loader.train_batches(1))
    assert all((target == UNKNOWN).any() for target in batch.targets.values())
    logits = reference((batch.images / 255 - 0.5) / 0.25)
    known = {name: target != UNKNOWN for name, target in batch.targets.items()}
    mask = nn.functional.cross_entropy(
        logits["mask"][known["mask"]], batch.targets["mask"][known["mask"]], weight=torch.tensor([1.0, 2.0])
    )
    p = logits["age"][known["age"]].softmax(1).gather(1, batch.targets["age"][known["age"]][:, None])[:, 0]
    age = (-((1 - p) ** 2) * p.log()).mean()
    (0.4 * mask + 0.6 * age).backward()
    expected = {name: parameter - 0.5 * parameter.grad for name, parameter in reference.named_parameters()}  # type: ignore[operator]
    built.train()
    for name, parameter in built.trainer.learner.model.named_parameters():
        torch.testing.assert_close(parameter, expected[name], rtol=1e-4, atol=1e-5)
    line = json.loads(built.metrics_file.read_text())
    losses = {"loss_mask": mask, "loss_age": age, "loss": 0.4 * mask + 0.6 * age}
    for name, loss in losses.items():
        assert line[f"train/{name}"] == pytest.approx(float(loss.detach()), rel=1e-5)


@pytest.mark.parametrize("valid_batch_size", [1, 5, 40])
def test_validation_equals_scikit_learn_for_every_batch_size(make_trainer: MakeTrainer, valid_batch_size: int) -> None:
    loader = MemoryLoader(16, 37, valid_batch_size=valid_batch_size)
    built = make_trainer(loader=loader)
    metrics = built.trainer.validate(1)
    rows = torch.arange(16, 53)
    built.trainer.learner.model.eval()
    with torch.no_grad():
        logits = built.trainer.learner.model((loader.images[rows] / 255 - 0.5) / 0.25)
    probabilities = {name: output.softmax(1).numpy() for name, output in logits.items()}
    to_scoring = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    predicted = {"mask": probabilities["mask"].argmax(1), "age": (probabilities["age"] @ to_scoring).argmax(1)}
    truth = {name: loader.truth[name][rows].numpy() for name in ("mask", "age")}
    known = {name: true >= 0 for name, true in truth.items()}
    truth["joint"], predicted["joint"] = (each["mask"] * 3 + each["age"] for each in (truth, predicted))
    known["joint"] = known["mask"] & known["age"]
    for name, prefix in (("mask", "mask_"), ("age", "age_"), ("joint", "")):
        true, found = truth[name][known[name]], predicted[name][known[name]]
        assert metrics[f"val/{prefix}f1"] == pytest.approx(f1_score(true, found, average="macro"))
        assert metrics[f"val/{prefix}accuracy"] == pytest.approx(accuracy_score(true, found))
    targets = {name: target[rows] for name, target in loader.targets.items()}
    assert metrics["val/loss"] == pytest.approx(float(built.trainer.learner.criterion(logits, targets)[0]), rel=1e-5)


LOSSES = [0.9, 0.7, 0.8, 0.7, 0.75, 0.1]


@pytest.mark.parametrize(("patience", "epochs", "best"), [(1, 3, 2), (3, 5, 2), (4, 6, 6), (0, 6, 6)])
def test_patience_is_exact_and_0_never_stops(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, patience: int, epochs: int, best: int
) -> None:
    monkeypatch.setattr(Trainer, "validate", lambda _self, epoch: {"val/loss": LOSSES[epoch - 1]})
    built = make_trainer(epochs=6, early_stop=patience).train()
    assert built.trainer.completed_epochs == epochs
    assert built.trainer.stopped_early == (epochs < 6)
    assert built.checkpoint("model_best.pth")["completed_epochs"] == best


def test_the_checkpoints_that_are_kept(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best is also saved in epochs that are not periodic."""
    monkeypatch.setattr(Trainer, "validate", lambda _self, epoch: {"val/loss": LOSSES[epoch - 1], "val/f1": epoch / 10})
    built = make_trainer(epochs=5, save_period=2, save_best=["max val/f1"]).train()
    files = {path.name: built.checkpoint(path.name)["completed_epochs"] for path in built.folder.glob("*.pth")}
    assert files == {
        "last.pth": 5, "model_best.pth": 2, "best_f1.pth": 5, "checkpoint-epoch2.pth": 2, "checkpoint-epoch4.pth": 4,
    }  # fmt: skip


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_clipping_bounds_the_step(make_trainer: MakeTrainer, precision: str) -> None:
    settings = {"epochs": 1, "max_grad_norm": 0.01, "precision": precision}
    built = make_trainer(lr=1.0, optimizer=torch.optim.SGD, loader=MemoryLoader(4, 2), **settings)
    before = {name: parameter.detach().clone() for name, parameter in built.trainer.learner.model.named_parameters()}
    built.train()
    after = dict(built.trainer.learner.model.named_parameters())
    moved = sum(float((after[name].detach() - before[name]).square().sum()) for name in before)
    assert 0 < math.sqrt(moved) <= 0.0101


def test_a_diverged_run_stops_and_names_the_head(make_trainer: MakeTrainer) -> None:
    built = make_trainer(lr=1e30, optimizer=torch.optim.SGD)
    with pytest.raises(DivergenceError, match=r"loss of .*(mask|age)") as caught:
        built.train()
    assert "remain" not in str(caught.value)  # there are no checkpoints
    assert not (built.folder / "last.pth").exists()


def test_what_the_losses_have_learned_is_never_written_unless_it_is_finite(make_trainer: MakeTrainer) -> None:
    built = make_trainer(epochs=1)
    built.trainer.learner.criterion.register_parameter("learned", nn.Parameter(torch.tensor(math.nan)))
    with pytest.raises(DivergenceError, match="the weights are no longer finite"):
        built.train()
    assert [*built.folder.glob("*.pth")] == []


def test_a_validation_that_diverges_leaves_the_earlier_checkpoint(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {1: 0.5, 2: math.nan}
    monkeypatch.setattr(Trainer, "validate", lambda _self, epoch: {"val/loss": 1.0, "val/loss_mask": values[epoch]})
    built = make_trainer()
    with pytest.raises(DivergenceError, match=r"epoch 2: the loss of mask.*checkpoints remain"):
        built.train()
    assert built.checkpoint()["completed_epochs"] == 1


def test_a_metric_that_is_no_number_is_warned_of_once(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Trainer, "validate", lambda _self, _epoch: {"val/loss": 1.0, "val/own": math.nan})
    make_trainer(epochs=2).train()
    assert [text for text in caplog.messages if "never the best" in text] == [
        "epoch 1: val/own is nan, which is never the best"
    ]


@pytest.mark.parametrize("verbosity", [1, 2])
def test_an_epoch_is_one_line_with_its_time(
    make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture, verbosity: int
) -> None:
    with caplog.at_level(logging.DEBUG):
        make_trainer(epochs=2, verbosity=verbosity).train()
    lines = [message for message in caplog.messages if message.startswith("epoch ")]
    assert [re.match(r"epoch (\d)/2: .* [\d.]+ s\b", line)[1] for line in lines] == ["1", "2"]  # type: ignore[index]
    assert ("train/mask_f1" in lines[0]) == (verbosity == 2)


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGINT, KeyboardStop), (signal.SIGTERM, StopSignal)])
def test_a_signal_stops_after_the_next_update(make_trainer: MakeTrainer, number: signal.Signals, kind: type) -> None:
    built = make_trainer()
    built.stop.received = number
    with pytest.raises(kind, match=number.name) as stopped:
        built.train()
    assert type(stopped.value) is kind
    assert built.checkpoint()["updates"] == 1


def test_a_stopped_epoch_closes_the_loader(make_trainer: MakeTrainer) -> None:
    closed: list[str] = []

    class Closed(MemoryLoader):
        def train_batches(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
            try:
                yield from super().train_batches(epoch, start_batch)
            finally:
                closed.append("training")

        def validation_batches(self) -> Iterator[Batch]:
            try:
                yield from super().validation_batches()
            finally:
                closed.append("validation")

    built = make_trainer(loader=Closed())
    built.stop.received = signal.SIGTERM
    with pytest.raises(StopSignal) as kept:  # with its traceback, and so with all frames that it went through
        built.trainer.train()
    assert closed == ["training"]
    with pytest.raises(StopSignal):
        built.trainer.validate(1)
    assert closed == ["training", "validation"]
    assert kept.value.__traceback__ is not None


def test_a_full_disk_within_the_run_is_no_error(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    built = make_trainer(epochs=2)
    original = built.trainer.checkpoints.save
    calls: list[int] = []

    def save(state: dict[str, Any], also_as: list[str]) -> Path:
        calls.append(1)
        if len(calls) == 1:
            raise OSError(28, "No space left on device")
        return original(state, also_as)

    monkeypatch.setattr(built.trainer.checkpoints, "save", save)
    assert built.train().checkpoint()["completed_epochs"] == 2


@pytest.mark.parametrize(("number", "is_full"), [(28, True), (122, True), (13, False), (5, False), (30, False)])
def test_why_the_last_save_failed_is_told_as_it_is(
    number: int, is_full: bool, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = make_trainer(epochs=1)

    def fail(*_: Any) -> Path:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(built.trainer.checkpoints, "save", fail)
    with pytest.raises(StorageFullError, match=os.strerror(number)) as failed:
        built.train()
    assert ("free some space" in str(failed.value)) == is_full


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_disk_that_takes_no_metrics_is_told_by_that_file(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, epochs: int
) -> None:
    """An error in the last epoch, a warning before it."""
    built = make_trainer(epochs=epochs)
    text = f"{built.metrics_file}: could not be written (No space left on device)"

    def full(epoch: int, _metrics: dict[str, float]) -> None:
        if epoch == 1:
            raise OSError(28, "No space left on device", str(built.metrics_file))

    monkeypatch.setattr(built.trainer.trackers, "log_metrics", full)
    if epochs == 1:
        with pytest.raises(StorageFullError, match=re.escape(text)):
            built.train()
    else:
        built.train()
        assert any(message.startswith(text) for message in caplog.messages)


def test_a_run_that_stopped_early_is_extended_by_more_patience(make_trainer: MakeTrainer) -> None:
    """As one that was given it from the beginning."""
    monitor = {"monitor": "min train/none", "epochs": 4}
    stopped = make_trainer("stopped", early_stop=2, **monitor).train()
    assert (stopped.trainer.completed_epochs, stopped.trainer.stopped_early) == (2, True)
    assert make_trainer("stopped", resume=stopped.checkpoint(), early_stop=2, **monitor).trainer.finished
    for early_stop, epochs in ((3, 3), (0, 4)):
        whole = make_trainer(f"whole {early_stop}", early_stop=early_stop, **monitor).train()
        settings = {"early_stop": early_stop, **monitor}
        extended = make_trainer(f"extended {early_stop}", resume=stopped.checkpoint(), **settings).train()
        assert extended.trainer.completed_epochs == whole.trainer.completed_epochs == epochs
        assert_equal_states(extended.state(), whole.state())


def test_a_head_without_known_labels_has_no_metric(make_trainer: MakeTrainer) -> None:
    loader = MemoryLoader()
    loader.targets["age"].fill_(UNKNOWN)
    loader.truth["age"].fill_(UNKNOWN)
    line = json.loads(make_trainer(loader=loader, epochs=1).train().metrics_file.read_text())
    assert "val/mask_f1" in line
    assert not {"val/age_f1", "val/f1", "val/loss_age", "train/loss_age"} & line.keys()
    assert line["val/loss"] == pytest.approx(0.4 * line["val/loss_mask"])


def test_a_dry_run_of_a_run_that_stopped_after_its_last_update(make_trainer: MakeTrainer) -> None:
    """In validation: no batch of the epoch is left, and the schedule takes no further step."""

    def schedule(optimizer: torch.optim.Optimizer) -> Schedule:
        return Schedule(OneCycleLR(optimizer, 0.05, total_steps=5), "step")

    content = train_until(make_trainer(epochs=1, schedule=schedule), 5)
    assert content["batches_done"] == 5
    resumed = make_trainer(epochs=1, schedule=schedule, resume=content)
    assert not resumed.trainer.finished
    assert resumed.trainer.dry_run()["train/loss"] > 0


def test_times_and_the_f1_of_each_class_are_logged_and_not_watched(make_trainer: MakeTrainer) -> None:
    """A loader that takes 10 ms a batch is waited for."""

    class SlowLoader(MemoryLoader):
        def train_batches(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
            for batch in super().train_batches(epoch, start_batch):
                time.sleep(0.01)
                yield batch

    class Recorder(Tracker):
        name = "recorder"
        rows: ClassVar[list[dict[str, float]]] = []

        def log_metrics(self, epoch: int, metrics: Mapping[str, float]) -> None:
            self.rows.append({"epoch": epoch, **metrics})

        def close(self, exit_code: int) -> None:
            pass

    loader = SlowLoader()
    built = make_trainer(loader=loader, epochs=2)
    built.trainer.trackers = Trackers([Recorder()])
    built.train()
    for row in Recorder.rows:
        assert loader.steps_per_epoch * 0.01 <= row["time/waiting_seconds"] <= row["time/train_seconds"]
        assert row["time/train_seconds"] < row["time/epoch_seconds"]
        assert row["time/images_per_second"] == pytest.approx(loader.images_per_epoch / row["time/train_seconds"])
        ages = [value for name, value in row.items() if name.startswith("val_f1_by_class/age ")]
        assert np.mean(ages) == pytest.approx(row["val/age_f1"])
