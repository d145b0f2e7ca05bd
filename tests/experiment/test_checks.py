"""A plug-in's class that is not what its section expects is one line that says what it must be."""

from __future__ import annotations

import pytest

from tests.integration.workplace import Workplace

IDEAS = """
import torch
from torch import nn

from base import BaseModel


class PlainLoss(nn.Module):
    def forward(self, logits, target):
        return nn.functional.cross_entropy(logits, target)


class PlainModel(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.heads = nn.ModuleDict({head: nn.Linear(3, number) for head, number in num_classes.items()})


class OtherHeads(BaseModel):
    def forward(self, images):
        return {"mask": torch.zeros(len(images), 3), "hat": torch.zeros(len(images), 2)}


class OneAnswer(BaseModel):
    def forward(self, images):
        return images.mean(dim=(2, 3))
"""


@pytest.mark.parametrize(
    ("key_path", "kind", "word"),
    [
        ("loss.heads.age", "PlainLoss", "HeadLoss"),
        ("arch", "PlainModel", "BaseModel"),
        ("arch", "OtherHeads", "hat"),
        ("arch", "OneAnswer", "logits by head"),
    ],
)
def test_a_class_that_is_of_another_kind(empty_workplace: Workplace, key_path: str, kind: str, word: str) -> None:
    empty_workplace.write("ideas.py", IDEAS)
    config = empty_workplace.write_config({"plugins": ["ideas.py"], key_path: {"type": kind}})
    outcome = empty_workplace.train_and_change_nothing("--config", config)
    outcome.check_refusal(2, (f'tiny.json: {key_path}.type = "{kind}"', word, "docs/extending.md"))
