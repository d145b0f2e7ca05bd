"""A learning rate range test (Smith 2017): the loss while the rate rises from update to update, and what it tells."""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from base.base_data_loader import BaseDataLoader
from base.batch import Batch
from base.mixing import Mixing, plan_mix
from experiment.batch_size import settle_batch_size
from experiment.builders import build_data_loader, build_learner, build_model, read_label_table
from experiment.folds import splits_of
from experiment.run import Session
from trainer.learner import Learner
from trainer.prefetch import on_device
from utils.files import write_atomically
from utils.progress import with_progress

FEWEST = 20
"""Updates, of which something can be said."""
COLUMNS = ("update", "lr", "loss", "smoothed")
"""Of the table of a range test."""
DIVERGED = 4.0
"""A loss of so many times the lowest one ends the test; each as an average over the last updates."""


@dataclass(frozen=True)
class RangeTest:
    """What was measured, an entry for each update.

    rates: of the optimizer's groups without a share of their own
    losses: of the batch, before the update at that rate
    reached_the_end: whether the rate rose to the highest one; else the loss diverged
    """

    rates: list[float]
    losses: list[float]
    reached_the_end: bool

    @property
    def smoothed(self) -> list[float]:
        """A mean over neighbours on both sides, weighted by a Gaussian of a fortieth of the updates."""
        losses, width = np.asarray(self.losses), max(1.0, len(self.losses) / 40)
        distances = np.arange(len(losses))[:, None] - np.arange(len(losses))
        weights = np.exp(-0.5 * (distances / width) ** 2)
        return [float(value) for value in weights @ losses / weights.sum(axis=1)]


@dataclass(frozen=True)
class Suggestion:
    """What a range test suggests.

    steepest: the rate at which the smoothed loss falls fastest with the logarithm of the rate; None where nothing is
        clear
    lowest: the rate at which the smoothed loss is lowest
    diverges: the first rate beyond the lowest loss at which it is no better than at the beginning; None where it was
        not reached
    unclear: why nothing is suggested
    """

    steepest: float | None = None
    lowest: float | None = None
    diverges: float | None = None
    unclear: str | None = None


def measure(session: Session, updates: int, lowest: float, highest: float) -> RangeTest:
    """The range test of a config's model on its training images; of a run of folds, on those of the first one."""
    fold = splits_of(session.config, read_label_table(session.config, session.labels))[0]
    config, labels, device = fold.config, session.labels, session.device
    settle_batch_size(config, labels, fold.split, device)
    model = build_model(config, labels, None).to(device)
    loader = build_data_loader(config, fold.split, model, device)
    learner = build_learner(config, labels, model, loader, device, None)
    mixings = config.build("mixing", label_space=labels)
    images = loader.batch_size * learner.settings.accumulation_steps
    found = with_progress(
        run_range_test(learner, loader, mixings, rates_between(lowest, highest, updates)),
        updates * images,
        "range test",
        is_shown=config["trainer"]["verbosity"] > 0,
        images_of=lambda _: images,
    )
    rates, losses = zip(*found, strict=True)
    return RangeTest([*rates], [*losses], reached_the_end=len(rates) == updates)


def rates_between(lowest: float, highest: float, updates: int) -> list[float]:
    """A geometric sequence."""
    return [lowest * (highest / lowest) ** (number / (updates - 1)) for number in range(updates)]


def run_range_test(
    learner: Learner, loader: BaseDataLoader, mixings: Sequence[Mixing], rates: Sequence[float]
) -> Iterator[tuple[float, float]]:
    """Trains with the rates, one an update, and yields each rate with the loss before its update; ends where the loss
    diverges. Each group keeps its share of the rate. The learner is of no use afterwards."""
    best, average = math.inf, 0.0
    learner.schedule = learner.averaging = None
    epoch = loader.epoch_of_full_size
    learner.begin_epoch(epoch)
    for number, (rate, micro_batches) in enumerate(zip(rates, _updates(learner, loader, mixings), strict=False)):
        for group in learner.optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)
        loss = _LossOfUpdate(learner.criterion.weights)
        learner.update(micro_batches, epoch, number * learner.settings.accumulation_steps, loss)  # type: ignore[arg-type]
        value = float(loss.total)
        yield rate, value
        average = 0.9 * average + 0.1 * value
        unbiased = average / (1 - 0.9 ** (number + 1))
        if not math.isfinite(value) or (number >= FEWEST and unbiased > DIVERGED * best):
            return
        best = min(best, unbiased) if number >= FEWEST // 2 else best


def _updates(learner: Learner, loader: BaseDataLoader, mixings: Sequence[Mixing]) -> Iterator[list[Batch]]:
    """The micro-batches of one update after the other, of as many epochs as are asked for."""
    for epoch in itertools.count(loader.epoch_of_full_size):
        with closing(on_device(loader.train_batches(epoch), learner.device)) as batches:
            update: list[Batch] = []
            for number, batch in enumerate(batches):
                if mixings:
                    targets = {name: target.cpu() for name, target in batch.scoring_targets.items()}
                    height, width = batch.images.shape[-2:]
                    mix = plan_mix(mixings, targets, (height, width), learner.seed, epoch, number, 0)
                    batch.mix = None if mix is None else replace(mix, pairing=mix.pairing.to(learner.device))
                update.append(batch)
                if len(update) == learner.settings.accumulation_steps:
                    yield update
                    update = []


class _LossOfUpdate:
    """In the place of an epoch's metrics: the weighted loss of one update."""

    def __init__(self, head_weights: Mapping[str, float]) -> None:
        self.head_weights, self.total = head_weights, 0.0

    def add(self, losses: Mapping[str, Tensor], *_: object) -> None:
        self.total += sum(weight * float(losses[name]) for name, weight in self.head_weights.items())

    def add_gradients(self, *_: object) -> None:
        pass

    def add_update(self, _: object) -> None:
        pass


def suggest(test: RangeTest) -> Suggestion:
    """Steepest descent, lowest loss and divergence; or why they are not clear."""
    rates = [rate for rate, loss in zip(test.rates, test.losses, strict=True) if math.isfinite(loss)]
    losses = [loss for loss in test.losses if math.isfinite(loss)]
    if len(losses) < FEWEST:
        return Suggestion(unclear=f"the loss diverges within {len(losses)} updates; lower --lowest")
    smoothed = np.asarray(RangeTest(rates, losses, True).smoothed)
    begin = float(smoothed[: len(smoothed) // 10].mean())
    minimum = int(smoothed.argmin())
    # The standard error of a smoothed value: of the mean of about 2 sqrt(pi) widths of independent losses.
    spread = float((np.asarray(losses) - smoothed)[: minimum + 1].std()) if minimum else math.inf
    error = spread / math.sqrt(2 * math.sqrt(math.pi) * max(1.0, len(losses) / 40))
    fall = begin - float(smoothed[minimum])
    if not minimum or fall < max(4 * error, 0.02 * abs(begin)):
        return Suggestion(
            unclear=f"the loss has no clear minimum: it falls from {begin:.4g} to {smoothed[minimum]:.4g} at the most, "
            f"and batches differ by {spread:.2g}; take more --updates or a larger batch, or look at the curve"
        )
    if test.reached_the_end and minimum >= len(smoothed) - max(2, len(smoothed) // 20):
        return Suggestion(
            unclear="the loss still falls at the highest rate: there is no minimum within the range; raise --highest"
        )
    beyond = [number for number in range(minimum, len(smoothed)) if smoothed[number] >= begin]
    end = beyond[0] if beyond else len(losses)
    slopes = _slopes(np.log10(rates[:end]), np.asarray(losses[:end]))
    steepest = int(slopes[: minimum + 1].argmin())
    diverges = rates[beyond[0]] if beyond else None if test.reached_the_end else rates[-1]
    return Suggestion(rates[steepest], rates[minimum], diverges)


def _slopes(decades: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """At each point the slope of the line through its neighbours, by least squares, weighted by a Gaussian of half a
    decade: a narrower one would find the steepest noise."""
    distances = decades - decades[:, None]
    weights = np.exp(-0.5 * (distances / 0.5) ** 2)
    weights /= weights.sum(axis=1, keepdims=True)
    mean = (weights * distances).sum(axis=1)
    variance = (weights * distances**2).sum(axis=1) - mean**2
    covariance = (weights * distances) @ losses - mean * (weights @ losses)
    return covariance / np.maximum(variance, 1e-12)


def lines_of(found: Suggestion, schedule: str | None) -> list[str]:
    """What is printed.

    schedule: the type of the config's lr_scheduler"""
    if found.unclear is not None or found.steepest is None:
        return [f"no rate is suggested: {found.unclear}"]
    lines = [f"the loss falls fastest at {found.steepest:.2g}, and is lowest at {found.lowest:.2g}"]
    highest = found.lowest if found.diverges is None else found.diverges / 10
    if found.diverges is None:
        lines.append("it does not diverge up to the highest rate")
    else:
        lines.append(f"it diverges at {found.diverges:.2g}; a tenth of that is {highest:.2g}")
    if schedule == "OneCycleLR":
        return [*lines, f"the highest rate of OneCycleLR: --set lr_scheduler.args.max_lr={highest:.2g}"]
    rate = found.steepest if highest is None else min(found.steepest, highest)
    return [*lines, f"to begin with: --set optimizer.args.lr={rate:.2g}"]


def write_table(test: RangeTest, path: Path) -> None:
    """One row an update: its number, the rate, the loss, and its smoothed value."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for number, row in enumerate(zip(test.rates, test.losses, test.smoothed, strict=True), start=1):
        table.writerow([number, *(f"{value:.6g}" for value in row)])
    write_atomically(path, text.getvalue().encode())


def draw(test: RangeTest, found: Suggestion, title: str, path: Path) -> None:
    """The losses over the rate, with what is suggested."""
    from matplotlib.figure import Figure  # slow

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(test.rates, test.losses, color="0.75", linewidth=1, label="loss of a batch")
    axes.plot(test.rates, test.smoothed, linewidth=2, label="smoothed")
    for name, rate in (("falls fastest", found.steepest), ("diverges", found.diverges)):
        if rate is not None:
            axes.axvline(
                rate, linestyle="--", color="0.4" if name == "diverges" else "tab:orange", label=f"{name} {rate:.2g}"
            )
    low, high = min(test.smoothed), max(test.smoothed[: max(1, len(test.smoothed) // 10)])
    axes.set(
        xscale="log",
        xlabel="learning rate",
        ylabel="loss",
        title=title,
        ylim=(low - 0.3 * (high - low), high + 1.5 * (high - low)),
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)
