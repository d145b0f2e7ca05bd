"""Checkpoints with a right checksum whose content another version, or another hand, has written: one line, exit code 4,
and never a traceback."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.test_bad_checkpoints import as_content, spoil_all
from tests.integration.workplace import Workplace

ODD_CONTENT: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no-weights": (lambda content: content.pop("model"), "lacks 'model'"),
    "no-name": (lambda content: content.pop("run_name"), "lacks 'run_name'"),
    "an-unknown-argument": (lambda content: content["config"]["arch"].update(args={"widht": 4}), "'widht'"),
    "an-unknown-transform": (
        lambda content: content["preprocessing"].update(eval_transforms=[{"type": "os.system"}]),
        '"os.system" is not one of',
    ),
    "no-config": (lambda content: content.pop("config"), "lacks 'config'"),
    "a-config-in-a-list": (lambda content: content.update(config=[1]), "its config is of another kind ([1])"),
    "no-name-in-the-config": (lambda content: content["config"].pop("name"), "lacks 'config.name'"),
    "no-arch": (lambda content: content["config"].pop("arch"), "lacks 'config.arch'"),
    "epochs-in-words": (lambda content: content.update(completed_epochs="one"), "its completed_epochs is of another"),
    "views-in-a-list": (lambda content: content["config"].update(views=["flip"]), "its config.views is of another"),
    "a-number-as-folder": (lambda content: content["config"].update(info_dir=5), "its config.info_dir is of another"),
    "a-source-in-words": (lambda content: content["config"].update(data=["x"]), "its config.data.0 is of another"),
    "a-number-as-root": (
        lambda content: content["config"]["data"][0].update(args={"root": 5}),
        "its config.data.0 is of another",
    ),
    "a-trainer-in-words": (lambda content: content["config"].update(trainer="x"), "its config.trainer is of another"),
    "a-loader-in-words": (lambda content: content["config"].update(data_loader={"args": "x"}), "data_loader.args is"),
    "batches-of-a-text": (
        lambda content: content["config"]["data_loader"]["args"].update(valid_batch_size="16"),
        "valid_batch_size is of another kind ('16')",
    ),
    "labels-in-a-list": (lambda content: content.update(labels=[1]), "cannot be used by this version"),
    "preprocessing-in-a-list": (lambda content: content.update(preprocessing=[1]), "preprocessing: is not what this"),
    "no-preprocessing": (lambda content: content.pop("preprocessing"), "lacks 'preprocessing'"),
    "views-of-a-number": (lambda content: content["config"].update(views={"flip": 5}), "cannot be used"),
    "an-arch-of-a-number": (lambda content: content["config"].update(arch={"type": 5}), "cannot be used"),
    "attributes-in-a-list": (lambda content: content["labels"].update(attributes=[1]), "cannot be used"),
    "an-average-in-a-list": (
        lambda content: content.update(answers_with="average", averaging=[1]),
        "cannot be used by this version",
    ),
    "one-class": (lambda content: content["labels"]["attributes"]["mask"].update(classes=["x"]), "attributes.mask"),
}


@pytest.mark.parametrize("case", ODD_CONTENT)
def test_content_of_another_version_cannot_be_judged_with(trained: Workplace, case: str) -> None:
    change, told = ODD_CONTENT[case]
    spoil_all(trained, as_content(change))
    trained.test("--resume", trained.run / "last.pth").check_refusal(4, (f"{trained.run}/last.pth: ", told))
    assert trained.submissions == []


@pytest.mark.parametrize("key", ["trainer", "data_loader", "data", "split", "seed"])
def test_a_config_that_lacks_what_answering_can_do_without(trained: Workplace, key: str) -> None:
    spoil_all(trained, as_content(lambda content: content["config"].pop(key)))
    trained.test("--resume", trained.run).check_success()
    outcome = trained.test("--resume", trained.run, "--split", "validation")
    if key in ("data", "split"):
        outcome.check_refusal(4, (f"{trained.run}/model_best.pth: its config lacks {key}; name --info-dir",))
    else:
        assert "Traceback" not in outcome.err
