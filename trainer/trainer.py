"""The step, the epoch, and the validation."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from base.base_data_loader import BaseDataLoader
from base.base_model import BaseModel
from base.base_trainer import BaseTrainer, TrainerSettings
from base.batch import Batch
from base.label_space import LabelSpace
from base.scores import Metric, Scores
from base.weights import load_weights
from logger.log import progress_bar
from logger.trackers import Trackers
from trainer.checkpoint import BEST, Checkpoints
from trainer.epoch_sums import Criterion, EpochSums, describe, summary
from trainer.monitor import EarlyStopping, Monitor
from trainer.schedule import Schedule
from trainer.worst_images import WorstImages
from utils import process_group
from utils.device import choose_compute_type
from utils.errors import CheckpointError, DivergenceError, StorageFullError
from utils.image_decoding import read_rgb
from utils.random_streams import torch_seed
from utils.stop_signals import StopSignals


class Trainer(BaseTrainer):
    """Trains a model that has several heads, and leaves a run that can be resumed at any update, exactly.

    run: what every checkpoint carries beside the training state (config, labels, preprocessing), as plain data."""

    def __init__(
        self,
        settings: TrainerSettings,
        *,
        model: BaseModel,
        criterion: Criterion,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule | None,
        data_loader: BaseDataLoader,
        labels: LabelSpace,
        metrics: Mapping[str, Metric],
        device: torch.device,
        seed: int,
        checkpoints: Checkpoints,
        stop: StopSignals,
        log: logging.Logger,
        run: Mapping[str, Any],
        visualize: bool = False,
    ) -> None:
        super().__init__(settings.epochs)
        self.settings, self.device, self.seed, self.log, self.run = settings, device, seed, log, run
        self.memory_format = torch.channels_last if settings.channels_last else torch.contiguous_format
        model.to(memory_format=self.memory_format)
        self.model, self.criterion, self.optimizer, self.schedule = model, criterion, optimizer, schedule
        self.network: nn.Module = DistributedDataParallel(model) if process_group.world_size() > 1 else model
        self.data_loader, self.labels, self.metrics = data_loader, labels, metrics
        self.checkpoints, self.stop, self.visualize = checkpoints, stop, visualize
        self.trackers = Trackers()  # none, until the run is ready to write
        self.monitor = Monitor(settings.monitor)
        self.further_monitors = [Monitor(text) for text in settings.save_best]
        self.early_stopping = EarlyStopping(settings.early_stop)
        self.compute_type = choose_compute_type(settings.precision, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.compute_type == torch.float16)
        self.updates = 0  # of the weights, in the whole run
        self.batches_done = 0  # of the epoch in progress
        self.stop_agreed = False  # by all processes, where there are several
        self.sums = self._new_sums()

    # --- the step ---

    def _update(self, window: list[Batch], epoch: int, first_batch: int) -> None:
        """One update of the weights from the batches of `window`, as if they, and the other processes', were one."""
        weights, normalisers = self._sum_weights(window)
        for number, (batch, batch_weights) in enumerate(zip(window, weights, strict=True)):
            torch.manual_seed(torch_seed(self.seed, "model", epoch, first_batch + number, process_group.rank()))
            with self._synchronised_only_if(number == len(window) - 1):
                with self.autocast():
                    logits = self.network(self._normalised(batch))
                    loss, parts = self.criterion(logits, batch.targets, normalisers)
                # Processes' gradients are averaged, and the normalisers span all of them already.
                self.scaler.scale(loss * process_group.world_size()).backward()
            self.sums.add_losses(parts, normalisers, batch_weights)
            self.sums.scores.update({head: output.detach() for head, output in logits.items()}, batch.scoring_targets)
        self._update_weights()

    def _update_weights(self) -> None:
        if self.settings.max_grad_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.updates += 1
        if self.schedule is not None:
            self.schedule.after_update()

    def _sum_weights(self, window: list[Batch]) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """By head: each batch's sum of the weights of its known labels, and that of the whole update, all processes.

        The processes' wishes to stop travel along, so that all of them stop after the same update."""
        weights = [self.criterion.sample_weight_sums(batch.targets) for batch in window]
        heads = list(self.criterion.weights)
        sums = torch.stack([torch.stack([batch[head] for batch in weights]).sum() for head in heads])
        if process_group.world_size() > 1:
            wish = sums.new_tensor([float(self.stop.requested)])
            reduced = process_group.all_reduce_sum(torch.cat([sums, wish]))
            sums = reduced[:-1]
            self.stop_agreed = bool(reduced[-1] > 0)
        return weights, dict(zip(heads, sums, strict=True))

    def _normalised(self, batch: Batch) -> Tensor:
        """The batch's images as the model takes them."""
        return self.data_loader.preprocessing.normalise(batch.images, memory_format=self.memory_format)

    def autocast(self) -> AbstractContextManager[Any]:
        """Mixed precision, where the run uses it."""
        if self.compute_type == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.compute_type)

    def _synchronised_only_if(self, last: bool) -> AbstractContextManager[Any]:
        """Gradients cross between processes once an update, with its last batch."""
        if last or not isinstance(self.network, DistributedDataParallel):
            return nullcontext()
        return self.network.no_sync()

    # --- the epoch ---

    def train_epoch(self, epoch: int) -> dict[str, float]:
        self.network.train()
        for window in self._windows(epoch):
            self._update(window, epoch, self.batches_done)
            self.batches_done += len(window)
            self._stop_if_asked(epoch)
        process_group.share_buffers(self.model)  # each process has its own running means, and one model is judged
        metrics = self.sums.reduced().metrics("train/")
        self._refuse_divergence(epoch, metrics)
        return metrics | {"lr": float(self.optimizer.param_groups[0]["lr"])}

    def _windows(self, epoch: int) -> Iterator[list[Batch]]:
        """The batches that are left of the epoch, on the device, grouped to one list an update."""
        total = self.data_loader.steps_per_epoch
        if self.batches_done >= total:
            return
        batches = progress_bar(
            self.data_loader.train_batches(epoch, self.batches_done),
            total,
            f"epoch {epoch}/{self.epochs}",
            self.settings.verbosity if process_group.is_main_process() else 0,
            initial=self.batches_done,
        )
        on_device = (batch.to(self.device) for batch in batches)
        while window := list(itertools.islice(on_device, self.settings.accumulation_steps)):
            yield window

    def validate(self, epoch: int) -> dict[str, float]:
        if self.data_loader.num_validation == 0:
            return {}
        self.network.eval()
        sums = self._new_sums()
        worst = WorstImages(self.labels) if self.visualize else None
        with torch.inference_mode():
            for batch in self.data_loader.validation_batches():
                batch = batch.to(self.device)
                with self.autocast():
                    logits = self.model(self._normalised(batch))
                    weights = self.criterion.sample_weight_sums(batch.targets)
                    _, parts = self.criterion(logits, batch.targets, weights)
                sums.add_losses(parts, weights, weights)
                sums.scores.update(logits, batch.scoring_targets)
                if worst is not None:
                    worst.update(logits, batch)
                if process_group.world_size() == 1:
                    self._stop_if_asked(epoch)
        if worst is not None:
            records = self.data_loader.validation_records
            self.trackers.log_images(epoch, "val/worst", worst.images(lambda index: read_rgb(records[index].path)))
        return sums.reduced().metrics("val/")

    def finish_epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        self._refuse_divergence(epoch, metrics)
        if self.schedule is not None:
            self.schedule.after_epoch(metrics)
        better = self.monitor.update(epoch, metrics)
        names = [BEST] if better else []
        names += [f"{monitor.file_stem}.pth" for monitor in self.further_monitors if monitor.update(epoch, metrics)]
        if self.settings.save_period and epoch % self.settings.save_period == 0:
            names.append(Checkpoints.periodic_name(epoch))
        self.stopped_early = self.monitor.is_on and self.early_stopping.update(better)
        self.completed_epochs, self.batches_done, self.sums = epoch, 0, self._new_sums()
        with self._full_disk_tolerated(final=self.finished):
            self.trackers.log_metrics(epoch, metrics)
        self.log.info("epoch %d/%d: %s%s", epoch, self.epochs, describe(summary(metrics)), " (best)" if better else "")
        self.log.debug("epoch %d in full: %s", epoch, describe(metrics))
        self.save(names, final=self.finished)
        if self.stopped_early:
            best = f"{self.monitor.metric} = {self.monitor.best:.4f}" if self.monitor.best is not None else "none"
            self.log.info(
                "stopped early: %d epochs without a better one (best: %s)", self.early_stopping.patience, best
            )

    @property
    def best(self) -> dict[str, float | None]:
        """The best value so far of what is watched, by metric."""
        return {monitor.metric: monitor.best for monitor in (self.monitor, *self.further_monitors) if monitor.is_on}

    def dry_run(self) -> dict[str, float]:
        """One update and one validation batch, to see that all fits together; returns the loss. Nothing is kept."""
        self.network.train()
        batches = self.data_loader.train_batches(1, 0)
        window = [batch.to(self.device) for batch in itertools.islice(batches, self.settings.accumulation_steps)]
        self._update(window, 1, 0)
        self.network.eval()
        with torch.inference_mode():
            for batch in itertools.islice(self.data_loader.validation_batches(), 1):
                self.model(self._normalised(batch.to(self.device)))
        return self.sums.reduced().metrics("train/")

    # --- stopping, saving and going on ---

    def _stop_if_asked(self, epoch: int) -> None:
        """After an update: saves the epoch in progress and leaves, if a signal asked for it."""
        if self.stop_agreed if process_group.world_size() > 1 else self.stop.requested:
            self._refuse_divergence(epoch, self.sums.metrics("train/"))
            self.save(final=True)
            raise self.stop.error(f"saved in {self.checkpoints.folder}; go on with --resume {self.checkpoints.folder}")

    def save(self, also_as: Sequence[str] = (), *, final: bool = False) -> None:
        """Writes last.pth, and the same under the further names. Every process must call it.

        final: nothing comes after it, so a write that fails is an error (StorageFullError) and not a warning."""
        state = self.state_dict()  # every process takes part in it
        if process_group.is_main_process():
            with self._full_disk_tolerated(final=final):
                self.checkpoints.save({**self.run, **state}, also_as)
        process_group.barrier()

    @contextmanager
    def _full_disk_tolerated(self, *, final: bool) -> Iterator[None]:
        """A write that fails in mid-run is told, and training goes on; one that fails at the end is an error."""
        try:
            yield
        except OSError as error:
            text = f"{self.checkpoints.folder}: could not be written ({error.strerror}); free some space"
            if final:
                raise StorageFullError(text) from None
            self.log.warning("%s. Training goes on, and the earlier checkpoints stand", text)

    def _refuse_divergence(self, epoch: int, metrics: Mapping[str, float]) -> None:
        wrong = [name for name, value in metrics.items() if "loss_" in name and not math.isfinite(value)]
        if wrong:
            names = ", ".join(name.split("loss_", 1)[1] for name in wrong)
            raise DivergenceError(
                f"epoch {epoch}: the loss of {names} is no longer finite; lower optimizer.args.lr or set "
                "trainer.max_grad_norm. The earlier checkpoints stand"
            )

    def _new_sums(self) -> EpochSums:
        return EpochSums(Scores(self.labels, self.metrics, self.device), self.criterion.weights, self.device)

    def state_dict(self) -> dict[str, Any]:
        return {
            "completed_epochs": self.completed_epochs,
            "stopped_early": self.stopped_early,
            "updates": self.updates,
            "batches_done": self.batches_done,
            "world_size": process_group.world_size(),
            "sums": process_group.gather(self.sums.state_dict() if self.batches_done else None),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict() if self.schedule is not None else None,
            "scaler": self.scaler.state_dict(),
            "monitors": [monitor.state_dict() for monitor in (self.monitor, *self.further_monitors)],
            "epochs_without_better": self.early_stopping.epochs_without_better,
            "trackers": self.trackers.state(),
        }

    def load_state_dict(self, state: Mapping[str, Any], path: Path | None = None) -> None:
        """`path` is the checkpoint's, for errors. Raises CheckpointError, ConfigError."""
        if state["batches_done"] and state["world_size"] != process_group.world_size():
            raise CheckpointError(
                f"{self.checkpoints.folder}: was stopped within an epoch of {state['world_size']} processes, and there "
                f"are {process_group.world_size()} now; go on with as many, or from a checkpoint-epoch file"
            )
        load_weights(self.model, state["model"], path or self.checkpoints.folder)
        self.optimizer.load_state_dict(state["optimizer"])
        if self.schedule is not None and state["schedule"] is not None:
            self.schedule.load_state_dict(state["schedule"])
        if state["scaler"]:  # empty where the run does not scale its loss
            self.scaler.load_state_dict(state["scaler"])
        for monitor in (self.monitor, *self.further_monitors):
            for saved in state["monitors"]:
                monitor.load_state_dict(saved)
        self.early_stopping.epochs_without_better = state["epochs_without_better"]
        self.completed_epochs, self.stopped_early = state["completed_epochs"], state["stopped_early"]
        self.updates, self.batches_done = state["updates"], state["batches_done"]
        if self.batches_done:
            self.sums.load_state_dict(state["sums"][process_group.rank()])
