"""Several processes that train together, forked by torchrun's own agent from a process that has imported torch: they
start in milliseconds, fail and are restarted as those of `torchrun --max-restarts`."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

import experiment.run  # noqa: F401 - what the commands import
import inference.run  # noqa: F401 - what the commands import
from tests.harness.forked import Point, Steps
from trainer.learner import Learner
from trainer.trainer import Trainer
from utils.errors import DataError, run_command

TIMEOUT_SECONDS = 120
"""After which a group hangs."""

PLANTED_ERROR = "planted.csv: an error of one process"


@dataclass(frozen=True)
class Stop:
    """What stops a group.

    rank: of the process in which it happens
    kind: "SIGKILL" or "SIGTERM" of that process, "error": it raises one, "all": torchrun itself gets SIGTERM; each
        after an update. "checkpoint": SIGKILL at a step of writing one. "validation": SIGTERM as one begins
    at: the number of the update, the step or the validation, from 1
    """

    rank: int
    kind: str
    at: int

    def __str__(self) -> str:
        return f"{self.kind} at {self.at} of process {self.rank}"

    def watch(self, folder: Path) -> None:
        """From here on, in this process."""
        if self.kind == "checkpoint":
            Steps(folder, Point("checkpoint", self.at)).watch()
            return
        if self.kind.startswith("SIG"):
            Steps(folder, Point("update", self.at, signal.Signals[self.kind])).watch()
            return
        if self.kind == "validation":
            validate = Trainer.validate

            def stop_and_validate(trainer: Trainer, epoch: int) -> dict[str, float]:
                if epoch == self.at:
                    signal.raise_signal(signal.SIGTERM)
                return validate(trainer, epoch)

            Trainer.validate = stop_and_validate  # type: ignore[method-assign, assignment]
            return
        update, count = Learner.update, 0

        def update_and_stop(learner: Learner, *arguments: Any) -> bool:
            nonlocal count
            count += 1
            if count == self.at and self.kind == "error":
                raise DataError(PLANTED_ERROR)
            result = update(learner, *arguments)
            if count == self.at:
                os.kill(os.getppid(), signal.SIGTERM)
            return result

        Learner.update = update_and_stop  # type: ignore[method-assign, assignment]


def run_group(
    main: Callable[[Sequence[str]], object],
    arguments: Sequence[str],
    folder: Path,
    processes: int,
    stop: Stop | None = None,
    restarts: int = 0,
) -> bool:
    """Runs a command in `folder` in several processes, as torchrun would. What they print goes to folder/output.txt.

    main: of train.py or test.py
    stop: in the first attempt
    restarts: how often they may be restarted

    Returns whether they came to their end. Raises TimeoutError where they hang."""
    agent = os.fork()
    if not agent:
        _be_torchrun(main, arguments, folder, processes, stop, restarts)
    begin = time.monotonic()
    while True:
        ended, status = os.waitpid(agent, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) == 0
        if time.monotonic() - begin > TIMEOUT_SECONDS:
            os.killpg(agent, signal.SIGKILL)
            os.waitpid(agent, 0)
            raise TimeoutError(f"{processes} processes hang; see {folder / 'output.txt'}")
        time.sleep(0.01)


def _be_torchrun(
    main: Callable[[Sequence[str]], object],
    arguments: Sequence[str],
    folder: Path,
    processes: int,
    stop: Stop | None,
    restarts: int,
) -> None:
    code = 1
    try:
        os.setpgid(0, 0)
        os.chdir(folder)
        output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        for descriptor in (1, 2):
            os.dup2(output, descriptor)
        # Not those of pytest, which have files of their own.
        sys.stdout, sys.stderr = (os.fdopen(each, "w", buffering=1, closefd=False) for each in (1, 2))
        logging.disable(logging.ERROR)  # torchrun's
        settings = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=restarts,
            monitor_interval=0.1,
            start_method="fork",
            logs_specs=DefaultLogsSpecs(log_dir=str(folder / "torchrun")),
        )
        elastic_launch(settings, _be_a_process)(main, [*arguments], folder, stop)
        code = 0
    except BaseException as error:
        print(f"torchrun: {type(error).__name__}", flush=True)
    finally:
        os._exit(code)


def _be_a_process(
    main: Callable[[Sequence[str]], object], arguments: Sequence[str], folder: Path, stop: Stop | None
) -> None:
    logging.disable(logging.NOTSET)
    sys.argv = ["command", *arguments]
    is_first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    if stop is not None and is_first and os.environ["RANK"] == str(stop.rank):
        stop.watch(folder)
    code = 1
    try:
        code = run_command(lambda: main(arguments))
    except BaseException:
        import traceback

        traceback.print_exc()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    if code:
        os._exit(code)
