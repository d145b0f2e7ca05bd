"""What comes of a search: the best config, a table of the trials, and pictures."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiment.search.pictures import draw_pictures
from experiment.search.study import Sweep, choice_name
from utils.errors import UserError
from utils.files import write_atomically
from utils.wording import format_value

if TYPE_CHECKING:
    import optuna

BEST_CONFIG = "best.json"
SUMMARY = "summary.txt"
TRIALS_TABLE = "trials.csv"


def best_config(sweep: Sweep, study: optuna.Study) -> dict[str, Any] | None:
    """The config of the best trial, complete, without the sweep; None where no trial was trained to its end."""
    if not _finished(study):
        return None
    config = sweep.trial_config(_best_values(sweep, study)).resolved
    return {key: value for key, value in config.items() if key != "sweep"}


def _best_values(sweep: Sweep, study: optuna.Study) -> dict[str, Any]:
    """By key path, as the config has them."""
    values: dict[str, Any] = {}
    for key_path, value in study.best_params.items():
        choices = sweep.settings.space[key_path]
        if isinstance(choices, list):
            value = choices[[choice_name(each) for each in choices].index(value)]
        values[key_path] = value
    return values


def best_line(sweep: Sweep, study: optuna.Study) -> str:
    """The best trial in one line."""
    trials = study.get_trials(deepcopy=False)
    counts = [f"{sum(each.state.name == name for each in trials)} {name.lower()}" for name in ("PRUNED", "FAIL")]
    finished = _finished(study)
    summary = f"{len(finished)} of {len(trials)} trials finished, {', '.join(counts)}"
    if not finished:
        return summary
    best = study.best_trial
    values = ", ".join(f"{key}={format_value(value)}" for key, value in _best_values(sweep, study).items())
    return f"{summary}; best: trial {best.number}, {sweep.monitor.metric} {best.value:.4f} ({values})"


def importances_line(sweep: Sweep, study: optuna.Study) -> str | None:
    """How much each value matters for the result, in one line; None where there are too few trials to tell."""
    import optuna

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of too few trials
            shares = optuna.importance.get_param_importances(study) if len(sweep.settings.space) > 1 else {}
    except (ValueError, RuntimeError):
        return None
    return "what matters: " + ", ".join(f"{key} {share:.2f}" for key, share in shares.items()) if shares else None


def summaries(save_dir: Path) -> dict[str, str]:
    """By folder, what the sweeps under a save_dir have come to."""
    return {str(file.parent): file.read_text(encoding="utf-8") for file in sorted(save_dir.glob(f"sweeps/*/{SUMMARY}"))}


def write_results(sweep: Sweep, study: optuna.Study) -> list[Path]:
    """Writes best.json (a config for train.py), trials.csv, summary.txt, and pictures of the history, of how much each
    value matters and of which go together. Returns the files."""
    files = [sweep.folder / TRIALS_TABLE, sweep.folder / SUMMARY]
    write_atomically(files[0], study.trials_dataframe().to_csv(index=False).encode())
    lines = [best_line(sweep, study), importances_line(sweep, study)]
    write_atomically(files[1], "".join(f"{line}\n" for line in lines if line).encode())
    if (best := best_config(sweep, study)) is not None:
        files.insert(0, sweep.folder / BEST_CONFIG)
        write_atomically(files[0], f"{json.dumps(best, indent=4, ensure_ascii=False)}\n".encode())
        files += draw_pictures(sweep, study)
    return files


def refuse_without_result(study: optuna.Study) -> None:
    """Raises UserError where trials have failed, and none was trained to its end."""
    failed = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "FAIL"]
    if failed and not _finished(study):
        why = failed[-1].user_attrs.get("error", "unknown")
        remedy = "failed trials count: when the cause is mended, ask for more --trials, or give the sweep another name"
        raise UserError(f"no trial finished; trial {failed[-1].number}: {why}; {remedy}")


def _finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
