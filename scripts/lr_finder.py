"""Finds a learning rate to begin with: python -m scripts.lr_finder -c config.json [--output lr_finder.png]

A range test (Smith 2017): the config's model trains a few hundred updates while the rate rises from --lowest to
--highest; the loss falls, then diverges, which ends the test. The curve is drawn, written as a table beside the picture
(.csv), and what to put in the JSON is printed. Nothing is saved of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from experiment import run
from experiment.cli import Arguments, parse_override, read_config_files
from experiment.lr_range_test import COLUMNS, FEWEST, draw, lines_of, measure, suggest, write_table
from logger.log import close_log
from utils.command_line import CommandLine
from utils.config.plugins import plugin_errors
from utils.errors import ConfigError, run_and_exit, write_error
from utils.files import obstacle_to_replacing
from utils.run_folders import obstacle_to_writing


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
            raise write_error(given.output, error) from None
        schedule = config["lr_scheduler"]
        for line in lines_of(found, None if schedule is None else schedule["type"]):
            print(line)
        print(f"{given.output}, {table}: the curve, of {len(test.rates)} updates")
    finally:
        close_log()


if __name__ == "__main__":
    run_and_exit(main)
