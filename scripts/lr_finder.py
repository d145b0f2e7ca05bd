"""Finds a learning rate to begin with: python -m scripts.lr_finder -c config.json [--output lr_finder.png]

A range test (Smith 2017): the config's model trains a few hundred updates while the rate rises from --lowest to
--highest; the loss falls, then diverges, which ends the test. The curve is drawn, written as a table beside the picture
(.csv), and what to put in the JSON is printed. Nothing is saved of the model.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from experiment import run
from experiment.batch_size import settle_batch_size
from experiment.builders import build_data_loader, build_learner, build_model, read_label_table
from experiment.cli import Arguments, parse_override, read_config_files
from experiment.folds import splits_of
from experiment.lr_range_test import FEWEST, RangeTest, Suggestion, rates_between, run_range_test, suggest
from logger.log import close_log
from utils.command_line import CommandLine
from utils.config.plugins import plugin_errors
from utils.errors import ConfigError, run_and_exit
from utils.files import obstacle_to_replacing, write_atomically
from utils.progress import with_progress
from utils.run_folders import obstacle_to_writing

COLUMNS = ("update", "lr", "loss", "smoothed")


def measure(session: run.Session, updates: int, lowest: float, highest: float) -> RangeTest:
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


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = CommandLine(prog="scripts.lr_finder", description="Finds a learning rate to begin with.")
    parser.add_argument("-c", "--config", type=Path, default=Path("config.json"), help="the config (config.json)")
    parser.add_argument("-d", "--device", help="cpu, cuda, cuda:1 or 1 (default: the best there is)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="a.b.c=value", help="sets one value of the config"
    )
    parser.add_argument("--updates", type=int, default=200, help="of the weights, at the most (200)")
    parser.add_argument("--lowest", type=float, default=1e-7, help="the first rate (1e-7)")
    parser.add_argument("--highest", type=float, default=10.0, help="the last rate (10)")
    parser.add_argument("--output", type=Path, default=Path("lr_finder.png"), help="the picture (lr_finder.png)")
    given = parser.parse(argv)
    if given.updates < FEWEST:
        raise ConfigError(f"--updates {given.updates}: must be at least {FEWEST}")
    if not 0 < given.lowest < given.highest < float("inf"):
        raise ConfigError(f"--lowest {given.lowest:g}: must be above 0 and below --highest {given.highest:g}")
    if given.output.suffix not in (".png", ".svg", ".pdf"):
        raise ConfigError(f"--output {given.output}: must end in .png, .svg or .pdf")
    table = given.output.with_suffix(".csv")
    for file, beginning in ((given.output, ""), (table, ",".join(COLUMNS))):
        obstacle = obstacle_to_replacing(file, [given.config], file.suffix, beginning)
        if obstacle := obstacle or obstacle_to_writing(file.parent):
            raise ConfigError(f"--output {given.output}: {file} cannot be written: {obstacle}")
    overrides = tuple(parse_override(text) for text in given.set)
    arguments = Arguments(config=given.config, device=given.device, overrides=overrides, command="scripts.lr_finder")
    try:
        config, resume = run.configure(arguments, read_config_files(arguments))
        with plugin_errors(), run.open_session(config, resume, arguments) as session:
            test = measure(session, given.updates, given.lowest, given.highest)
        found = suggest(test)
        try:
            table.parent.mkdir(parents=True, exist_ok=True)
            write_table(test, table)
            draw(test, found, config["name"], given.output)
        except OSError as error:
            raise ConfigError(f"{given.output}: cannot be written: {error.strerror or error}") from None
        schedule = config["lr_scheduler"]
        for line in lines_of(found, None if schedule is None else schedule["type"]):
            print(line)
        print(f"{given.output}, {table}: the curve, of {len(test.rates)} updates")
    finally:
        close_log()


if __name__ == "__main__":
    run_and_exit(main)
