"""Search: trials of a config whose values Optuna chooses, each a run of train.py that resumes exactly after a kill.

A worker is a process that asks the study for a trial, trains it in a process of its own (train.py), reports its metric
after each epoch, and tells the study the result. Any number of workers, on any number of machines, share a study."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiment.checks import check_config
from experiment.cli import parse_override
from experiment.folds import is_run_of_folds
from experiment.resume import differences, forbidden_changes
from experiment.search_settings import SweepSettings
from inference.out_of_fold import OUT_OF_FOLD_FILE
from logger.json_lines_tracker import read_metrics
from logger.log import LOG_NAME
from parse_config import ConfigParser
from trainer.checkpoint import resumable_files
from trainer.monitor import Monitor
from utils.config.layers import Layers
from utils.config.sections import Sections
from utils.errors import ConfigError, DataError, Problem, StopSignal, StorageFullError, UserError, dotted
from utils.run_folders import RunFolders
from utils.signals import StopSignals
from utils.wording import first_line, format_value

if TYPE_CHECKING:
    import optuna

PROJECT = Path(__file__).parents[1]
POLL_SECONDS = 0.5
MOST_REFUSALS = 3
ENDS_A_SWEEP: dict[int, type[UserError]] = {each.exit_code: each for each in (ConfigError, DataError, StorageFullError)}
"""Exit codes that are no fault of a trial's values: MOST_REFUSALS trials in a row that end so end the sweep."""
STOPPED = (75, 130, -signal.SIGTERM)
"""How a train.py that was asked to stop ends: it saved, or had nothing to save yet."""

JOURNAL = "journal.log"
OWNER = "owner"
"""A trial's attribute: the machine and the folder of the sweep where it is trained, and resumed after a kill."""
FIXED_IN_A_STUDY = ("trainer.epochs", "sweep.metric", "sweep.space", "sweep.seeds")
"""Beside what may not change in a run: trials that differ there cannot be compared."""

log = logging.getLogger(LOG_NAME)


@dataclass
class Ended:
    """How a trial ended.

    value: of the metric, of a trial that was trained to its end
    error: what ended it before, in one line; None for one that was pruned
    exit_code: of its train.py
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


class Sweep:
    """A study, and what its workers need to know.

    config_file: the config of the sweep; its "sweep" section holds the settings
    overrides: flags of the command line, which hold for every trial
    storage: an Optuna URL; None: a journal in the sweep's folder, which workers of one machine share
    device: of each trial; None: the best there is

    Raises ConfigError.
    """

    def __init__(
        self,
        config_file: Path,
        sections: Sections,
        overrides: Sequence[str] = (),
        storage: str | None = None,
        device: str | None = None,
    ) -> None:
        self.config_file, self.sections, self.overrides, self.device = config_file, sections, overrides, device
        self.config = self.trial_config({})
        settings = self.config.build("sweep")
        if settings is None:
            raise ConfigError(
                f'{config_file}: has no "sweep" section, such as {{"metric": "max val/f1", "space": ...}}'
            )
        self.settings: SweepSettings = settings
        self.monitor = Monitor(settings.metric)
        self.name: str = self.config["name"]
        self.save_dir = Path(self.config["trainer"]["save_dir"])
        self.folder = self.save_dir / "sweeps" / self.name
        self._storage = storage
        self._owner = f"{platform.node()}:{self.folder.resolve()}"

    # --- the space ---

    def trial_config(self, values: dict[str, Any]) -> ConfigParser:
        """The config of a trial with these values by key path. Raises ConfigError."""
        layers = Layers.from_file(self.config_file)
        layers.add_environment()
        overrides = [parse_override(text) for text in (*self.overrides, *_assignments(values))]
        return ConfigParser(layers, self.sections, overrides)

    def check_space(self) -> None:
        """Raises ConfigError unless every choice and both ends of every range make a config that train.py accepts, the
        other keys being at their first value."""
        space = self.settings.space
        ends = {key: each if isinstance(each, list) else [each["low"], each["high"]] for key, each in space.items()}
        first = {key: values[0] for key, values in ends.items()}
        problems: dict[tuple[str, str], Problem] = {}
        for key_path, values in ends.items():
            for value in values:
                chosen = first | {key_path: value}
                try:
                    check_config(self.trial_config(chosen))
                except ConfigError as error:
                    for wrong, text in _described(error):
                        key = next((each for each in space if _is_at(wrong, each)), key_path)
                        value_text = format_value(chosen[key])
                        problem = Problem(("sweep", "space", key), f"has {value_text}: {text}")
                        problems.setdefault((key, value_text), problem)
        if problems:
            raise self.config.error([*problems.values()])

    def _suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """The trial's values by key path."""
        chosen: dict[str, Any] = {}
        for key_path, values in self.settings.space.items():
            if isinstance(values, list):
                choices = [choice_name(each) for each in values]
                chosen[key_path] = values[choices.index(trial.suggest_categorical(key_path, choices))]
                continue
            low, high, log_scale = values["low"], values["high"], values.get("log", False)
            if all(isinstance(each, int) for each in values.values()):
                step = int(values.get("step", 1))
                chosen[key_path] = trial.suggest_int(key_path, int(low), int(high), log=log_scale, step=step)
            else:
                chosen[key_path] = trial.suggest_float(key_path, low, high, log=log_scale, step=values.get("step"))
        return chosen

    # --- the study ---

    def study(self) -> optuna.Study:
        """The study, which is made if it does not exist.

        Raises ConfigError where Optuna is not installed, the storage cannot be opened, or the study was begun with
        another config."""
        try:
            import optuna
        except ImportError:
            raise ConfigError('scripts.sweep needs the package "optuna": pip install optuna') from None
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalStorage

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            (self.folder / "locks").mkdir(parents=True, exist_ok=True)
            (self.folder / "logs").mkdir(exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{self.folder}: cannot be written: {error.strerror}") from None
        journal = str(self.folder / JOURNAL)
        try:
            study = optuna.create_study(
                study_name=self.name,
                storage=self._storage or JournalStorage(JournalFileBackend(journal, JournalFileOpenLock(journal))),
                pruner=self._pruner(),
                direction="maximize" if self.monitor.mode == "max" else "minimize",
                load_if_exists=True,
            )
            with _alone(self.folder / "locks"):
                kept = study.user_attrs.get("config")
                if kept is None:
                    study.set_user_attr("config", self.config.resolved)
        except Exception as error:  # of SQLAlchemy and of every database's own package
            where = "--storage" if self._storage else journal
            text = first_line(error).replace(self._storage or journal, "...")  # a URL may hold a password
            raise ConfigError(f"{where}: the study cannot be opened: {text}") from error
        if kept is not None:
            self._refuse_another_config(kept)
        return study

    def _refuse_another_config(self, kept: dict[str, Any]) -> None:
        kept, now = self.sections.with_defaults(kept), self.config.resolved
        changed = [*forbidden_changes(kept, now)]
        changed += [each for each in differences(kept, now) if any(_is_at(each[0], key) for key in FIXED_IN_A_STUDY)]
        if changed:
            lines = [
                f"{self.config.origin(key)}: {key} = {format_value(new)}, and the sweep {self.name} was begun with "
                f"{format_value(before)}"
                for key, before, new in changed
            ]
            raise ConfigError("\n".join([*lines, "change them back, or give the sweep another name"]))

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        """Of one trial: its draws follow from its number, so two workers do not draw the same."""
        import optuna

        kind = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}[self.settings.sampler]
        return kind(seed=(self.settings.seed * 1_000_003 + number) % 2**32)

    def _pruner(self) -> optuna.pruners.BasePruner:
        import optuna

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Wilcoxon's is experimental
            if self.settings.pruner == "hyperband":
                return optuna.pruners.HyperbandPruner(max_resource=self._most_steps())
            kinds = {"median": "MedianPruner", "wilcoxon": "WilcoxonPruner", None: "NopPruner"}
            return getattr(optuna.pruners, kinds[self.settings.pruner])()

    def _most_steps(self) -> int:
        """How often a trial reports, at most."""
        models = len(self._folds(self._runs(0)[0], self.config)) * len(self._runs(0))
        epochs: int = self.config["trainer"]["epochs"]
        return epochs if models == 1 else models

    # --- a worker ---

    def work(self, trials: int, deadline: float, stop: StopSignals) -> None:
        """Trains trials until the study has so many, or the time is over. First it resumes those of this machine whose
        worker was killed.

        trials: of the study
        deadline: of time.monotonic(); a trial that has begun is trained to its end

        Raises StopSignal if it is asked to stop: the trial in progress is saved, and resumed by the next worker. The
        error of train.py where several trials in a row are refused. UserError where the storage fails."""
        study = self.study()
        refusals = 0
        while True:
            with ExitStack() as stack, _storage_errors():
                claimed = self._claim(study, trials, deadline, stop, stack)
                if claimed is None:
                    return
                trial, lock = claimed
                ended = self._run(study, trial, lock, stop)
            refusals = refusals + 1 if ended.exit_code in ENDS_A_SWEEP else 0
            if refusals == MOST_REFUSALS:
                kind = ENDS_A_SWEEP[ended.exit_code]
                raise kind(f"{refusals} trials in a row were refused; trial {trial.number}: {ended.error}")

    def _claim(
        self, study: optuna.Study, trials: int, deadline: float, stop: StopSignals, stack: ExitStack
    ) -> tuple[optuna.Trial, int] | None:
        """A trial that no other worker has, and its lock, until `stack` is closed; None where nothing is left to do.

        While others train the last trials it waits: one of them may be killed."""
        import optuna

        locks = self.folder / "locks"
        while time.monotonic() < deadline:
            stop.raise_if_requested()
            with _alone(locks):
                known = [each for each in study.get_trials(deepcopy=False) if OWNER in each.user_attrs]
                running = [
                    each
                    for each in known
                    if each.state == optuna.trial.TrialState.RUNNING and each.user_attrs[OWNER] == self._owner
                ]
                for frozen in running:
                    lock = _try_lock(locks / f"{frozen.number}.lock")
                    if lock is not None:
                        stack.callback(os.close, lock)
                        return optuna.Trial(study, frozen._trial_id), lock
                if len(known) < trials:
                    trial = study.ask()
                    lock = _try_lock(locks / f"{trial.number}.lock")
                    if lock is None:
                        raise ConfigError(
                            f"{locks}: trial {trial.number} of another study is trained there; wait for it"
                        )
                    stack.callback(os.close, lock)
                    trial.set_user_attr(OWNER, self._owner)
                    return trial, lock
            if not running:
                return None
            time.sleep(POLL_SECONDS)
        return None

    def _runs(self, number: int) -> list[RunFolders]:
        """The folders of a trial's runs, one for each seed."""
        seeds: Sequence[int | None] = self.settings.seeds or [None]
        names = [f"{self.name}-{number:04d}" + (f"-seed{seed}" if seed is not None else "") for seed in seeds]
        return [RunFolders.in_save_dir(self.save_dir, self.name, name) for name in names]

    @staticmethod
    def _folds(run: RunFolders, config: ConfigParser) -> list[RunFolders]:
        """The folders of the models of a run: its folds, or itself."""
        if not is_run_of_folds(config.resolved):
            return [run]
        return [run.of_fold(number) for number in range(config["split"]["args"]["folds"])]

    def _run(self, study: optuna.Study, trial: optuna.Trial, lock: int, stop: StopSignals) -> Ended:
        """Trains a trial and tells the study how it ended."""
        import optuna

        study.sampler = self._sampler(trial.number)
        values = self._suggest(trial)
        ended = self._train_all(trial, values, lock, stop)
        if ended.value is not None:
            state, text = optuna.trial.TrialState.COMPLETE, f"{self.monitor.metric} {ended.value:.4f}"
        elif ended.error is None:
            state, text = optuna.trial.TrialState.PRUNED, "pruned"
        else:
            state, text = optuna.trial.TrialState.FAIL, ended.error
            trial.set_user_attr("error", ended.error)
        study.tell(trial, ended.value, state)
        chosen = ", ".join(f"{key}={format_value(value)}" for key, value in values.items())
        log.info("trial %d: %s (%s)", trial.number, text, chosen)
        return ended

    def _train_all(self, trial: optuna.Trial, values: dict[str, Any], lock: int, stop: StopSignals) -> Ended:
        """The runs of a trial, one for each seed."""
        runs = self._runs(trial.number)
        if "runs" not in trial.user_attrs:
            found = next((run.models for run in runs if run.models.exists()), None)
            if found is not None:
                return Ended(None, f"{found}: exists, of an earlier sweep; remove it, or rename the sweep", 2)
            trial.set_user_attr("runs", [str(run.models) for run in runs])
        results: list[float] = []
        for number, run in enumerate(runs):
            seed = {"seed": self.settings.seeds[number]} if self.settings.seeds else {}
            ended = self._train(trial, run, values | seed, lock, results, stop)
            if ended is not None:
                return ended
        return Ended(statistics.fmean(results))

    def _train(
        self,
        trial: optuna.Trial,
        run: RunFolders,
        values: dict[str, Any],
        lock: int,
        results: list[float],
        stop: StopSignals,
    ) -> Ended | None:
        """One run of a trial, from its beginning or where it was stopped, in a process of its own. Its results, one a
        fold, are added to `results`. Returns None, or what ended the trial before its end."""
        try:
            models = self._folds(run, self.trial_config(values))
        except ConfigError as error:
            return Ended(None, first_line(error), error.exit_code)
        by_epoch = len(models) == len(self._runs(0)) == 1 and self.settings.pruner != "wilcoxon"
        progress = Progress(trial, models, self.settings.metric, by_epoch, len(results))
        output = self.folder / "logs" / f"{run.run}.log"
        process = self._start(run, models, values, lock, output)
        exit_code = None
        while exit_code is None:
            exit_code = process.poll()
            progress.update(is_over=exit_code == 0)
            if exit_code is None and (progress.is_pruned or stop.requested):
                process.send_signal(signal.SIGTERM)
                process.wait()
            elif exit_code is None:
                time.sleep(POLL_SECONDS)
        if progress.is_pruned and (exit_code in STOPPED or (exit_code == 0 and run != self._runs(trial.number)[-1])):
            return Ended()
        if exit_code in STOPPED:
            stop.raise_if_requested()
            raise StopSignal(f"trial {trial.number} was stopped by a signal; the same command resumes the sweep")
        if exit_code != 0:
            return Ended(None, _last_line(output, exit_code), exit_code)
        if any(monitor.best is None for monitor in progress.monitors):
            return Ended(None, f"{self.monitor.metric} was never a finite number")
        results += [monitor.best for monitor in progress.monitors if monitor.best is not None]
        return None

    def _start(
        self, run: RunFolders, models: Sequence[RunFolders], values: dict[str, Any], lock: int, output: Path
    ) -> subprocess.Popen[bytes]:
        """train.py, which holds the trial's lock too: it outlives a worker that is killed."""
        if any(resumable_files(each.models) for each in models):
            command = ["--resume", str(run.models)]
        else:
            shutil.rmtree(run.models, ignore_errors=True)  # killed before its first checkpoint
            command = ["--config", str(self.config_file), "--run-id", run.run]
            command += [word for text in (*self.overrides, *_assignments(values)) for word in ("--set", text)]
        command += ["--device", self.device] if self.device else []
        with output.open("ab") as file:
            # In a session of its own: Ctrl-C reaches it once, through this worker.
            return subprocess.Popen(
                [sys.executable, str(PROJECT / "train.py"), *command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(lock,),
            )


def choice_name(value: Any) -> bool | int | float | str | None:
    """A choice as Optuna keeps it: lists and objects as JSON."""
    return json.dumps(value) if isinstance(value, list | dict) else value


def _assignments(values: dict[str, Any]) -> list[str]:
    return [f"{key_path}={json.dumps(value)}" for key_path, value in values.items()]


def _is_at(key_path: str, above: str) -> bool:
    """Whether a key path is another, or below it."""
    return key_path == above or key_path.startswith(f"{above}.")


def _described(error: ConfigError) -> Iterator[tuple[str, str]]:
    """Each problem of an error with its key path; "" where it has none."""
    for problem in error.problems:
        yield dotted(problem.key_path), str(problem)
    if not error.problems:
        for line in str(error).splitlines():
            yield "", line


def _last_line(output: Path, exit_code: int) -> str:
    """What a train.py that ended so printed last."""
    if exit_code < 0:
        return f"train.py was killed by signal {-exit_code}; {output}"
    lines = output.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else f"exit code {exit_code}"


@contextmanager
def _storage_errors() -> Iterator[None]:
    """Raises a UserError where a database no longer answers. What is trained then is trained on, and its result is
    reported by the next worker."""
    import optuna

    try:
        yield
    except optuna.exceptions.StorageInternalError as error:
        raise UserError(f"--storage: {first_line(error)}; the same command resumes the sweep") from error


def _try_lock(file: Path) -> int | None:
    """The descriptor of a lock file that this process holds now, and every process that is given it, until all have
    closed it or were killed. None where another process holds it."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No other worker of this machine asks for a trial while it is entered."""
    with (folder / "ask.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
