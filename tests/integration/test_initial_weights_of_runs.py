"""Runs that begin with weights from elsewhere: recorded in their config, and not needed once the run has begun."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import timm

from tests.integration.workplace import Workplace
from utils.checkpoint import read_checkpoint

NETWORK = {"type": "TimmModelMulti", "args": {"model_name": "test_resnet", "weights_file": "first.safetensors"}}


@pytest.fixture
def begun(workplace: Workplace) -> Workplace:
    """A run that began from a file of weights, which is gone now."""
    safetensors.torch.save_file(timm.create_model("test_resnet").state_dict(), "first.safetensors")
    workplace.train("-c", workplace.write_config({"arch": NETWORK})).check_success()
    Path("first.safetensors").unlink()
    return workplace


def test_a_run_resumes_and_is_found_finished_without_the_file_it_began_with(begun: Workplace) -> None:
    for argv in (("-r", begun.run), ("-c", "tiny.json", "-r", "auto")):
        begun.train(*argv, "--print-config").check_success()
        begun.train_and_change_nothing(*argv).check_success()
    begun.train("-r", begun.run, "--set", "trainer.epochs=2").check_success()
    begun.test("-r", begun.run).check_success()
    assert len(begun.runs) == 1
    begun.train("-c", "tiny.json").check_refusal(2, ("tiny.json: arch.args.weights_file", "first.safetensors"))


def test_a_run_begins_with_the_weights_of_a_run(begun: Workplace) -> None:
    """Also where the config names other weights, which are not needed then."""
    source = begun.run
    bins = {"labels.attributes.age.training_bins": [20, 30, 60], "loss.heads.age.args.class_weights": None}
    config = begun.write_config({"arch": NETWORK, **bins}, "bins.json")
    outcome = begun.train("-c", config, "--from", source)
    outcome.check_success()
    (run,) = [each for each in begun.runs if each.name != source.name]
    assert json.loads((run / "config.json").read_text())["initial_weights"] == str(source)
    log = begun.only(f"saved/log/Tiny/{run.name}/info.log").read_text()
    for fragment in (f"{source}/model_best.pth", "heads.head_mask", "other classes: age"):
        assert fragment in log

    for file in (begun.folder / source).iterdir():
        file.unlink()
    begun.train("-r", run, "--set", "trainer.epochs=2").check_success()
    assert read_checkpoint(run / "last.pth")["completed_epochs"] == 2


def test_from_what_is_no_run_of_that_network_is_refused(begun: Workplace) -> None:
    begun.write("page.pth", "<html>")
    for source, *fragments in (("none",), ("page.pth", "<html>"), ("tiny.json", "it begins with")):
        begun.train_and_change_nothing("-c", "tiny.json", "--from", source).check_refusal(
            4, (f"{source}: ", *fragments)
        )
    config = begun.write_config({"arch": {"type": "BaselineCNN"}}, "other.json")
    outcome = begun.train("-c", config, "--from", begun.run)
    outcome.check_refusal(4, (f"{begun.run}/model_best.pth: ", "BaselineCNN"))
    assert len(begun.runs) == 1


def test_a_resumed_run_cannot_be_given_other_weights(begun: Workplace) -> None:
    outcome = begun.train_and_change_nothing("-r", begun.run, "--from", begun.run)
    outcome.check_refusal(2, (f"--from {begun.run}: initial_weights",), "")
