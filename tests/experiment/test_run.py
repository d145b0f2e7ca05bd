"""What a run keeps of its data, and that a model of a resumed run may still need its initial weights."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import safetensors.torch
import timm

from experiment.builders import read_label_table
from experiment.folds import splits_of
from experiment.schema import SECTIONS
from parse_config import ConfigParser
from tests.integration.workplace import ROOT, Workplace
from tests.utils.test_run_locks import HOLDER
from utils.checkpoint import read_checkpoint


def test_a_checkpoint_holds_the_digests_of_its_split(trained: Workplace) -> None:
    config = ConfigParser.from_file(trained.write_config(), SECTIONS)
    (fold,) = splits_of(config, read_label_table(config, config.shared("labels")))
    content = read_checkpoint(trained.run / "last.pth")
    assert content["split_digest"] == fold.split.digest()
    assert content["validation_digest"] == fold.split.validation_digest()


def test_a_fold_that_has_not_begun_needs_its_initial_weights(workplace: Workplace) -> None:
    """The others do not, and it is known before any of them trains on."""
    safetensors.torch.save_file(timm.create_model("test_resnet").state_dict(), "first.safetensors")
    changes = {
        "arch": {"type": "TimmModelMulti", "args": {"model_name": "test_resnet", "weights_file": "first.safetensors"}},
        "split": {"type": "KFoldSplit", "args": {"folds": 2}},
    }
    workplace.train("-c", workplace.write_config(changes)).check_success()
    Path("first.safetensors").unlink()
    workplace.train("-r", workplace.run, "--set", "trainer.epochs=2").check_success()
    shutil.rmtree(workplace.run / "fold_1")
    workplace.train("-r", workplace.run, "--set", "trainer.epochs=3", "--fold", "0").check_success()
    outcome = workplace.train_and_change_nothing("-r", workplace.run, "--set", "trainer.epochs=4")
    outcome.check_refusal(2, (f"run {workplace.run}: arch.args.weights_file", "first.safetensors"))


def test_a_run_that_another_process_trains_is_refused(workplace: Workplace) -> None:
    workplace.train("-c", workplace.write_config({})).check_success()
    command = [sys.executable, "-c", HOLDER, str(workplace.run.resolve())]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        other.stdout.readline()
        outcome = workplace.train("-r", workplace.run, "--set", "trainer.epochs=3")
        other.kill()
    outcome.check_refusal(4, (str(workplace.run), f"process {other.pid} "))
    workplace.train("-r", workplace.run, "--set", "trainer.epochs=3").check_success()
