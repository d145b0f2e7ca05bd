"""Checkpoints with a right checksum whose content is another version's or another program's: one line, exit code 4."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.test_bad_checkpoints import as_content, spoil_all
from tests.integration.workplace import Workplace


def set_in_config(**values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content["config"].update(values)


ODD_CONTENT: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {  # and what the error names
    "no-weights": (lambda content: content.pop("model"), "'model'"),
    "no-config": (lambda content: content.pop("config"), "'config'"),
    "no-loader": (lambda content: content["config"].pop("data_loader"), "'data_loader'"),
    "a-config-in-a-list": (lambda content: content.update(config=[1]), ""),
    "epochs-in-words": (lambda content: content.update(completed_epochs="one"), "'one'"),
    "one-class": (lambda content: content["labels"]["attributes"]["mask"].update(classes=["x"]), "attributes.mask"),
    "an-unknown-transform": (
        lambda content: content["preprocessing"].update(eval_transforms=[{"type": "os.system"}]),
        '"os.system"',
    ),
    "an-unknown-argument": (set_in_config(arch={"type": "BaselineCNN", "args": {"widht": 4}}), "'widht'"),
    "an-arch-of-a-number": (set_in_config(arch={"type": 5}), ""),
    "preprocessing-in-a-list": (lambda content: content.update(preprocessing=[1]), "preprocessing"),
    "views-of-a-number": (set_in_config(views={"flip": 5}), ""),
    "a-number-for-a-folder": (set_in_config(info_dir=5), "info_dir"),
    "data-in-words": (set_in_config(data="faces"), "data"),
}


@pytest.mark.parametrize("case", ODD_CONTENT)
def test_content_of_another_version_is_refused(trained: Workplace, case: str) -> None:
    change, named = ODD_CONTENT[case]
    spoil_all(trained, as_content(change))
    trained.test("--resume", trained.run / "last.pth").check_refusal(4, (f"{trained.run}/last.pth: ", named))
    assert trained.submissions == []
