"""The contract of a trainer: epochs in order, each trained, validated and finished, from where a run stopped."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt


@dataclass(frozen=True)
class TrainerSettings:
    """The "trainer" section of a config.

    epochs: passes over the training data
    max_hours: ends the run at the end of an epoch by the clock, if that comes before `epochs`: hours of training, over
        all resumes. After the first epochs it is planned how many fit, and the schedule with them
    save_dir: checkpoints are <save_dir>/models/<name>/<run>, logs <save_dir>/log/<name>/<run>
    save_period: also keep the checkpoint of every so many epochs; 0: only last and best
    save_best: more monitors, such as "max val/f1", each kept as best_<metric>.pth
    verbosity: 0 quiet, 1 a line an epoch, 2 full
    monitor: what "best" means, such as "min val/loss"; "off" to disable
    early_stop: epochs without a better monitor before the run stops; 0: never
    tensorboard: write its events
    precision: "auto" is bfloat16 where the GPU or CPU has instructions for it, else float16 on a GPU, float32 on a CPU
    accumulation_steps: batches to one update of the weights
    max_grad_norm: the gradients' norm is clipped to it
    sync_batch_norm: batch norms take mean and variance over the batches of all processes, not of each alone: for small
        batches on several GPUs
    channels_last: images and weights are (H, W, C) in memory, which convolutions are faster in; "auto" is true
    compile: torch.compile the model, which takes a minute at the start and pays on a GPU in long runs; or its mode:
        "reduce-overhead" (CUDA graphs), "max-autotune" (which also looks for faster kernels, for minutes)
    """

    epochs: PositiveInt
    save_dir: str = "saved/"
    save_period: NonNegativeInt = 0
    save_best: tuple[str, ...] = ()
    verbosity: Literal[0, 1, 2] = 2
    monitor: str = "min val/loss"
    early_stop: NonNegativeInt = 0
    tensorboard: bool = True
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    accumulation_steps: PositiveInt = 1
    max_grad_norm: PositiveFloat | None = None
    sync_batch_norm: bool = False
    channels_last: bool | Literal["auto"] = True
    compile: bool | Literal["reduce-overhead", "max-autotune"] = False
    max_hours: PositiveFloat | None = None


class BaseTrainer(ABC):
    """Runs the epochs. What an epoch is, how it is validated and what is kept of it is the subclass's."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self.completed_epochs = 0
        self.stopped_early = False

    @property
    def finished(self) -> bool:
        """True when there is nothing left to train."""
        return self.stopped_early or self.completed_epochs >= self.epochs

    def train(self) -> None:
        """Trains the epochs that are left."""
        while not self.finished:
            epoch = self.completed_epochs + 1
            metrics = {**self.train_epoch(epoch), **self.validate(epoch)}
            self.finish_epoch(epoch, metrics)

    @abstractmethod
    def train_epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the training data, or the rest of one after a resume; returns its metrics."""

    @abstractmethod
    def validate(self, epoch: int) -> dict[str, float]:
        """Scores the whole validation set; returns its metrics."""

    @abstractmethod
    def finish_epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        """Logs and saves a completed epoch, steps schedules that go by epochs, and decides on early stopping."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the run depends on, as plain data."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` gave."""
