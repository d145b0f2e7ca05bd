"""A sweep: the config whose values are searched, the space of their values, and the study that Optuna keeps of it."""

from __future__ import annotations

import json
import logging
import os
import uuid
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiment.checks import check_config
from experiment.cli import parse_override
from experiment.folds import is_run_of_folds
from experiment.resume import differences, forbidden_changes
from experiment.schema import SECTIONS
from experiment.search.locks import alone
from experiment.search.settings import SweepSettings
from logger.log import LOG_NAME
from parse_config import ConfigParser
from trainer.monitor import Monitor
from utils.config.layers import Layers
from utils.errors import ConfigError, Problem, dotted, write_error
from utils.run_folders import RunFolders
from utils.wording import first_line, format_value

if TYPE_CHECKING:
    import optuna

JOURNAL = "journal.log"
FIXED_IN_A_STUDY = ("trainer.epochs", "sweep.metric", "sweep.space", "sweep.seeds")
"""Beside what may not change in a run: trials that differ there cannot be compared."""


class Sweep:
    """A search as its config describes it.

    config_file: its "sweep" section holds the settings
    overrides: flags of the command line, which hold for every trial
    storage: an Optuna URL; None: a journal in the sweep's folder, which workers of one machine share

    Raises ConfigError.
    """

    def __init__(self, config_file: Path, overrides: Sequence[str] = (), storage: str | None = None) -> None:
        self.config_file, self.overrides = config_file, overrides
        self._storage = storage
        self.config = self.trial_config({})
        settings = self.config.build("sweep")
        if settings is None:
            raise ConfigError(
                f'{config_file}: has no "sweep" section, such as {{"metric": "max val/f1", "space": ...}}'
            )
        self.settings: SweepSettings = settings
        for key in (parse_override(text).key_path for text in overrides):
            if searched := next((each for each in settings.space if _is_at(key, each)), None):
                remedy = "leave out the flag, or take the key from sweep.space"
                raise ConfigError(f"--set {key}: {config_file} searches {searched}; {remedy}")
        self.monitor = Monitor(settings.metric)
        self.name: str = self.config["name"]
        self.save_dir = Path(self.config["trainer"]["save_dir"])
        self.folder = self.save_dir / "sweeps" / self.name

    # --- the space ---

    def trial_config(self, values: dict[str, Any]) -> ConfigParser:
        """The config of a trial with these values by key path. Raises ConfigError."""
        layers = Layers.from_file(self.config_file)
        layers.add_environment()
        overrides = [parse_override(text) for text in (*self.overrides, *assignments(values))]
        return ConfigParser(layers, SECTIONS, overrides)

    def check_space(self) -> None:
        """Raises ConfigError unless every choice and both ends of every range make a config that train.py accepts, the
        other keys being at their first value."""
        space = self.settings.space
        ends = {key: each if isinstance(each, list) else [each["low"], each["high"]] for key, each in space.items()}
        first = {key: values[0] for key, values in ends.items()}
        of_the_config = {str(problem): problem for problem in _problems(lambda: self.config)}
        problems: dict[tuple[str, str], Problem] = {}
        for key_path, values in ends.items():
            for value in values:
                chosen = first | {key_path: value}
                for wrong in _problems(partial(self.trial_config, chosen)):
                    key = next((each for each in space if _is_at(dotted(wrong.key_path), each)), None)
                    if key is None and str(wrong) in of_the_config:
                        problems["", str(wrong)] = wrong
                        continue
                    key = key or key_path
                    described = Problem(("sweep", "space", key), f"has {format_value(chosen[key])}: {wrong}")
                    problems.setdefault((key, str(wrong)), described)
        if self.settings.pruner == "wilcoxon" and len(self.models(0)) == 1:
            text = '= "wilcoxon" compares folds or seeds, and a trial has one model; "median" compares epochs'
            problems["", ""] = Problem(("sweep", "pruner"), text)
        if problems:
            raise self.config.error([*problems.values()])

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
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

    # --- the runs of a trial ---

    def runs(self, number: int) -> list[RunFolders]:
        """The folders of a trial's runs, one for each seed."""
        seeds: Sequence[int | None] = self.settings.seeds or [None]
        names = [f"{self.name}-{number:04d}" + (f"-seed{seed}" if seed is not None else "") for seed in seeds]
        return [RunFolders.in_save_dir(self.save_dir, self.name, name) for name in names]

    def models(self, number: int) -> list[RunFolders]:
        """The folders of all models of a trial: its seeds' and folds'."""
        return [model for run in self.runs(number) for model in models_of(run, self.config)]

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

        remedy = "name a database, such as postgresql+psycopg://user@host/database or sqlite:///sweeps.db"
        if self._storage and "://" not in self._storage:
            raise ConfigError(f"--storage {self._storage}: is no URL; {remedy}")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            (self.folder / "locks").mkdir(parents=True, exist_ok=True)
            (self.folder / "logs").mkdir(exist_ok=True)
        except OSError as error:
            raise write_error(self.folder, error) from None
        journal, identity = str(self.folder / JOURNAL), self.folder / "locks" / "identity"
        if not self._storage and self.folder.joinpath(JOURNAL).exists():
            lock = JournalFileOpenLock(journal)
            lock.acquire()
            try:
                _cut_torn_line(Path(journal))
            finally:
                lock.release()
        try:
            study = optuna.create_study(
                study_name=self.name,
                storage=self._storage or JournalStorage(JournalFileBackend(journal, JournalFileOpenLock(journal))),
                pruner=self._pruner(),
                direction="maximize" if self.monitor.mode == "max" else "minimize",
                load_if_exists=True,
            )
            with alone(self.folder / "locks"):
                if not identity.exists():
                    identity.write_text(uuid.uuid4().hex)
                if "config" not in study.user_attrs:
                    study.set_user_attr("config", self.config.resolved)
            kept = study.user_attrs["config"]  # another machine may have set it
        except Exception as error:  # of SQLAlchemy and of every database's own package
            where = f"--storage {_without_password(self._storage)}" if self._storage else journal
            text = first_line(error).replace(self._storage or journal, "...")  # a URL may hold a password
            hint = f"; {remedy}" if self._storage else ""
            raise ConfigError(f"{where}: the study cannot be opened: {text}{hint}") from error
        self._refuse_another_config(kept)
        return study

    @property
    def is_of_one_machine(self) -> bool:
        """Whether the study is the journal in the sweep's folder."""
        return self._storage is None

    @property
    def identity(self) -> str:
        """Of the sweep's folder, whatever machine sees it, by whatever path."""
        return (self.folder / "locks" / "identity").read_text()

    def _refuse_another_config(self, kept: dict[str, Any]) -> None:
        kept, now = SECTIONS.with_defaults(kept), self.config.resolved
        changed = [*forbidden_changes(kept, now)]
        changed += [each for each in differences(kept, now) if any(_is_at(each[0], key) for key in FIXED_IN_A_STUDY)]
        if changed:
            lines = [
                f"{self.config.origin(key)}: {key} = {format_value(new)}, and the sweep {self.name} was begun with "
                f"{format_value(before)}"
                for key, before, new in changed
            ]
            raise ConfigError("\n".join([*lines, "change them back, or give the sweep another name"]))

    def sampler(self, number: int) -> optuna.samplers.BaseSampler:
        """Of one trial: its draws follow from its number, so two workers do not draw the same."""
        import optuna

        kind = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}[self.settings.sampler]
        return kind(seed=(self.settings.seed * 1_000_003 + number) % 2**32)

    def _pruner(self) -> optuna.pruners.BasePruner:
        import optuna

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Wilcoxon's is experimental
            if self.settings.pruner == "hyperband":
                models, epochs = len(self.models(0)), self.config["trainer"]["epochs"]
                return optuna.pruners.HyperbandPruner(max_resource=epochs if models == 1 else models)
            kinds = {"median": "MedianPruner", "wilcoxon": "WilcoxonPruner", None: "NopPruner"}
            return getattr(optuna.pruners, kinds[self.settings.pruner])()


def _without_password(url: str) -> str:
    """What tells where a database is."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{'...@' if '@' in rest else ''}{rest.rpartition('@')[2].partition('?')[0]}"


def models_of(run: RunFolders, config: ConfigParser) -> list[RunFolders]:
    """The folders of the models of a run: its folds, or itself."""
    if not is_run_of_folds(config.resolved):
        return [run]
    return [run.of_fold(number) for number in range(config["split"]["args"]["folds"])]


def choice_name(value: Any) -> bool | int | float | str | None:
    """A choice as Optuna keeps it: lists and objects as JSON."""
    return json.dumps(value) if isinstance(value, list | dict) else value


def assignments(values: dict[str, Any]) -> list[str]:
    """Values by key path as --set takes them."""
    return [f"{key_path}={json.dumps(value)}" for key_path, value in values.items()]


def _is_at(key_path: str, above: str) -> bool:
    """Whether a key path is another, or below it."""
    return key_path == above or key_path.startswith(f"{above}.")


def _cut_torn_line(journal: Path) -> None:
    """A line that a machine that went down has half written: Optuna would append to it, and read nothing after it."""
    with journal.open("r+b") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            logging.getLogger(LOG_NAME).warning("%s: its last line is half written, and left out", journal)
            file.truncate(whole)
            os.fsync(file.fileno())


def _problems(config: Callable[[], ConfigParser]) -> list[Problem]:
    """What is wrong with a config, from its making on."""
    try:
        check_config(config())
    except ConfigError as error:
        return error.problems or [Problem((), line) for line in str(error).splitlines()]
    return []
