"""The epochs of a run: training, validation, checkpoints, early stopping."""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from base.base_data_loader import BaseDataLoader
from base.base_trainer import BaseTrainer, TrainerSettings
from base.batch import Batch
from base.metrics import Metric, Metrics
from base.mixing import Mixing, plan_mix
from logger.tracker import TIMES, Trackers
from trainer.averaging import StochasticWeightAveraging
from trainer.checkpoint import BEST, Checkpoints, resumable_files
from trainer.epoch_metrics import EpochMetrics, LossOfEpoch, describe
from trainer.head_watch import HeadWatch
from trainer.learner import Learner
from trainer.monitor import Monitor
from trainer.prefetch import on_device
from trainer.skipped_updates import IN_A_ROW
from trainer.time_budget import TimeBudget
from trainer.worst_images import WorstImages
from utils import distributed
from utils.errors import CheckpointError, DivergenceError, StorageFullError, UserError, write_error
from utils.images import read_rgb
from utils.progress import with_progress
from utils.signals import StopSignals

logger = logging.getLogger(__name__)

UPDATES_BETWEEN_LOOKS = 16
"""How often the host looks how many updates were skipped, for which it waits for a GPU."""

F1_BY_CLASS = "val_f1_by_class/"
"""The beginning of the names of each class's F1; of the joint class "<class>", else "<attribute> <class>"."""


class Trainer(BaseTrainer):
    """Trains a model that has several heads; the run can be resumed at any update, exactly.

    metrics: by name, functions of the confusion matrix
    stop: asked after each update
    run: what every checkpoint holds in addition to the training state (config, labels, preprocessing), as plain data
    visualize: log the validation images that are most wrong
    """

    def __init__(
        self,
        settings: TrainerSettings,
        *,
        learner: Learner,
        data_loader: BaseDataLoader,
        metrics: Mapping[str, Metric],
        checkpoints: Checkpoints,
        stop: StopSignals,
        run: Mapping[str, Any],
        mixings: Sequence[Mixing] = (),
        visualize: bool = False,
    ) -> None:
        super().__init__(settings.epochs)
        self.settings, self.learner, self.run = settings, learner, run
        self.data_loader, self.labels = data_loader, data_loader.label_space
        self.metrics, self.mixings = metrics, mixings
        self.checkpoints, self.stop, self.visualize = checkpoints, stop, visualize
        self.trackers = Trackers()  # none, until the run is ready to write
        self.earlier_trackers: dict[str, Any] = {}  # the state of those of a resumed run
        self.monitor = Monitor(settings.monitor)
        self.other_monitors = [Monitor(text) for text in settings.save_best]
        self._missed: set[str] = set()  # of what is watched, what some epoch did not give
        self.epochs_without_better = 0
        self.time_budget = None if settings.max_hours is None else TimeBudget(settings.max_hours, settings.epochs)
        self.epoch_began = time.perf_counter()
        self.waited = 0.0  # seconds of this epoch, for its next batch
        self.not_watched: dict[str, float] = {}  # further numbers of this epoch: its times, and the F1 of each class
        self.batches_done = 0  # of the epoch in progress
        self._warned_of: set[str] = set()
        self.train_metrics = self._new_metrics(leaves_out=True)  # of the epoch in progress
        self.head_watch = HeadWatch(self.labels, learner.criterion.weights)
        self._losses: dict[str, LossOfEpoch] = {}  # of this epoch's training
        self._counts: dict[str | None, torch.Tensor] = {}  # of this epoch's validation

    def train(self) -> None:
        self.learner.callbacks.state_dict()  # one that no checkpoint can hold fails before an epoch is lost with it
        if self.time_budget is not None:
            self.time_budget.begin()
        super().train()

    # --- the epoch ---

    def train_epoch(self, epoch: int) -> dict[str, float]:
        self.epoch_began, self.waited = time.perf_counter(), 0.0
        first_batch = self.batches_done
        self.learner.begin_epoch(epoch)
        with closing(self._updates(epoch)) as updates:
            for micro_batches in updates:
                stop = self.train_step(micro_batches, epoch)
                self.batches_done += len(micro_batches)
                if self.learner.updates % UPDATES_BETWEEN_LOOKS == 0:
                    self._refuse_many_skipped(epoch)
                if stop if self.learner.num_processes > 1 else self.stop.requested:
                    self._save_and_stop(epoch)
        self.learner.end_epoch(epoch)
        self._refuse_many_skipped(epoch)
        self._refuse_divergence(epoch, {})
        self.not_watched = self._times(first_batch)
        metrics = self.train_metrics.reduced()
        self._losses = metrics.by_loss()
        return metrics.values("train/") | self._skipped(epoch) | self.learner.rates()

    def train_step(self, micro_batches: Sequence[Batch], epoch: int) -> bool:
        """One update of the weights; a subclass that computes something else overrides it. Returns whether any process
        is asked to stop."""
        return self.learner.update(micro_batches, epoch, self.batches_done, self.train_metrics, self.stop.requested)

    def _updates(self, epoch: int) -> Generator[list[Batch]]:
        """The rest of the epoch, a list of micro-batches for each update of the weights, on the device."""
        total = self.data_loader.steps_per_epoch
        if self.batches_done >= total:
            return
        images = self.data_loader.images_per_epoch
        batches = self._with_progress(
            on_device(self._train_batches(epoch), self.learner.device),
            images,
            f"epoch {epoch}/{self.epochs}",
            done=round(images * self.batches_done / total),
        )
        while True:
            asked = time.perf_counter()
            micro_batches = list(itertools.islice(batches, self.settings.accumulation_steps))
            self.waited += time.perf_counter() - asked
            if not micro_batches:
                return
            yield micro_batches

    def _times(self, first_batch: int) -> dict[str, float]:
        """Of the training of an epoch; first_batch: that this start of the program began it with"""
        seconds = time.perf_counter() - self.epoch_began
        share = (self.batches_done - first_batch) / max(1, self.data_loader.steps_per_epoch)
        return {
            f"{TIMES}train_seconds": seconds,
            f"{TIMES}waiting_seconds": self.waited,
            f"{TIMES}images_per_second": share * self.data_loader.images_per_epoch / seconds,
        }

    def _with_progress(self, batches: Iterator[Batch], images: int, description: str, done: int = 0) -> Iterator[Batch]:
        """images, done: over all processes, which are about as fast as this one."""
        is_shown = self.settings.verbosity > 0 and distributed.is_main_process()
        processes = self.learner.num_processes
        return with_progress(batches, images, description, is_shown, done, lambda batch: len(batch) * processes)

    def _train_batches(self, epoch: int) -> Iterator[Batch]:
        """The batches that are left of the epoch; how each is mixed is decided here, on the host."""
        first, seed, rank = self.batches_done, self.learner.seed, self.learner.rank
        for number, batch in enumerate(self.data_loader.train_batches(epoch, first), start=first):
            if self.mixings:
                height, width = batch.images.shape[-2:]
                batch.mix = plan_mix(self.mixings, batch.scoring_targets, (height, width), seed, epoch, number, rank)
            yield batch

    def validate(self, epoch: int) -> dict[str, float]:
        if self.data_loader.num_validation == 0:
            return {}
        model, criterion = self.learner.eval_model(), self.learner.criterion
        metrics = self._new_metrics()
        worst = WorstImages(self.labels) if self.visualize else None
        with torch.inference_mode(), closing(self._validation_batches()) as batches:
            description = f"validation {epoch}/{self.epochs}"
            shown = self._with_progress(batches, self.data_loader.num_validation, description)
            for number, batch in enumerate(self._unless_stopped(shown, epoch)):
                # Some of the losses on embeddings draw the pairs that they look at.
                self.learner.seed_generators("validation", epoch, number)
                images = self.learner.inputs(batch)
                with self.learner.autocast():
                    outputs = model(images)
                    weights = criterion.sample_weight_sums(batch.targets)
                    _, losses = criterion(outputs, batch.targets, weights)
                metrics.add(losses, weights, weights, outputs, batch.scoring_targets)
                if worst is not None:
                    worst.update(outputs, batch)
        if worst is not None:
            records, bits = self.data_loader.validation_records, self.data_loader.preprocessing.bits_used_of_16
            images_by_title = worst.images(lambda index: read_rgb(records[index].path, bits))
            self.trackers.log_images(epoch, "val/worst", images_by_title)
        whole = metrics.reduced()
        self._counts = {name: counts.matrix for name, counts in whole.metrics.counts.items()}
        self.not_watched |= whole.metrics.by_class(F1_BY_CLASS)
        return whole.values("val/")

    def _unless_stopped(self, batches: Iterator[Batch], epoch: int) -> Iterator[Batch]:
        """The batches, until a process is asked to stop; some processes have one batch more than others."""
        for batch in itertools.chain(batches, itertools.repeat(None)):
            is_left, stop = distributed.any_process(batch is not None, self.stop.requested)
            if stop:
                self._save_and_stop(epoch)
            if not is_left:
                return
            if batch is not None:
                yield batch

    def _validation_batches(self) -> Generator[Batch]:
        return on_device(self.data_loader.validation_batches(), self.learner.device)

    def finish_epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        self._refuse_divergence(epoch, metrics)
        failure: UserError | None = None
        try:
            metrics = metrics | self.learner.callbacks.end_epoch(epoch, metrics)
        except UserError as error:  # raised once the epoch is saved, which may have taken an hour
            failure = error
        # A plug-in's callback may give other numbers in each process, or fail in one; all must choose and stop alike.
        gathered = distributed.gather((metrics, None if failure is None else str(failure)))
        metrics = gathered[0][0]
        failure = failure or next((UserError(text) for _, text in gathered if text is not None), None)
        self._warn_of_no_numbers(epoch, metrics)
        if any(each.batches or each.not_finite for each in self._losses.values()):  # else a subclass has its own losses
            for line in self.head_watch.after_epoch(epoch, self.learner.updates, self._losses, self._counts):
                logger.warning("%s", line)
        if self.learner.schedule is not None and (failure is None or self.learner.schedule.metric in {None, *metrics}):
            self.learner.schedule.after_epoch(metrics)
        if failure is None:
            self._warn_of_missing(metrics)
        if self.time_budget is not None and epoch < self.epochs:
            self._plan(self.time_budget, epoch)
        better = self.monitor.update(epoch, metrics)
        for monitor in self.other_monitors:
            monitor.update(epoch, metrics)
        # An epoch whose numbers a callback owes is no reason to stop early.
        self.epochs_without_better = 0 if better else self.epochs_without_better + (failure is None)
        self.stopped_early = self._has_no_better_epoch()
        self.completed_epochs, self.batches_done = epoch, 0
        self.train_metrics = self._new_metrics(leaves_out=True)
        seconds = time.perf_counter() - self.epoch_began
        with self._full_disk_tolerated(None, final=self.finished):
            self.trackers.log_metrics(epoch, {**metrics, **self.not_watched, f"{TIMES}epoch_seconds": seconds})
        reported = describe(metrics, short=self.settings.verbosity < 2)
        logger.info("epoch %d/%d: %s, %.1f s%s", epoch, self.epochs, reported, seconds, " (best)" if better else "")
        self.save(self.kept_as(), final=self.finished or failure is not None)
        if failure is not None:
            raise UserError(f"{failure}; the epoch is saved in {self.checkpoints.folder}") from failure
        if self.stopped_early:
            best = "none" if self.monitor.best is None else f"{self.monitor.metric} = {self.monitor.best:.4f}"
            logger.info("stopped early: %d epochs without a better one (best: %s)", self.epochs_without_better, best)

    def _plan(self, budget: TimeBudget, epoch: int) -> None:
        """How many epochs fit in the time that is left; the schedule follows."""
        epochs = budget.end_epoch(epoch)
        if epochs == self.epochs and epoch > 1:
            return
        schedule, hours = self.learner.schedule, self.settings.max_hours
        done, measured = budget.spent_s / 3600, f"an epoch takes {budget.epoch_s:.3g} s"
        logger.info(
            "max_hours = %g: %s, %.3g hours are spent; the run is planned for %d epochs", hours, measured, done, epochs
        )
        averaging = self.learner.averaging
        if isinstance(averaging, StochasticWeightAveraging) and averaging.from_epoch > epochs:
            logger.warning("weight_averaging: from_epoch = %d is not reached", averaging.from_epoch)
        if epochs == epoch:
            logger.warning("max_hours = %g ends the run here, before its learning rate schedule ends", hours)
        elif epochs != self.epochs and schedule is not None:
            if schedule.planned is not None:
                schedule.plan(epochs)
            elif epoch == 1 and not isinstance(schedule.scheduler, ReduceLROnPlateau):
                logger.warning("lr_scheduler has steps of its own: they do not follow from max_hours")
        self.epochs = epochs

    def _warn_of_missing(self, metrics: Mapping[str, float]) -> None:
        """Of numbers that are watched and that this epoch did not give: some callbacks give theirs now and then."""
        for monitor in (self.monitor, *self.other_monitors):
            if monitor.is_on and monitor.metric not in metrics and monitor.metric not in self._missed:
                self._missed.add(monitor.metric)
                logger.warning("%s is watched, but this epoch has none: it cannot be the best", monitor.metric)

    def kept_as(self) -> list[str]:
        """The files that keep the last finished epoch, beside last.pth; none within the next one."""
        if self.batches_done:
            return []
        epoch = self.completed_epochs
        names = [BEST] if self.monitor.best_epoch == epoch else []
        names += [monitor.file_name for monitor in self.other_monitors if monitor.best_epoch == epoch]
        if self.settings.save_period and epoch % self.settings.save_period == 0:
            names.append(f"checkpoint-epoch{epoch}.pth")
        return names

    def _has_no_better_epoch(self) -> bool:
        """Whether so many epochs were no better that the run is to stop early."""
        return self.monitor.is_on and 0 < self.settings.early_stop <= self.epochs_without_better

    @property
    def best(self) -> dict[str, float | None]:
        """The best value so far of each metric that is watched."""
        return {monitor.metric: monitor.best for monitor in (self.monitor, *self.other_monitors) if monitor.is_on}

    def dry_run(self) -> dict[str, float]:
        """One update and one validation batch, to see that all fits together; returns the loss. Nothing is kept."""
        if self.batches_done:  # the resumed epoch may have no batches left, and its schedule no steps
            self.batches_done, self.learner.schedule = 0, None
        epoch = self.data_loader.epoch_of_full_size
        self.learner.begin_epoch(epoch)
        with closing(self._updates(epoch)) as updates:
            self.learner.update(next(updates), epoch, 0, self.train_metrics)
        model = self.learner.eval_model()
        with torch.inference_mode(), closing(self._validation_batches()) as batches:
            for batch in itertools.islice(batches, 1):
                images = self.learner.inputs(batch)
                with self.learner.autocast():
                    model(images)
        return self.train_metrics.reduced().values("train/")

    # --- stopping, saving and resuming ---

    def _save_and_stop(self, epoch: int) -> NoReturn:
        """Saves the epoch in progress, as a signal asked for."""
        self._refuse_divergence(epoch, {})
        self.save(final=True)
        raise self.stop.error(f"saved in {self.checkpoints.folder}")

    def save(self, also_as: Sequence[str] = (), *, final: bool = False) -> None:
        """Writes last.pth, and the same under the other names. Every process must call it.

        final: this is the run's last save, so a failure raises StorageFullError instead of a warning."""
        state = self.state_dict()  # every process takes part in it
        if distributed.is_main_process():
            with self._full_disk_tolerated(self.checkpoints.folder, final=final):
                self.checkpoints.save({**self.run, **state}, also_as)
        distributed.barrier()

    @contextmanager
    def _full_disk_tolerated(self, path: Path | None, *, final: bool) -> Iterator[None]:
        """A write that fails within the run is a warning; one that fails at its end is an error.

        path: what is written; None: the file that the error names"""
        try:
            yield
        except OSError as error:
            text = str(write_error(path or error.filename, error, "see that it can be written"))
            if final:
                raise StorageFullError(f"{text}{self._earlier_checkpoints()}") from None
            logger.warning("%s. Training continues%s", text, self._earlier_checkpoints())

    def _warn_of_no_numbers(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Once for each metric."""
        wrong = {name: value for name, value in metrics.items() if not math.isfinite(value)}
        for name in wrong.keys() - self._warned_of:
            logger.warning("epoch %d: %s is %s, which is never the best", epoch, name, wrong[name])
        self._warned_of |= wrong.keys()

    def _skipped(self, epoch: int) -> dict[str, float]:
        """The number of updates that were skipped in the epoch, with a warning, if there are any; without those by
        which float16's loss scale finds its size."""
        number, names = self.train_metrics.skipped_updates, self._not_finite(self._losses)
        if not number or (not names and self.learner.scaler.is_enabled()):
            return {}
        total = -(-self.data_loader.steps_per_epoch // self.settings.accumulation_steps)
        why = f"the loss of {', '.join(names)} was not finite" if names else "the gradients were not finite"
        if names and number == total:
            raise self._divergence(epoch, f"all {number} updates were skipped: {why}")
        logger.warning("epoch %d: %d of %d updates were skipped: %s", epoch, number, total, why)
        return {"train/skipped_updates": float(number)}

    def _refuse_many_skipped(self, epoch: int) -> None:
        """Every process comes to the same result."""
        number = self.learner.skipped.in_a_row
        if number >= IN_A_ROW:
            names = self._not_finite(self.train_metrics.by_loss())
            why = f"the loss of {', '.join(names)} is no longer finite" if names else "the gradients are not finite"
            raise self._divergence(epoch, f"{number} updates in a row were skipped: {why}")

    @staticmethod
    def _not_finite(losses: Mapping[str, LossOfEpoch]) -> list[str]:
        return [name for name, each in losses.items() if each.not_finite]

    def _refuse_divergence(self, epoch: int, metrics: Mapping[str, float]) -> None:
        wrong = [name for name, value in metrics.items() if "loss_" in name and not math.isfinite(value)]
        if wrong:
            names = ", ".join(name.split("loss_", 1)[1] for name in wrong)
            raise self._divergence(epoch, f"the loss of {names} is no longer finite")
        if not self.learner.weights_are_finite():
            raise self._divergence(epoch, "the weights are no longer finite")

    def _divergence(self, epoch: int, text: str) -> DivergenceError:
        remedy = f"lower optimizer.args.lr or set trainer.max_grad_norm{self._earlier_checkpoints()}"
        return DivergenceError(f"epoch {epoch}: {text}; {remedy}")

    def _earlier_checkpoints(self) -> str:
        is_saved = resumable_files(self.checkpoints.folder)
        return "; the earlier checkpoints remain" if is_saved else "; nothing has been saved yet"

    def _new_metrics(self, leaves_out: bool = False) -> EpochMetrics:
        device, weights = self.learner.device, self.learner.criterion.weights
        return EpochMetrics(Metrics(self.labels, self.metrics, device), weights, device, leaves_out)

    def state_dict(self) -> dict[str, Any]:
        return {
            "completed_epochs": self.completed_epochs,
            "stopped_early": self.stopped_early,
            "batches_done": self.batches_done,
            "world_size": distributed.world_size(),
            "steps_per_epoch": self.data_loader.steps_per_epoch,
            "sums": distributed.gather(self.train_metrics.state_dict() if self.batches_done else None),
            "monitors": [monitor.state_dict() for monitor in (self.monitor, *self.other_monitors)],
            "epochs_without_better": self.epochs_without_better,
            "head_watch": self.head_watch.state_dict(),
            "trackers": {**self.earlier_trackers, **self.trackers.state()},
            "time_budget": None if self.time_budget is None else self.time_budget.state_dict(),
            **self.learner.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any], path: Path | None = None) -> None:
        """The number of processes may be another one, of the same global batch.

        path: of the checkpoint, for error messages

        Raises CheckpointError; InvalidConfig if the schedule was planned for a run of another length."""
        if self.time_budget is not None and state.get("time_budget") is not None:
            self.time_budget.load_state_dict(state["time_budget"])
            if self.time_budget.planned is not None:
                self.epochs = min(self.settings.epochs, self.time_budget.planned)
                if self.learner.schedule is not None:
                    self.learner.schedule.plan(self.epochs)
        self.learner.load_state_dict(state, path or self.checkpoints.folder)
        for monitor in (self.monitor, *self.other_monitors):
            for saved in state["monitors"]:
                monitor.load_state_dict(saved)
        self.epochs_without_better = state["epochs_without_better"]
        if "head_watch" in state:  # earlier versions did not watch
            self.head_watch.load_state_dict(state["head_watch"])
        self.completed_epochs = state["completed_epochs"]
        self.stopped_early = state["stopped_early"] and self._has_no_better_epoch()  # it may be allowed more by now
        self.earlier_trackers = state["trackers"]
        self.batches_done = state["batches_done"]
        if self.batches_done:
            self.train_metrics.load_states(state["sums"])
        steps, processes = self.data_loader.steps_per_epoch, state["world_size"]
        if processes != distributed.world_size() and not self.finished and state.get("steps_per_epoch", steps) != steps:
            wrong = f"{processes} processes have {state['steps_per_epoch']} batches an epoch, and these {steps}"
            remedy = f"resume with {processes} (where drop_last is false the last batch depends on their number)"
            raise CheckpointError(f"{path or self.checkpoints.folder}: {wrong}; {remedy}")
