"""A config that is wrong: every fault is told in a line that names its key path, with exit code 2, and nothing is made.

The folder holds no data, so whatever looked for some before the config was refused would fail otherwise, with 3."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.integration.workplace import ROOT, Workplace

DEFAULT = str(ROOT / "config.json")
SECRET = "hunter2hunter2"
WANDB_KEY = "0123456789abcdef0123456789abcdef01234567"


def test_the_config_of_these_tests_is_right(empty_workplace: Workplace) -> None:
    """It is not refused: what is missed is the data, which is looked for last."""
    outcome = empty_workplace.train_and_change_nothing("--config", empty_workplace.write_config())
    outcome.check_refusal(3, ("data/train: there is no such folder", "expected train.csv and images/"))


def test_1_a_missing_file_and_its_neighbour(empty_workplace: Workplace) -> None:
    empty_workplace.write_config()
    outcome = empty_workplace.train_and_change_nothing("--config", "tinny.json")
    outcome.check_refusal(2, ("tinny.json: there is no such file", 'did you mean "tiny.json"?'))


@pytest.mark.parametrize(
    ("changes", "key_path", "secret"),
    [
        ({"wandb_key": WANDB_KEY}, "wandb_key", WANDB_KEY),
        ({"data_loader.args.password": SECRET}, "data_loader.args.password", SECRET),
        ({"info_dir": f"https://me:{SECRET}@example.org/data"}, "info_dir", SECRET),
    ],
)
def test_16_a_credential_is_refused_and_not_echoed(
    empty_workplace: Workplace, changes: dict[str, Any], key_path: str, secret: str
) -> None:
    outcome = empty_workplace.train_and_change_nothing("--config", empty_workplace.write_config(changes))
    outcome.check_refusal(2, (f"tiny.json: {key_path} holds a credential; remove it", "WANDB_API_KEY"))
    assert secret not in outcome.err + outcome.out


@pytest.mark.parametrize(
    "argv",
    [
        ["--set", f"wandb.api_key={SECRET}"],
        ["--set", f"name={WANDB_KEY}"],
        ["--set", f'wandb={{"api_key": "{SECRET}"}}'],
        ["--set", f"api_key:{SECRET}"],
        [f"--wandb-key={WANDB_KEY}"],
    ],
    ids=["api-key", "a-key-as-name", "an-object", "no-equals-sign", "no-flag"],
)
def test_16_a_credential_on_the_command_line_is_not_echoed(empty_workplace: Workplace, argv: list[str]) -> None:
    outcome = empty_workplace.train_and_change_nothing("--config", empty_workplace.write_config(), *argv)
    assert outcome.exit_code == 2
    assert len(outcome.lines) == 1
    assert not any(secret in outcome.err + outcome.out for secret in (SECRET, WANDB_KEY))


@pytest.mark.parametrize(
    ("save_dir", "fragments"),
    [
        pytest.param("a file", ("a file: Not a directory",), id="17-a-file"),
        pytest.param("a file/saved", ("Not a directory",), id="17-below-a-file"),
        pytest.param("closed/saved", ("closed: Permission denied",), id="17-closed"),
        pytest.param("/proc/saved", ("/proc: ",), id="17-a-system's"),
        pytest.param("x" * 300, ("File name too long",), id="17-too-long"),
        pytest.param("a\0b", ("null byte",), id="17-no-name"),
    ],
)
def test_a_save_dir_that_cannot_be_written(
    empty_workplace: Workplace, save_dir: str, fragments: tuple[str, ...]
) -> None:
    empty_workplace.write("a file", "")
    closed = empty_workplace.folder / "closed"
    closed.mkdir(mode=0o500)
    if save_dir.startswith("closed") and os.access(closed, os.W_OK):
        pytest.skip("this user may write everywhere")
    if save_dir.startswith("/proc") and not Path("/proc/self").exists():
        pytest.skip("there is no /proc here")
    config = empty_workplace.write_config({"trainer.save_dir": save_dir})
    outcome = empty_workplace.train_and_change_nothing("--config", config)
    outcome.check_refusal(2, ("tiny.json: trainer.save_dir = ", "cannot be written", *fragments))


def test_all_errors_come_together_each_with_the_file_that_holds_it(empty_workplace: Workplace) -> None:
    """Values are blamed on the file that gave them last, be it a parent, the child or the command line."""
    empty_workplace.write(
        "base.json",
        json.dumps(
            {
                "extends": DEFAULT,
                "seed": "one",
                "optimizer": {"args": {"lr": "fast"}},
                "trainer": {"epochs": -3, "early_stop": -1},
            }
        ),
    )
    changes = {"extends": "base.json", "trainer.epochs": 0, "arch.args.width": 0, "wandb": "yes"}
    config = empty_workplace.write_config(changes)
    outcome = empty_workplace.train_and_change_nothing(
        "--config", config, "--set", "optimizer.args.lr=faster", "--bs", "no"
    )
    assert outcome.exit_code == 2
    assert sorted(line.split(" = ")[0] for line in outcome.lines) == [
        "--bs no: data_loader.args.batch_size",
        "--set optimizer.args.lr=faster: optimizer.args.lr",
        "base.json: seed",
        "base.json: trainer.early_stop",
        "tiny.json: arch.args.width",
        "tiny.json: trainer.epochs",
        "tiny.json: wandb",
    ]


def test_errors_between_sections_come_together(empty_workplace: Workplace) -> None:
    config = empty_workplace.write_config(
        {
            "loss.heads.mask.args.class_weights": [1, 2],
            "trainer.monitor": "max val/f2",
            "arch": {"type": "TimmModelMulti", "args": {"model_name": "resnett18"}},
            "split.args.stratify": ["hair"],
            "transforms.eval": [{"type": "Resize"}, {"type": "HorizontalFlip"}],
            "trainer.save_dir": "tiny.json",
        }
    )
    outcome = empty_workplace.train_and_change_nothing("--config", config)
    places = ("split.args", "transforms.eval", "arch.args", "loss.heads.mask", "trainer.save_dir", "trainer.monitor")
    outcome.check_refusal(2, *((f"tiny.json: {key_path}",) for key_path in places))


def test_24_overrides_that_cannot_be(empty_workplace: Workplace) -> None:
    argv = ["--set", "trainer.epochs=0", "--set", "optimizer.type=Adm"]
    outcome = empty_workplace.train_and_change_nothing("--config", empty_workplace.write_config(), *argv)
    outcome.check_refusal(
        2,
        ("--set optimizer.type=Adm: optimizer.type", '"Adam"?'),
        ("--set trainer.epochs=0: trainer.epochs = 0",),
    )


@pytest.mark.parametrize(("flag", "key_path"), [("--lr", "optimizer.args.lr"), ("--bs", "data_loader.args.batch_size")])
def test_24_the_short_forms_are_named(empty_workplace: Workplace, flag: str, key_path: str) -> None:
    outcome = empty_workplace.train_and_change_nothing("--config", empty_workplace.write_config(), flag, "fast")
    outcome.check_refusal(2, (f'{flag} fast: {key_path} = "fast" is text',))


def test_errors_in_sections_and_between_them_come_together(empty_workplace: Workplace) -> None:
    """Those of a section that is wrong in itself are told once, not once more for what follows from them."""
    config = empty_workplace.write_config({
        "loss.heads.age": {"type": "FocaLoss"},
        "trainer.monitor": "min val/los",
        "arch": {"type": "TimmModelMulti", "args": {"model_name": "resnet1"}},
        "split.args.drop_from_training": {"mask": [[1, 2]]},
    })  # fmt: skip
    empty_workplace.train_and_change_nothing("-c", config).check_refusal(
        2,
        ("tiny.json: split.args.drop_from_training.mask",),
        ("tiny.json: arch.args.model_name = resnet1 is not a timm model",),
        ('tiny.json: loss.heads.age.type = "FocaLoss"', 'did you mean "FocalLoss"?'),
        ('tiny.json: trainer.monitor = "min val/los"', 'did you mean "val/loss"?'),
    )
