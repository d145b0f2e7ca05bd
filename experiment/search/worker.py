"""A worker: it asks the study for a trial, trains it, reports its metric, and tells the study how it ended."""

from __future__ import annotations

import logging
import multiprocessing
import os
import platform
import runpy
import shutil
import signal
import statistics
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiment.search.locks import alone, try_lock
from experiment.search.study import Sweep, assignments, models_of
from inference.out_of_fold import OUT_OF_FOLD_FILE
from logger.json_lines_tracker import read_metrics
from logger.log import LOG_NAME
from trainer.checkpoint import resumable_files
from trainer.monitor import Monitor
from utils.errors import ConfigError, DataError, StopSignal, StorageFullError, UserError
from utils.run_folders import RunFolders
from utils.signals import SIGNALS, StopSignals, blocked, unblock
from utils.wording import first_line, format_value

if TYPE_CHECKING:
    import optuna

TRAIN = Path(__file__).parents[2] / "train.py"
POLL_SECONDS = 0.5
MOST_REFUSALS = 3
ENDS_A_SWEEP: dict[int, type[UserError]] = {each.exit_code: each for each in (ConfigError, DataError, StorageFullError)}
"""Exit codes that are no fault of a trial's values: MOST_REFUSALS trials in a row that end so end the sweep."""
STOPPED = (75, 130, -signal.SIGTERM)
"""How a training that was asked to stop ends: it saved, or had nothing to save yet."""
OWNER = "owner"
"""A trial's attribute: the machine and the folder of the sweep where it is trained, and resumed after a kill."""

log = logging.getLogger(LOG_NAME)
_FORK = multiprocessing.get_context("fork")


@dataclass
class Ended:
    """How a trial ended.

    value: of the metric, of a trial that was trained to its end
    error: what ended it before, in one line; None for one that was pruned
    exit_code: of its training
    """

    value: float | None = None
    error: str | None = None
    exit_code: int = 0


class Progress:
    """What a run of a trial has come to while it is trained, read from its metrics.jsonl and reported to the study.

    models: the folders of its folds, or its own
    metric: such as "max val/f1"
    by_epoch: each epoch is reported; otherwise the best of each model once it is trained
    reported: models of the trial's earlier runs
    """

    def __init__(
        self, trial: optuna.Trial, models: Sequence[RunFolders], metric: str, by_epoch: bool, reported: int
    ) -> None:
        self.trial, self.models, self.by_epoch = trial, models, by_epoch
        self.monitors = [Monitor(metric) for _ in models]
        self.is_pruned = False
        self._rows = [0] * len(models)
        self._first, self._trained = reported, 0

    def update(self, is_over: bool) -> None:
        """Reads what is new. is_over: all models are trained to their end."""
        for number, (model, monitor) in enumerate(zip(self.models, self.monitors, strict=True)):
            is_trained = is_over or (model.models / OUT_OF_FOLD_FILE).exists()
            rows = read_metrics(model.log)
            for row in rows[self._rows[number] :]:
                value = row.get(monitor.metric)
                if value is not None:
                    monitor.update(row["epoch"], {monitor.metric: value})
                    if self.by_epoch:
                        self._report(row["epoch"], value)
            self._rows[number] = len(rows)
            if not self.by_epoch and number == self._trained and is_trained and monitor.best is not None:
                self._trained += 1
                self._report(self._first + self._trained, monitor.best)

    def _report(self, step: int, value: float) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a resumed trial reports its first epochs again, which Optuna ignores
            self.trial.report(value, step)
            self.is_pruned = self.trial.should_prune() or self.is_pruned


class Worker:
    """One worker of a sweep.

    device: of each trial; None: the best there is
    stop: checked between all steps

    Raises ConfigError where the study cannot be opened.
    """

    def __init__(self, sweep: Sweep, device: str | None, stop: StopSignals) -> None:
        self.sweep, self.device, self.stop = sweep, device, stop
        self.study = sweep.study()
        self._locks = sweep.folder / "locks"
        self._owner = f"{platform.node()}:{sweep.folder.resolve()}"

    def work(self, trials: int, deadline: float) -> None:
        """Trains trials until the study has so many, or the time is over. First it resumes those whose worker was
        killed on this machine, or stopped on any machine that shares the sweep's folder.

        trials: of the study
        deadline: of time.monotonic(); a trial that has begun is trained to its end

        Raises StopSignal if it is asked to stop: the trial in progress is saved, and resumed by the next worker. The
        error of train.py where several trials in a row are refused. UserError where the storage fails."""
        refusals = 0
        while True:
            with ExitStack() as stack, _storage_errors():
                trial = self._claim(trials, deadline, stack)
                if trial is None:
                    return
                ended = self._run(trial)
            refusals = refusals + 1 if ended.exit_code in ENDS_A_SWEEP else 0
            if refusals == MOST_REFUSALS:
                kind = ENDS_A_SWEEP[ended.exit_code]
                raise kind(f"{refusals} trials in a row were refused; trial {trial.number}: {ended.error}")

    def _claim(self, trials: int, deadline: float, stack: ExitStack) -> optuna.Trial | None:
        """A trial that no other worker has, locked until `stack` is closed; None where nothing is left to do.

        While others train the last trials it waits: one of them may be killed."""
        import optuna

        while time.monotonic() < deadline:
            self.stop.raise_if_requested()
            with alone(self._locks):
                state, mine = optuna.trial.TrialState.RUNNING, {self._owner, self.sweep.identity}
                trials_of_all = self.study.get_trials(deepcopy=False)
                known = [each for each in trials_of_all if OWNER in each.user_attrs]
                if self.sweep.is_of_one_machine:  # a worker was killed between asking for a trial and marking it
                    mine.add("")
                    known += [each for each in trials_of_all if OWNER not in each.user_attrs and each.state == state]
                running = [each for each in known if each.state == state and each.user_attrs.get(OWNER, "") in mine]
                for frozen in running:
                    if self._lock(frozen.number, stack):
                        trial = optuna.Trial(self.study, frozen._trial_id)
                        trial.set_user_attr(OWNER, self._owner)
                        return trial
                if len(known) < trials:
                    trial = self.study.ask()
                    if not self._lock(trial.number, stack):
                        raise ConfigError(
                            f"{self._locks}: trial {trial.number} of another study is trained there; wait for it"
                        )
                    trial.set_user_attr(OWNER, self._owner)
                    return trial
            if not running:
                return None
            time.sleep(POLL_SECONDS)
        return None

    def _lock(self, number: int, stack: ExitStack) -> bool:
        descriptor = try_lock(self._locks / f"{number}.lock")
        if descriptor is not None:
            stack.callback(os.close, descriptor)
        return descriptor is not None

    def _run(self, trial: optuna.Trial) -> Ended:
        """Trains a trial and tells the study how it ended."""
        import optuna

        self.study.sampler = self.sweep.sampler(trial.number)
        values = self.sweep.suggest(trial)
        try:
            ended = self._train_all(trial, values)
        except StopSignal:
            trial.set_user_attr(OWNER, self.sweep.identity)  # all is saved: any machine may resume it
            raise
        if ended.value is not None:
            state, text = optuna.trial.TrialState.COMPLETE, f"{self.sweep.monitor.metric} {ended.value:.4f}"
        elif ended.error is None:
            state, text = optuna.trial.TrialState.PRUNED, "pruned"
        else:
            state, text = optuna.trial.TrialState.FAIL, ended.error
            trial.set_user_attr("error", ended.error)
        self.study.tell(trial, ended.value, state)
        chosen = ", ".join(f"{key}={format_value(value)}" for key, value in values.items())
        log.info("trial %d: %s (%s)", trial.number, text, chosen)
        return ended

    def _train_all(self, trial: optuna.Trial, values: dict[str, Any]) -> Ended:
        """The runs of a trial, one for each seed."""
        runs, seeds = self.sweep.runs(trial.number), self.sweep.settings.seeds
        if "runs" not in trial.user_attrs:
            found = next((run.models for run in runs if run.models.exists()), None)
            if found is not None:
                return Ended(None, f"{found}: exists, of an earlier sweep; remove it, or rename the sweep", 2)
            trial.set_user_attr("runs", [str(run.models) for run in runs])
        results: list[float] = []
        for number, run in enumerate(runs):
            ended = self._train(trial, run, values | ({"seed": seeds[number]} if seeds else {}), results)
            if ended is not None:
                return ended
        return Ended(statistics.fmean(results))

    def _train(
        self, trial: optuna.Trial, run: RunFolders, values: dict[str, Any], results: list[float]
    ) -> Ended | None:
        """One run of a trial, from its beginning or where it was stopped. Its results, one a fold, are added to
        `results`. Returns None, or what ended the trial before its end."""
        try:
            models = models_of(run, self.sweep.trial_config(values))
        except ConfigError as error:
            return Ended(None, first_line(error), error.exit_code)
        runs, settings = self.sweep.runs(trial.number), self.sweep.settings
        by_epoch = len(models) == len(runs) == 1
        progress = Progress(trial, models, settings.metric, by_epoch, len(results))
        output = self.sweep.folder / "logs" / f"{run.run}.log"
        process = self._start(run, models, values, output)
        try:
            while process.exitcode is None:
                process.join(POLL_SECONDS)
                progress.update(is_over=False)
                if progress.is_pruned or self.stop.requested:
                    break
        finally:  # also of an error of the storage: the trial is saved
            process.terminate()
            process.join()
        exit_code = process.exitcode or 0
        progress.update(is_over=exit_code == 0)
        if progress.is_pruned and (exit_code in STOPPED or (exit_code == 0 and run != runs[-1])):
            return Ended()
        if exit_code in STOPPED or (exit_code != 0 and self.stop.requested):
            self.stop.raise_if_requested()
            raise StopSignal(f"trial {trial.number} was stopped by a signal; the same command resumes the sweep")
        if exit_code != 0:
            return Ended(None, _last_line(output, exit_code), exit_code)
        if any(monitor.best is None for monitor in progress.monitors):
            return Ended(None, f"{self.sweep.monitor.metric} was never a finite number")
        results += [monitor.best for monitor in progress.monitors if monitor.best is not None]
        return None

    def _start(
        self, run: RunFolders, models: Sequence[RunFolders], values: dict[str, Any], output: Path
    ) -> ForkProcess:
        """train.py in a process forked from this one, which has imported torch; it holds the trial's lock, too."""
        if any(resumable_files(each.models) for each in models):
            command = ["--resume", str(run.models)]
        else:
            shutil.rmtree(run.models, ignore_errors=True)  # killed before its first checkpoint
            command = ["--config", str(self.sweep.config_file), "--run-id", run.run]
            command += [word for text in (*self.sweep.overrides, *assignments(values)) for word in ("--set", text)]
        command += ["--device", self.device] if self.device else []
        process = _FORK.Process(target=_run_train_py, args=(command, output))
        with blocked():  # until the child no longer has this process's handlers
            process.start()
        return process


def _run_train_py(command: Sequence[str], output: Path) -> None:
    """train.py with these arguments, which ends this process; what it prints goes to a file."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    os.setsid()  # Ctrl-C reaches it once, through its worker
    unblock()
    with output.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    stop_with_parent()
    os.environ.pop("MLFLOW_RUN_ID", None)  # of `mlflow run`: each trial is a run of its own
    sys.argv = [TRAIN.name, *command]
    runpy.run_path(str(TRAIN), run_name="__main__")


def stop_with_parent() -> None:
    """This process is asked to stop, with SIGTERM, when the one that started it is killed: nothing is trained that
    nobody supervises."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def _last_line(output: Path, exit_code: int) -> str:
    """What a training that ended so printed last."""
    if exit_code < 0:
        return f"train.py was killed by signal {-exit_code}; {output}"
    lines = output.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else f"exit code {exit_code}"


@contextmanager
def _storage_errors() -> Iterator[None]:
    """Raises a UserError where a database no longer answers."""
    import optuna

    try:
        yield
    except optuna.exceptions.StorageInternalError as error:
        raise UserError(f"--storage: {first_line(error)}; the same command resumes the sweep") from error
