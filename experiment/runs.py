"""The runs under a save_dir: how each was configured, how far it got and how well it did."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from experiment.folds import is_run_of_folds
from experiment.run_record import RECORD_FILE, leaves, read_record
from inference.scoring.scores import TestScores, own_test_scores
from logger.json_lines_tracker import read_metrics
from trainer.checkpoint import read_newest
from trainer.monitor import Monitor
from utils.errors import CheckpointError, ConfigError
from utils.run_folders import CONFIG_FILE, folds_in, read_kept_config
from utils.wording import did_you_mean

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunSummary:
    """One run.

    folder: of its checkpoints
    config: resolved
    metrics: by name, the value at the best epoch of its monitor (without one, at the last epoch); of a run of folds
        the means over the folds that have begun; and those of `test`
    best_epoch: None for a run of folds, and for a run without an epoch
    epochs: completed; of a run of folds, of all its folds together
    seconds: of training, over all sessions; None if the run does not know it
    validation_digest: equal for runs whose scores may be compared; None if the run does not know it
    changes: by key path, what differs from the config that its config extends
    test: the newest scores on test images; None where test.py has not scored it
    history: by model (its folds, or itself), a dict for each epoch, with the values of its metrics
    """

    folder: Path
    config: dict[str, Any]
    metrics: dict[str, float] = field(default_factory=dict)
    best_epoch: int | None = None
    epochs: int = 0
    seconds: float | None = None
    validation_digest: str | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    test: TestScores | None = None
    history: list[list[dict[str, Any]]] = field(default_factory=list)

    def best(self, metric: str, mode: str) -> tuple[float | None, int | None]:
        """The best value of a metric over the epochs, as a sweep's, and its epoch (of folds the mean, without epoch).
        Of a metric that no epoch has, such as a test's, its value."""
        monitors = [Monitor(f"{mode} {metric}") for _ in self.history]
        for monitor, rows in zip(monitors, self.history, strict=True):
            for row in rows:
                monitor.update(row["epoch"], {name: value for name, value in row.items() if value is not None})
        found = [monitor.best for monitor in monitors if monitor.best is not None]
        if not found:
            return self.metrics.get(metric), self.best_epoch
        return sum(found) / len(found), None if is_run_of_folds(self.config) else monitors[0].best_epoch

    def names(self) -> set[str]:
        """Of all its metrics."""
        of_epochs = {name for rows in self.history for row in rows for name, value in row.items() if value is not None}
        return (self.metrics.keys() | of_epochs) - {"epoch"}

    @property
    def monitored(self) -> str:
        """The metric of its monitor; without one, the validation loss."""
        monitor = Monitor(self.config["trainer"]["monitor"])
        return monitor.metric if monitor.is_on else "val/loss"

    @property
    def title(self) -> str:
        return f"{self.config['name']}/{self.folder.name}"


def summarise_runs(save_dir: Path) -> list[RunSummary]:
    """The runs under a save_dir, the oldest first, without those of `unreadable_runs`; of a run whose other
    files are damaged it warns."""
    found = []
    for folder in sorted((save_dir / "models").glob("*/*")):
        if _kept_config(folder) is not None:
            try:
                found.append(summarise_run(folder))
            except CheckpointError as error:
                logger.warning("%s", error)
    return sorted(found, key=lambda run: run.folder.name)


def unreadable_runs(save_dir: Path) -> list[Path]:
    """The folders of runs under a save_dir whose config.json is damaged, or gone from beside their checkpoints."""
    return [
        folder
        for folder in sorted((save_dir / "models").glob("*/*"))
        if _kept_config(folder) is None and ((folder / CONFIG_FILE).exists() or any(folder.glob("*.pth")))
    ]


def _kept_config(folder: Path) -> dict[str, Any] | None:
    """None where there is none, or it is no run's: a project has a config.json, too."""
    config = read_kept_config(folder)
    if config is None or not {"name", "trainer"} <= config.keys():
        return None
    return config if read_record(folder) or any(folder.glob("*.pth")) or folds_in(folder) else None


def summarise_run(folder: Path) -> RunSummary:
    """The run in a folder of checkpoints. Raises CheckpointError if it kept no config, or its files are damaged."""
    config = _kept_config(folder)
    if config is None:
        raise CheckpointError(
            f"{folder}: is no run folder, such as saved/models/<name>/<run>: it has no readable config.json"
        )
    try:
        return _summarise(folder, config)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        damaged = f"its {CONFIG_FILE} or {RECORD_FILE} is damaged ({error!r:.80}); restore it, or train the run again"
        raise CheckpointError(f"{folder}: {damaged}") from None


def _summarise(folder: Path, config: dict[str, Any]) -> RunSummary:
    """Raises whatever a value of a wrong type makes Python raise."""
    test = own_test_scores(folder)
    if is_run_of_folds(config):
        folds = [_summarise_model(path, config) for path in folds_in(folder).values()]
        begun = [fold for fold in folds if fold.metrics]
        names = set.intersection(*(set(fold.metrics) for fold in begun)) if begun else set()
        digests = [fold.validation_digest or "" for fold in folds]
        return RunSummary(
            folder,
            config,
            {name: sum(fold.metrics[name] for fold in begun) / len(begun) for name in sorted(names)}
            | (test.metrics if test else {}),
            None,
            sum(fold.epochs for fold in folds),
            sum(fold.seconds for fold in folds if fold.seconds is not None) if begun else None,
            "+".join(digests) if all(digests) and digests else None,
            folds[0].changes if folds else {},
            test,
            [rows for fold in folds for rows in fold.history],
        )
    run = _summarise_model(folder, config)
    return run if test is None else replace(run, metrics=run.metrics | test.metrics, test=test)


def _summarise_model(folder: Path, config: dict[str, Any]) -> RunSummary:
    record = read_record(folder)
    rows = read_metrics(log_folder(folder)) or _rows_of_checkpoint(folder)
    best_epoch = None
    monitor = Monitor(config["trainer"]["monitor"])
    for row in rows:
        if monitor.update(row["epoch"], {name: value for name, value in row.items() if value is not None}):
            best_epoch = row["epoch"]
    chosen = next((row for row in rows if row["epoch"] == best_epoch), rows[-1] if rows else {})
    spans = [
        (datetime.fromisoformat(each["ended"]) - datetime.fromisoformat(each["began"])).total_seconds()
        for each in record.get("sessions", [])
        if each["ended"] is not None
    ]
    return RunSummary(
        folder,
        config,
        {name: value for name, value in chosen.items() if name != "epoch" and value is not None},
        chosen.get("epoch"),
        rows[-1]["epoch"] if rows else 0,
        sum(spans) if spans else None,
        record.get("digests", {}).get("validation") if _validates(record) else None,
        _flags_first(record),
        history=[rows],
    )


def _validates(record: dict[str, Any]) -> bool:
    """Whether a run has validation images, as far as it knows."""
    return bool(record.get("sides", {}).get("validation", {}).get("images") != 0)


def _rows_of_checkpoint(folder: Path) -> list[dict[str, Any]]:
    """What a checkpoint knows of the epochs, for a run that was copied without its log: the best, and the last."""
    try:
        _, content = read_newest(folder)
    except CheckpointError:
        return []
    rows: dict[int, dict[str, Any]] = {}
    for monitor in content.get("monitors", []):
        if monitor["best"] is not None:
            rows.setdefault(monitor["best_epoch"], {})[monitor["metric"]] = monitor["best"]
    if completed := content.get("completed_epochs", 0):
        rows.setdefault(completed, {})
    return [{"epoch": epoch, **rows[epoch]} for epoch in sorted(rows)]


def _flags_first(record: dict[str, Any]) -> dict[str, Any]:
    """The changes of a run: first those of the command line, which tell apart the runs of one file."""
    changed, origins = record.get("changes", {}), record.get("origins", {})
    return dict(sorted(changed.items(), key=lambda change: not origins.get(change[0], "").startswith("--")))


def log_folder(models: Path) -> Path:
    """Of <save_dir>/models/<name>/<run>[/fold_<k>] the same path under log."""
    parts = list(models.resolve().parts)
    for position in range(len(parts) - 2, -1, -1):
        if parts[position] == "models":
            parts[position] = "log"
            break
    return Path(*parts)


def usual(digests: Iterable[str | None]) -> str | None:
    """The most frequent digest: runs that have another were scored on other images. None where no run has one."""
    known = [digest for digest in digests if digest is not None]
    return max(set(known), key=known.count) if known else None


def compare_configs(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """By key path, the two values of what differs between two configs; a key that one lacks is None there."""
    one, other = dict(leaves(first)), dict(leaves(second))
    keys = [*one, *(key for key in other if key not in one)]
    return {key: (one.get(key), other.get(key)) for key in keys if one.get(key) != other.get(key)}


def explain(folder: Path, key_path: str) -> list[tuple[str, Any, str]]:
    """Each value at or below a key path of a run's config, with what set it: a file, a flag, or "default".

    Raises CheckpointError where the folder is no run; ConfigError for a key that its config has not."""
    run = summarise_run(folder)
    own = next(iter(folds_in(folder).values()), folder) if is_run_of_folds(run.config) else folder
    origins = read_record(own).get("origins", {})
    values = dict(leaves(run.config))
    found = [key for key in values if key == key_path or key.startswith(f"{key_path}.")]
    if not found:
        raise ConfigError(f"{folder}: its config has no {key_path}{did_you_mean(key_path, list(values))}")
    return [(key, values[key], origins.get(key, "unknown: the run kept no run.json")) for key in found]
