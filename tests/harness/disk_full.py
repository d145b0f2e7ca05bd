"""Fills the disk at seeded points of a command, which writes to a file system of its own, a few MiB of memory:
python -m tests.harness.disk_full --trials 20 --seed 1

Half of the disks stay full until the command ends, the others are freed again some steps of writing later. A command
ends with 74 and one line, or with 0; no traceback is printed and no temporary file is left, the earlier checkpoints can
be read, and no message claims what is not so. With room again the same command ends as one that was never disturbed.
It needs leave to mount: that of root, or Linux's user namespaces.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import experiment.run
import scripts.export
import scripts.prepare
import scripts.probe
import scripts.report
import scripts.tune
from tests.harness.forked import TEST, TRAIN, run_forked
from tests.harness.kill import difference, end_of
from tests.harness.signals import import_late, print_to_the_output
from tests.integration.drawn_road import draw_small_data, write_config
from utils.checkpoint.checkpoint_file import read_checkpoint
from utils.errors import CheckpointError, UserError, run_command
from utils.random_streams import numpy_stream

DISK_BYTES = 320 * 2**20  # a cache leaves 256 MiB free
FILLER, FILLED, STEPS = "filler", "filled", "steps"
"""The file that fills a disk; beside the disk: that it was full, and a byte for each step of writing."""

LARGEST_LEFT_BYTES = 40_000
"""What a full disk has left: a part of a file may fit."""

CHANGES: dict[str, Any] = {
    "split": {"type": "KFoldSplit", "args": {"folds": 2}},
    "preparation": [{"type": "FaceCrop", "args": {"detector": "haar"}}],
}
RUN = "disk/saved/models/Road/run"
CLAIMS = re.compile(r"the earlier checkpoints remain|saved in (\S+)|resume it with --resume (\S+)")
"""What a message may say that is then to be true: there is a checkpoint to resume from."""


@dataclass(frozen=True)
class Command:
    """What writes to the disk.

    main: of a script
    arguments: of the command line
    end: of the disk: what the command leaves there
    has_run: whether it needs a finished run
    share: of the trials
    """

    main: Callable[[Sequence[str]], object]
    arguments: list[str]
    end: Callable[[Path], dict[str, Any]]
    has_run: bool = True
    share: float = 0.06


def _files(*names: str) -> Callable[[Path], dict[str, Any]]:
    def read(disk: Path) -> dict[str, Any]:
        return {name: (disk / name).read_bytes() for name in names}

    return read


def _exported(disk: Path) -> dict[str, Any]:
    return {"files": sorted(path.name for path in (disk / "exported").iterdir())}


COMMANDS = {
    "train": Command(TRAIN, ["-c", "road.json", "--resume", "auto"], lambda disk: end_of(disk.parent), False, 0.7),
    "test": Command(
        TEST, ["--resume", RUN, "--output", "disk/answers.csv", "--parts"], _files("answers.csv", "answers.csv.json")
    ),
    "tune": Command(scripts.tune.main, [RUN, "--output", "disk/tuned.json"], _files("tuned.json")),
    "export": Command(
        scripts.export.main, [f"{RUN}/fold_0", "--to", "safetensors", "--output", "disk/exported"], _exported
    ),
    "probe": Command(
        scripts.probe.main,
        ["-c", "road.json", "--resume", f"{RUN}/fold_0", "--output", "disk/probed"],
        lambda disk: {"scores": json.loads((disk / "probed/scores.json").read_text())},
    ),
    "report": Command(scripts.report.main, [RUN], lambda disk: {"is there": any(disk.rglob("report.html"))}),
}


@dataclass
class Trial:
    """A command whose disk was full at one step of writing.

    at: that step
    left_bytes: of the full disk
    freed_after: so many steps later it has room again; None: when the command has ended
    """

    number: int
    command: str
    at: int = 0
    left_bytes: int = 0
    freed_after: int | None = None
    code: int = 0
    wrong: str = ""

    def __str__(self) -> str:
        until = "" if self.freed_after is None else f", for {self.freed_after} steps"
        where = f"{self.command}, {self.left_bytes} bytes from step {self.at}{until}"
        return f"trial {self.number} ({where}; exit code {self.code}): {self.wrong or 'equal'}"


def plant(at: int | None, left_bytes: int, freed_after: int | None) -> Callable[[], None]:
    """In a process that is about to be a command: counts the steps of writing on the disk, and fills it at step `at`.
    A step is that a file is opened to be written, renamed, linked or removed. train.py writes no reports, which take
    most of the time: scripts.report does."""

    def install() -> None:
        print_to_the_output()
        experiment.run.write_report = lambda *_: None
        disk, steps = str(Path("disk").resolve()), os.open(STEPS, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        taken, is_busy = [0], [False]

        def step(path: str) -> None:
            if is_busy[0] or not os.path.abspath(path).startswith(disk):  # noqa: PTH100
                return
            is_busy[0] = True
            os.write(steps, b".")
            taken[0] += 1
            if taken[0] == at:
                Path(FILLED).write_text(path)
                fill(Path(disk), left_bytes)
            elif at is not None and freed_after is not None and taken[0] == at + freed_after:
                (Path(disk) / FILLER).unlink()
            is_busy[0] = False

        def audited(event: str, arguments: tuple[Any, ...]) -> None:
            is_written = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if is_written or event in ("os.rename", "os.link", "os.remove", "os.mkdir"):
                with suppress(TypeError, ValueError):
                    step(os.fsdecode(arguments[0]))

        sys.addaudithook(audited)

    return install


def fill(disk: Path, left_bytes: int) -> None:
    """Until so many bytes are left, or less: others write meanwhile."""
    with (disk / FILLER).open("wb", buffering=0) as file:
        status = os.statvfs(disk)
        size = max(status.f_frsize, status.f_bavail * status.f_frsize - left_bytes)
        while size > 0:
            try:
                os.posix_fallocate(file.fileno(), 0, size)
                return
            except OSError:
                size -= status.f_frsize


def mount(folder: Path, num_bytes: int) -> None:
    """A file system in memory. Raises OSError."""
    folder.mkdir(parents=True)
    done = _libc().mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, f"size={num_bytes}".encode())
    if done:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(folder))


def unmount(folder: Path) -> None:
    _libc().umount2(os.fsencode(folder), 2)
    folder.rmdir()


def have_own_mounts() -> None:
    """This process gets mounts that no other one sees; it has one thread. Raises OSError where that is forbidden."""
    new_mounts, new_user, private = 0x00020000, 0x10000000, (1 << 18) | (1 << 14)
    user, group = os.getuid(), os.getgid()
    if _libc().unshare(new_mounts | (new_user if user else 0)):
        raise OSError(ctypes.get_errno(), f"mounting is not allowed here ({os.strerror(ctypes.get_errno())})")
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    _libc().mount(None, b"/", None, private, None)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def prepare(command: Command, folder: Path, made: Path) -> Path:
    """A folder with an empty disk where the command can be given; made: one that has a config and a finished run."""
    disk = folder / "disk"
    mount(disk, DISK_BYTES)
    shutil.copyfile(made / "road.json", folder / "road.json")
    (folder / "saved").symlink_to("disk/saved")
    if command.has_run:
        left_out = shutil.ignore_patterns("image_cache", "report.html")  # an equal report is not written again
        shutil.copytree(made / "disk", disk, ignore=left_out, dirs_exist_ok=True)
    return disk


def make_run(folder: Path, data: Path, has_run: bool) -> None:
    """The config, and its run, named "run", if some command needs it. Raises AssertionError."""
    (folder / "disk").mkdir(parents=True)
    config = write_config(folder, data, submit_dir="disk/submit", **CHANGES)
    values = json.loads(config.read_text())
    values["trainer"] |= {"save_dir": "disk/saved", "save_period": 1, "epochs": 3, "verbosity": 1, "tensorboard": True}
    values["data_loader"]["args"]["cache"] = "disk"
    config.write_text(json.dumps(values))
    if has_run:
        code, _ = run_forked(TRAIN, ["-c", "road.json", "--run-id", "run"], folder)
        assert code == 0, (folder / "output.txt").read_text()


def count_steps(command: Command, folder: Path, made: Path) -> tuple[int, dict[str, Any]]:
    """How many steps of writing an undisturbed command takes, and what it leaves. Raises AssertionError."""
    disk = prepare(command, folder, made)
    code, _ = run_forked(command.main, command.arguments, folder, None, plant(None, 0, None))
    assert code == 0, (folder / "output.txt").read_text()
    counted = (folder / STEPS).stat().st_size, command.end(disk)
    unmount(disk)
    return counted


def run_trial(
    number: int, seed: int, name: str, made: Path, steps: int, reference: dict[str, Any], folder: Path
) -> Trial:
    """A command whose disk is full at one of `steps` steps, and that is given again with room."""
    stream, command, trial = numpy_stream(seed, "disk full", number), COMMANDS[name], Trial(number, name)
    trial.at, trial.left_bytes = int(stream.integers(1, steps + 1)), int(stream.integers(LARGEST_LEFT_BYTES))
    trial.freed_after = int(stream.integers(1, 12)) if stream.random() < 0.5 else None
    disk = prepare(command, folder, made)
    before = {path: path.read_bytes() for path in disk.rglob("*.pth")}
    try:
        planted = plant(trial.at, trial.left_bytes, trial.freed_after)
        trial.code, _ = run_forked(command.main, command.arguments, folder, None, planted)
        if not (folder / FILLED).exists():  # threads write too, not always as often
            unmount(disk)
            shutil.rmtree(folder)
            return run_trial(number, seed, name, made, steps - steps // 20, reference, folder)
        output = (folder / "output.txt").read_text()
        last = output.strip().rpartition("\n")[2]
        is_refused = trial.code == 2 and ("to spare; free some" in last or "No space left" in last)  # before it begins
        assert is_refused or trial.code in (0, 74), f"exit code {trial.code}: {output[-500:]}"
        assert "Traceback" not in output, f"a traceback was printed: {output[-500:]}"
        assert "Exception ignored" not in output, f"an exception was ignored: {output[-500:]}"
        remains = [each.name for each in disk.rglob("*") if each.name.endswith((".tmp", ".pending"))]
        assert remains == [], f"left: {remains}"
        assert all(path.read_bytes() == content for path, content in before.items()), "a checkpoint was changed"
        for file in disk.rglob("*.pth"):
            read_checkpoint(file)
        is_claimed = CLAIMS.search(last)
        assert not is_claimed or any(disk.rglob("*.pth")), f"there is no checkpoint, and it says {is_claimed}"
        (disk / FILLER).unlink(missing_ok=True)
        trial.wrong = "" if trial.code else difference(reference, command.end(disk))
        if trial.code:
            again, _ = run_forked(command.main, command.arguments, folder, None, plant(None, 0, None))
            assert again == 0, f"given again: exit code {again}: {(folder / 'output.txt').read_text()[-500:]}"
            trial.wrong = difference(reference, command.end(disk))
    except (AssertionError, TimeoutError, OSError, CheckpointError) as error:
        trial.wrong = str(error)
    if trial.wrong:
        shutil.copytree(disk, folder / "what was on the disk", ignore=shutil.ignore_patterns(FILLER))
    unmount(disk)
    return trial


def run_trials(
    trials: int, seed: int, commands: Sequence[str], folder: Path, data: Path | None = None
) -> Iterator[Trial]:
    """Each in a folder of its own, which stays where the trial failed. data: drawn faces; None: they are drawn here"""
    made = folder / "made"
    make_run(made, data or draw_small_data(folder / "data"), any(COMMANDS[name].has_run for name in commands))
    counted: dict[str, tuple[int, dict[str, Any]]] = {}
    shares = [COMMANDS[name].share for name in commands]
    for number in range(trials):
        stream = numpy_stream(seed, "disk full command", number)
        name = str(stream.choice(list(commands), p=[share / sum(shares) for share in shares]))
        if name not in counted:
            counted[name] = count_steps(COMMANDS[name], folder / f"undisturbed {name}", made)
        trial = run_trial(number, seed, name, made, *counted[name], folder / str(number))
        if not trial.wrong:
            shutil.rmtree(folder / str(number))
        yield trial


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.harness.disk_full", description=(__doc__ or "").split(":")[0]
    )
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument("--folder", type=Path, help="for the runs; those that differ stay there (default: a new one)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    import_late()
    try:
        have_own_mounts()
    except OSError as error:
        raise UserError(error.strerror) from None
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="disk-full-"))
    folder.mkdir(exist_ok=True)
    begin, good = time.monotonic(), 0
    for trial in run_trials(arguments.trials, arguments.seed, arguments.commands, folder):
        good += not trial.wrong
        print(f"{trial} [{time.monotonic() - begin:.0f} s]", flush=True)
    print(f"disk full, seed {arguments.seed}: {good} of {arguments.trials}")
    if good < arguments.trials:
        sys.exit(f"the runs that differ are in {folder}")


if __name__ == "__main__":
    sys.exit(run_command(main))
