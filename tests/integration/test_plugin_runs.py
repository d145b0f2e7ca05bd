"""Plug-ins in whole runs: trained, resumed bit for bit, answered with, exported; and what is refused of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from scripts.export import main as export
from tests.integration.workplace import Workplace
from utils.checkpoint import read_checkpoint
from utils.config.plugins import FLAG

IDEAS = """
import torch
from torch.nn.functional import cross_entropy

from base import BaseModel
from model.heads import LinearHeads


def smoothed(output, target, smoothing: float = 0.1):
    return cross_entropy(output, target, label_smoothing=smoothing)


def top_k_acc(output, target, k=2):
    return (output.topk(k, dim=1).indices == target[:, None]).any(1).sum().item() / len(target)


class MeanColour(BaseModel):
    def __init__(self, num_classes, drop_rate: float = 0.5):
        super().__init__(num_classes)
        self.heads = LinearHeads(3, num_classes, drop_rate)

    def forward(self, images):
        return self.heads(images.mean((2, 3)))
"""
CHANGES: dict[str, Any] = {
    "plugins": ["ideas.py"],
    "arch": {"type": "MeanColour"},
    "metrics": ["accuracy", "f1", "top_k_acc"],
    "loss": {"heads": {"mask": {"type": "smoothed"}}},
    "trainer.monitor": "max val/mask_top_k_acc",
    "trainer.accumulation_steps": 2,
    "trainer.epochs": 2,
}


@pytest.fixture
def planned(workplace: Workplace) -> Workplace:
    workplace.write("ideas.py", IDEAS)
    workplace.write_config(CHANGES)
    return workplace


def last(run: Path) -> dict[str, Any]:
    content = read_checkpoint(run / "last.pth")
    return {key: content[key] for key in ("model", "optimizer", "schedule", "updates")}


def test_a_plugin_is_resumed_exactly_answers_and_is_refused_once_it_has_changed(planned: Workplace) -> None:
    planned.train("-c", "tiny.json", "--run-id", "whole").check_success()
    planned.train("-c", "tiny.json", "--run-id", "resumed", "--set", "trainer.epochs=1").check_success()
    whole, resumed = (Path("saved/models/Tiny", name) for name in ("whole", "resumed"))
    planned.train("--resume", resumed, "--set", "trainer.epochs=2").check_success()
    torch.testing.assert_close(last(resumed), last(whole), rtol=0, atol=0)
    rows = (planned.folder / "saved/log/Tiny/whole/metrics.jsonl").read_text().splitlines()
    assert json.loads(rows[-1])["val/gender_top_k_acc"] == 1

    planned.test("--resume", whole, "--split", "validation", "--probabilities").check_success()
    probabilities = (whole / "predictions_validation_probabilities.csv").read_text()
    export([str(whole), "--to", "safetensors", "--output", "exported"])
    planned.test(
        "--resume", "exported", "--output", "e.csv", "--probabilities", "--split", "validation"
    ).check_success()
    assert Path("e_probabilities.csv").read_text() == probabilities

    ideas = planned.write("ideas.py", f"{IDEAS}\n# another\n")
    commands = [
        lambda *more: planned.train("--resume", whole, *more),
        lambda *more: planned.train("--resume", whole, "-c", "tiny.json", *more),
        lambda *more: planned.test("--resume", whole, "--split", "validation", *more),
        lambda *more: planned.test("--resume", "exported", "--split", "validation", "--output", "e.csv", *more),
    ]
    for command in commands:
        refused = command()
        assert refused.exit_code == 2
        assert FLAG in refused.lines[0]
        assert "ideas.py" in refused.lines[0]
        command(FLAG).check_success()
    ideas.unlink()
    missing = planned.test("--resume", whole, "--split", "validation")
    missing.check_refusal(2, (f"{whole}: plugins.0", str(ideas.absolute()), f"{whole}/plugins/ideas.py"))
    assert (whole / "plugins" / "ideas.py").read_text() == IDEAS


COUNTER = """
from base import BaseCallback


class Rising(BaseCallback):
    metrics = {"train/rising": "max"}

    def __init__(self, best: int = 2, fails_after: int | None = None):
        self.best, self.fails_after, self.epochs = best, fails_after, 0

    def after_update(self, update):
        if update.number == self.fails_after:
            raise ValueError("enough")

    def end_epoch(self, epoch, metrics):
        self.epochs += 1
        return {"train/rising": -abs(self.epochs - self.best)}

    def state_dict(self):
        return {"epochs": self.epochs}

    def load_state_dict(self, state):
        self.epochs = state["epochs"]
"""


def test_a_callbacks_number_is_watched_and_its_error_named(workplace: Workplace) -> None:
    """Epoch 2 is the best, and one epoch without a better one ends the run, across a resumption."""
    workplace.write("rising.py", COUNTER)
    changes: dict[str, Any] = {
        "plugins": ["rising.py"],
        "callbacks": [{"type": "GradientNorm"}, {"type": "Rising"}],
        "trainer.monitor": "max train/rising",
        "trainer.early_stop": 1,
        "trainer.save_best": ["min train/gradient_norm"],
        "sweep": {"metric": "max train/rising", "space": {"callbacks.1.args.best": [1, 2]}},
    }
    workplace.write_config(changes)
    wrong = workplace.train_and_change_nothing("-c", "tiny.json", "--set", "trainer.monitor=min train/rising")
    wrong.check_refusal(2, ("--set trainer.monitor", '"max train/rising"'))
    wrong = workplace.train_and_change_nothing("-c", "tiny.json", "--set", "trainer.monitor=max train/risin")
    wrong.check_refusal(2, ("--set trainer.monitor", 'did you mean "train/rising"?'))
    workplace.train("-c", "tiny.json", "--set", "trainer.epochs=2").check_success()
    run = workplace.run
    workplace.train("--resume", run, "--set", "trainer.epochs=9").check_success()
    assert read_checkpoint(run / "last.pth")["completed_epochs"] == 3
    assert read_checkpoint(run / "model_best.pth")["completed_epochs"] == 2
    assert (run / "best_train_gradient_norm.pth").exists()
    failed = workplace.train("-c", "tiny.json", "--set", "callbacks.1.args.fails_after=2")
    failed.check_refusal(1, ("callbacks.1 (Rising): after_update fails at rising.py:13: ValueError: enough",))
    assert "enough" not in failed.out, "said once"


def test_what_a_callback_declares_is_checked(workplace: Workplace) -> None:
    sideways, taken = ({"train/rising": "up"}, {"val/loss": "min"})
    classes = [f"class {name}(BaseCallback):\n    metrics = {own}\n" for name, own in (("A", sideways), ("B", taken))]
    workplace.write("declaring.py", "from base import BaseCallback\n" + "".join(classes))
    workplace.write_config({"plugins": ["declaring.py"], "callbacks": [{"type": "A"}, {"type": "B"}]})
    workplace.train_and_change_nothing("-c", "tiny.json").check_refusal(
        2,
        ("tiny.json: callbacks.0.type = ", "declares train/rising as 'up'"),
        ("tiny.json: callbacks.1.type = ", "declares val/loss, a number that the epoch has already"),
    )


def test_everything_wrong_is_told_together(planned: Workplace) -> None:
    changes = {
        "arch": {"type": "MeanColor"},
        "loss": {"heads": {"mask": {"type": "smoothed", "args": {"smothing": 0.1}}, "age": {"type": "MeanColour"}}},
        "trainer.type": "MeanColour",
    }
    planned.write_config({**CHANGES, **changes}, "wrong.json")
    planned.train_and_change_nothing("-c", "wrong.json").check_refusal(
        2,
        ("wrong.json: arch.type = ", 'did you mean "MeanColour"?'),
        ("wrong.json: loss.heads.mask.args.smothing ", 'did you mean "smoothing"?'),
        ("wrong.json: loss.heads.age.type = ", "ideas.py defines it, but not as a subclass of HeadLoss, or a function"),
        ("wrong.json: trainer.type = ", "ideas.py defines it, but not as a subclass of Trainer"),
    )


@pytest.mark.parametrize(
    ("code", "place", "reason"),
    [
        (
            "import numpy as np\nfrom albumentations import ImageOnlyTransform\nclass Noise(ImageOnlyTransform):\n"
            "    def apply(self, img, **params):\n"
            "        return (img // 2 + np.random.randint(0, 99, img.shape)).astype('uint8')\n",
            "transforms.train.1 (Noise)",
            "self.random_generator",
        ),
        ("def top_k_acc(output, target, k=3):\n    return output.topk(k)\n", "metrics ", "ideas.py:2"),
        ("def top_k_acc(output, target):\n    return None\n", "metrics ", "top_k_acc fails on 2 classes"),
        (
            "def smoothed(output, target):\n    return missing\n",
            "loss.heads.mask.type",
            "at ideas.py:2: NameError: name 'missing' is not",
        ),
        (
            "def smoothed(output, target):\n    return output.argmax(1).sum()\n",
            "loss.heads.mask.type",
            "gives a tensor of shape (), which no gradient",
        ),
        (
            "def accuracy(output, target):\n    return 0\n",
            "plugins.0 ",
            "defines accuracy, a name that this program has",
        ),
        (
            "from base import BaseModel\nclass MeanColour(BaseModel):\n    def __init__(self, num_classes):\n"
            "        self.x = y\n    def forward(self, images): return images\n",
            "arch.args ",
            "fails at ideas.py:4: NameError",
        ),
    ],
    ids=("transform", "metric", "no number", "loss", "no gradient", "clash", "model"),
)
def test_code_that_fails_is_found_before_the_run(planned: Workplace, code: str, place: str, reason: str) -> None:
    planned.write("ideas.py", code)
    named = {
        "top_k_acc": {"metrics": ["top_k_acc"]},
        "smoothed": {"loss": CHANGES["loss"]},
        "MeanColour": {"arch": CHANGES["arch"]},
        "Noise": {"transforms": {"train": [{"type": "Resize"}, {"type": "Noise"}], "eval": [{"type": "Resize"}]}},
    }
    chosen = next((change for name, change in named.items() if name in code), {})
    planned.write_config({"plugins": ["ideas.py"], "trainer.save_best": [], "trainer.monitor": "off", **chosen})
    refused = planned.train_and_change_nothing("-c", "tiny.json")
    refused.check_refusal(2, (f"tiny.json: {place}", reason))


BROKEN = """
from data_loader.records.sources import BaseSource
from data_loader.samplers import BaseSampler, EpochOrder
from torch.nn.functional import cross_entropy
from trainer import Trainer

calls = []


def late(output, target):
    calls.append(1)
    if len(calls) > 4:
        raise ValueError("late loss")
    return cross_entropy(output, target)


class Raises(BaseSource):
    def collect(self, problems, attributes=()):
        raise KeyError("col")


class Numbers(BaseSource):
    def collect(self, problems, attributes=()):
        return [1, 2]


class Listing(BaseSampler):
    def order(self, table):
        return EpochOrder(len(table), lambda stream: [0] * len(table))


class Breaks(Trainer):
    def train_epoch(self, epoch):
        raise RuntimeError("trainer broke")
"""


@pytest.mark.parametrize(
    ("changes", "exit_code", "line"),
    [
        ({"loss": {"heads": {"mask": {"type": "late"}}}}, 1, "broken.py:13: ValueError: late loss"),
        ({"data": [{"type": "Raises"}]}, 1, "broken.py:19: KeyError: 'col'"),
        ({"data": [{"type": "Numbers"}]}, 3, "Numbers.collect must give Records, not 1"),
        ({"sampler": {"type": "Listing"}}, 1, "sampler Listing: draw must give "),
        ({"trainer.type": "Breaks"}, 1, "broken.py:34: RuntimeError: trainer broke"),
    ],
    ids=("loss", "source", "records", "sampler", "trainer"),
)
def test_code_that_fails_in_the_run_is_one_line(
    workplace: Workplace, changes: dict[str, Any], exit_code: int, line: str
) -> None:
    workplace.write("broken.py", BROKEN)
    workplace.write_config({"plugins": ["broken.py"], **changes})
    workplace.train("-c", "tiny.json", "--run-id", "x").check_refusal(exit_code, (line,))
    log = workplace.folder / "saved/log/Tiny/x/info.log"
    if "trainer.type" in changes:
        assert "Traceback" in log.read_text(), "for whoever writes the plug-in"
