"""The keys of pytorch-template are answered with ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from parse_config import ConfigParser
from tests.small_config import SECTIONS
from utils.errors import ConfigError

TEMPLATE: dict[str, Any] = {
    "name": "Mnist_LeNet",
    "n_gpu": 1,
    "arch": {"type": "MnistModel", "args": {}},
    "data_loader": {
        "type": "MnistDataLoader",
        "args": {"data_dir": "data/", "batch_size": 128, "shuffle": True, "validation_split": 0.1, "num_workers": 2},
    },
    "optimizer": {"type": "Adam", "args": {"lr": 0.001, "weight_decay": 0, "amsgrad": True}},
    "loss": "nll_loss",
    "metrics": ["accuracy", "top_k_acc"],
    "lr_scheduler": {"type": "StepLR", "args": {"step_size": 50, "gamma": 0.1}},
    "trainer": {"epochs": 100, "save_dir": "saved/", "monitor": "min val_loss"},
}


@pytest.mark.parametrize(
    ("key_path", "words"),
    [
        (("loss",), ("nll_loss", "heads", "CrossEntropyLoss")),
        (("data_loader", "args", "validation_split"), ("split", "validation_share")),
        (("data_loader", "args", "data_dir"), ("data", "root")),
    ],
)
def test_the_templates_own_config(key_path: tuple[str, ...], words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        ConfigParser.from_dict(TEMPLATE, SECTIONS, "config.json")
    (problem,) = [each for each in caught.value.problems if each.key_path == key_path]
    assert all(word in problem.text for word in (*words, "docs/from-pytorch-template.md"))
    assert (Path(__file__).parents[3] / "docs" / "from-pytorch-template.md").exists()
