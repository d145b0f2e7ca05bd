"""The main road, end to end, on drawn faces: draw, train on the CPU, evaluate, submit. `make demo` runs it."""

from __future__ import annotations

from pathlib import Path

import test
import train
from scripts.make_demo_data import make_demo_data
from utils.command_line import CommandLine
from utils.errors import run_and_exit

DATA = Path("data/demo")
CONFIG = Path("configs/demo.json")
PEOPLE, EVAL_PEOPLE, SEED = 250, 90, 7


def main() -> None:
    """Each step finds out whether it is done already, so that a second call goes straight to the scores."""
    CommandLine(
        prog="scripts.demo", description="Draws faces, trains on them on the CPU, scores, and writes the answers."
    ).parse()
    make_demo_data(DATA, PEOPLE, EVAL_PEOPLE, SEED)
    run = train.main(["--config", str(CONFIG), "--resume", "auto"])
    assert run is not None
    assert run.folders is not None
    print("\nOn its validation people (drawn faces):")
    validation = test.main(["--resume", str(run.folders.models), "--split", "validation"])
    print("\nOn the evaluation people (drawn faces), whose answers it never saw:")
    answers = str(DATA / "eval_answers.csv")
    evaluation = test.main(["--resume", str(run.folders.models), "--answers", answers])
    print(
        "\nWhere everything lies:\n"
        f"  drawn faces        {DATA}\n"
        f"  checkpoints        {run.folders.models}\n"
        f"  log and curves     {run.folders.log}  (tensorboard --logdir {run.folders.log})\n"
        f"  validation answers {validation.submission}\n"
        f"  submission         {evaluation.submission}"
    )


if __name__ == "__main__":
    run_and_exit(main)
