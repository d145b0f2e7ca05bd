"""A plug-in that is not what its section expects is one line that says what it must be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from base import BaseModel
from experiment.schema import SECTIONS
from model import metric
from model import model as architectures
from tests.integration.workplace import Workplace


def offer(monkeypatch: pytest.MonkeyPatch, key_path: str, component: Any) -> None:
    """As if the section's module listed it."""
    section: Any = SECTIONS
    for step in key_path.split("."):
        section = section.part(step)
    monkeypatch.setitem(section.names, component.__name__, component)


class PlainLoss(nn.Module):
    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, target)


def test_a_loss_that_is_no_head_loss(empty_workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, "loss.heads.age", PlainLoss)
    changes = {"loss.heads.age": {"type": "PlainLoss"}}
    outcome = empty_workplace.train_and_change_nothing("--config", empty_workplace.write_config(changes))
    outcome.check_refusal(2, ('tiny.json: loss.heads.age.type = "PlainLoss"', "HeadLoss", "docs/extending.md"))


def test_a_metric_of_outputs_and_targets(empty_workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    def top1(output: Tensor, target: Tensor) -> float:
        return float((output.argmax(dim=1) == target).float().mean())

    monkeypatch.setattr(metric, "top1", top1, raising=False)
    monkeypatch.setattr(metric, "__all__", [*metric.__all__, "top1"])
    outcome = empty_workplace.train_and_change_nothing(
        "--config", empty_workplace.write_config({"metrics": ["f1", "top1"]})
    )
    outcome.check_refusal(2, ("tiny.json: metrics", "top1", "confusion matrix", "docs/extending.md"))


class PlainModel(nn.Module):
    def __init__(self, num_classes: Any) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({head: nn.Linear(3, number) for head, number in num_classes.items()})


class OtherHeads(BaseModel):
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"mask": torch.zeros(len(images), 3), "hat": torch.zeros(len(images), 2)}


class OneAnswer(BaseModel):
    def forward(self, images: Tensor) -> Any:
        return images.mean(dim=(2, 3))


@pytest.mark.parametrize(
    ("kind", "word"), [(PlainModel, "BaseModel"), (OtherHeads, "hat"), (OneAnswer, "logits by head")]
)
def test_a_model_that_is_none(
    empty_workplace: Workplace, monkeypatch: pytest.MonkeyPatch, kind: type[nn.Module], word: str
) -> None:
    offer(monkeypatch, "arch", kind)
    monkeypatch.setattr(architectures, kind.__name__, kind, raising=False)
    monkeypatch.setattr(architectures, "__all__", [*architectures.__all__, kind.__name__])
    changes = {"arch": {"type": kind.__name__}}
    outcome = empty_workplace.train_and_change_nothing("--config", empty_workplace.write_config(changes))
    outcome.check_refusal(2, (f'tiny.json: arch.type = "{kind.__name__}"', word, "docs/extending.md"))
