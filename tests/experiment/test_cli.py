"""The command line of train.py: what it means, and how soon its errors are answered."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from experiment.cli import Arguments, parse_arguments
from scripts import sweep
from tests.utils.started import start_as
from utils.config.layers import Override
from utils.errors import ConfigError

ROOT = Path(__file__).parents[2]


def test_the_command_line() -> None:
    assert parse_arguments([]) == Arguments()
    argv = shlex.split("-c a.json -r auto -d cuda:1 --lr 0.5 --bs 8 --set a.b=1 --set c=x --print-config --dry-run")
    overrides = (
        Override("a.b", "1"),
        Override("c", "x"),
        Override("optimizer.args.lr", "0.5", "--lr 0.5"),
        Override("data_loader.args.batch_size", "8", "--bs 8"),
    )
    given = parse_arguments(argv)
    assert given == Arguments(Path("a.json"), "auto", "cuda:1", overrides, print_config="full", dry_run=True)
    assert shlex.split(given.command) == ["train.py", *argv]


def test_restarts_that_would_begin_a_new_run_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    with pytest.raises(ConfigError, match=r"--max-restarts: .*add --resume auto"):
        parse_arguments(["-c", "x.json"])
    assert parse_arguments(["-c", "x.json", "--resume", "auto"]).resume == "auto"


def test_only_training_and_prediction_take_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of torchrun would all write the files of another command."""
    start_as(monkeypatch, 0)
    with pytest.raises(ConfigError, match=r"scripts\.sweep: is for one process.*without torchrun"):
        sweep.parse(["x.json"])
    assert parse_arguments(["-c", "x.json"]).config == Path("x.json")


@pytest.mark.parametrize("argv", [["--set", "a"], ["--set", "=1"], ["--set", "a..b=1"], ["--set", "password secret"]])
def test_an_override_without_a_value(argv: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"a\.b\.c=value") as caught:
        parse_arguments(argv)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("command", "exit_code"),
    [
        ("train --help", 0),
        ("train --confg x", 2),
        ("train -c gone.json", 2),
        ("train -c broken.json", 2),
        ("train -c extending.json", 2),
        ("train -r gone", 4),
        ("test --help", 0),
        ("test --chekpoint x", 2),
        ("test -r x --views nonsense", 2),
        ("test", 2),
        ("test -r gone", 4),
    ],
)
def test_flags_and_files_are_looked_at_before_anything_slow_is_imported(
    tmp_path: Path, command: str, exit_code: int
) -> None:
    (tmp_path / "broken.json").write_text('{"name": "A",}')
    (tmp_path / "extending.json").write_text('{"extends": "gone.json"}')
    script, *argv = command.split()
    slow = ("albumentations", "numpy", "pydantic", "timm", "torch")
    program = (
        f"import sys, {script}\nfrom utils.errors import run_command\n"
        f"try:\n    code = run_command(lambda: {script}.main({argv!r}))\n"
        "except SystemExit as ended:\n    code = ended.code\n"
        f"print(*sys.modules.keys() & {set(slow)!r})\nsys.exit(code)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=False,
        env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert ended.returncode == exit_code, ended.stderr
    assert ended.stdout.splitlines()[-1] == ""
    assert len(ended.stderr.splitlines()) == (exit_code != 0)
