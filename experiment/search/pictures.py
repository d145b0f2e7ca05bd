"""What a search has learnt, as pictures: its history, how much each value matters, and which values go together."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiment.search.settings import Range
from experiment.search.study import Sweep, choice_name
from utils.files import write_atomically
from utils.wording import format_value

if TYPE_CHECKING:
    import optuna

DOTS_PER_INCH = 120
TICKS = 5
"""Of a linear axis, at most."""


def draw_pictures(sweep: Sweep, study: optuna.Study) -> list[Path]:
    """Draws optimization_history.png, param_importances.png and parallel_coordinate.png, as far as there are trials
    enough. Returns the files."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn = []
    for name, draw in PICTURES.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Optuna's figures are experimental
                draw(sweep, study)
                picture = BytesIO()
                pyplot.gcf().savefig(picture, dpi=DOTS_PER_INCH, bbox_inches="tight")
        except (ValueError, RuntimeError):  # too few trials, or one value of each
            continue
        finally:
            pyplot.close("all")
        drawn.append(sweep.folder / f"{name}.png")
        write_atomically(drawn[-1], picture.getvalue())
    return drawn


def _history(sweep: Sweep, study: optuna.Study) -> None:
    from optuna.visualization import matplotlib as figures

    axes = figures.plot_optimization_history(study, target_name=sweep.monitor.metric)
    axes.figure.set_size_inches(9, 5)
    axes.set_title(f"{sweep.name}: {sweep.monitor.metric} by trial", loc="left")
    axes.legend(["a trial", "the best until then"], loc="lower right" if sweep.monitor.mode == "max" else "upper right")


def _importances(sweep: Sweep, study: optuna.Study) -> None:
    from optuna.visualization import matplotlib as figures

    if len(sweep.settings.space) == 1:
        raise ValueError
    axes = figures.plot_param_importances(study, target_name=sweep.monitor.metric)
    axes.figure.set_size_inches(9, 1.5 + 0.5 * len(sweep.settings.space))
    axes.set_title(f"{sweep.name}: how much each value matters for {sweep.monitor.metric}", loc="left")
    axes.set(xlabel="share of what differs between trials", ylabel="")
    axes.get_legend().remove()


def _parallel_coordinates(sweep: Sweep, study: optuna.Study) -> None:
    """A line a finished trial, through its values to its result, which is better the higher it is; the best in red."""
    from matplotlib import colormaps, pyplot

    sign = 1 if sweep.monitor.mode == "max" else -1
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
    trials.sort(key=lambda trial: sign * (trial.value or 0.0))
    results = [trial.value or 0.0 for trial in trials]
    if len(set(results)) < 2:
        raise ValueError
    scales = {key_path: _scale(values) for key_path, values in sweep.settings.space.items()}
    at_result, result_ticks = _numbers(results[0], results[-1], log_scale=False)  # the best at the top
    heights = [
        [*(at(trial.params[key_path]) for key_path, (at, _) in scales.items()), at_result(value)]
        for trial, value in zip(trials, results, strict=True)
    ]
    with pyplot.style.context("default"):
        figure, axes = pyplot.subplots(figsize=(2.5 + 1.9 * len(scales), 5))
        for rank, line in enumerate(heights[:-1]):
            shade = rank / len(heights)
            axes.plot(line, color=colormaps["Blues"](0.15 + 0.85 * shade), alpha=0.35 + 0.5 * shade, linewidth=1.2)
        axes.plot(heights[-1], color="crimson", linewidth=2.5)
        names = [*(_name(key_path) for key_path in scales), sweep.monitor.metric]
        ticks = [*(ticks for _, ticks in scales.values()), result_ticks]
        for position, (name, marks) in enumerate(zip(names, ticks, strict=True)):
            axes.axvline(position, color="0.3", linewidth=0.8)
            axes.text(position, 1.06, name, ha="center", va="bottom", fontweight="bold")
            for height, text in marks:
                axes.plot([position - 0.015, position + 0.015], [height, height], color="0.3", linewidth=0.8)
                box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8}
                axes.text(position + 0.03, height, text, ha="left", va="center", fontsize=9, bbox=box)
        axes.set(xlim=(-0.1, len(scales) + 0.45), ylim=(-0.04, 1.04))
        axes.axis("off")
        figure.suptitle(f"{sweep.name}: {len(trials)} trials, the best in red", y=1.06)


PICTURES: dict[str, Callable[[Sweep, Any], None]] = {
    "optimization_history": _history,
    "param_importances": _importances,
    "parallel_coordinate": _parallel_coordinates,
}

_Scale = tuple[Callable[[Any], float], list[tuple[float, str]]]
"""The height of a value on its axis, 0 to 1, and marks with their heights."""


def _scale(values: Sequence[Any] | Range) -> _Scale:
    """Of a space's choices or range."""
    if isinstance(values, dict):
        return _numbers(values["low"], values["high"], values.get("log", False))
    choices = [choice_name(value) for value in values]
    heights = [0.5] if len(choices) == 1 else np.linspace(0, 1, len(choices)).tolist()
    texts = [value if isinstance(value, str) else format_value(value) for value in values]
    return lambda value: heights[choices.index(value)], list(zip(heights, texts, strict=True))


def _numbers(low: float, high: float, log_scale: bool) -> _Scale:
    """From `low` at the bottom to `high` at the top."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    def height(value: float) -> float:
        if log_scale:
            return math.log(value / low) / math.log(high / low)
        return (value - low) / (high - low)

    locator = LogLocator() if log_scale else MaxNLocator(TICKS)
    marks = [float(mark) for mark in locator.tick_values(min(low, high), max(low, high))]
    return height, [(height(mark), f"{mark:g}") for mark in marks if -1e-9 <= height(mark) <= 1 + 1e-9]


def _name(key_path: str) -> str:
    """In two lines: "optimizer" and "lr" of optimizer.args.lr."""
    section, _, name = key_path.replace(".args.", ".").rpartition(".")
    return f"{section}\n{name}"
