"""What comes of a search: the best config, a table of the trials, and pictures."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiment.search.study import Sweep, choice_name
from utils.files import write_atomically
from utils.wording import format_value

if TYPE_CHECKING:
    import optuna

BEST_CONFIG = "best.json"
TRIALS_TABLE = "trials.csv"
PICTURES = ("optimization_history", "param_importances", "parallel_coordinate")


def best_config(sweep: Sweep, study: optuna.Study) -> dict[str, Any] | None:
    """The config of the best trial, complete, without the sweep; None where no trial was trained to its end."""
    if not _finished(study):
        return None
    values: dict[str, Any] = {}
    for key_path, value in study.best_params.items():
        choices = sweep.settings.space[key_path]
        if isinstance(choices, list):
            value = choices[[choice_name(each) for each in choices].index(value)]
        values[key_path] = value
    config = sweep.trial_config(values).resolved
    return {key: value for key, value in config.items() if key != "sweep"}


def best_line(sweep: Sweep, study: optuna.Study) -> str:
    """The best trial in one line."""
    trials = study.get_trials(deepcopy=False)
    counts = [f"{sum(each.state.name == name for each in trials)} {name.lower()}" for name in ("PRUNED", "FAIL")]
    finished = _finished(study)
    summary = f"{len(finished)} of {len(trials)} trials finished, {', '.join(counts)}"
    if not finished:
        return summary
    best = study.best_trial
    values = ", ".join(f"{key}={format_value(value)}" for key, value in best.params.items())
    return f"{summary}; best: trial {best.number}, {sweep.monitor.metric} {best.value:.4f} ({values})"


def write_results(sweep: Sweep, study: optuna.Study) -> list[Path]:
    """Writes best.json (a config for train.py), trials.csv and, where matplotlib is installed, pictures of the history,
    of how much each value matters and of which go together. Returns the files."""
    files = [sweep.folder / TRIALS_TABLE]
    write_atomically(files[0], study.trials_dataframe().to_csv(index=False).encode())
    if (best := best_config(sweep, study)) is not None:
        files.insert(0, sweep.folder / BEST_CONFIG)
        write_atomically(files[0], f"{json.dumps(best, indent=4, ensure_ascii=False)}\n".encode())
        files += _draw(study, sweep.folder)
    return files


def _finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]


def _draw(study: optuna.Study, folder: Path) -> list[Path]:
    try:
        import matplotlib
    except ImportError:
        return []
    matplotlib.use("Agg")
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as figures

    drawn = []
    for name in PICTURES:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # these figures are experimental in Optuna
                getattr(figures, f"plot_{name}")(study)
                pyplot.tight_layout()
                pyplot.savefig(folder / f"{name}.png", dpi=110)
        except (ValueError, RuntimeError):  # too few trials, or one value of each
            continue
        finally:
            pyplot.close("all")
        drawn.append(folder / f"{name}.png")
    return drawn
