"""The habits of pytorch-template: each works, or is answered with the line that does it here.

Its files are not copied: these are of its form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiment.cli import FLAGS_FOR_KEYS, parse_arguments
from experiment.schema import SECTIONS
from parse_config import ConfigParser
from tests.integration.workplace import Workplace
from utils.config.template_keys import CONFIG_METHODS, GUIDE, TRAINER_METHODS

LOSS = """
import torch.nn.functional as F

def ce_loss(output, target):
    return F.cross_entropy(output, target)
"""
METRIC = """
import torch

def share_right(output, target):
    with torch.no_grad():
        pred = torch.argmax(output, dim=1)
        assert pred.shape[0] == len(target)
        correct = 0
        correct += torch.sum(pred == target).item()
    return correct / len(target)

def top_k_acc(output, target, k=2):
    with torch.no_grad():
        pred = torch.topk(output, k, dim=1)[1]
        correct = 0
        for i in range(k):
            correct += torch.sum(pred[:, i] == target).item()
    return correct / len(target)
"""
MODEL = """
import torch.nn as nn
import torch.nn.functional as F
from base import BaseModel

class SmallNet(BaseModel):
    def __init__(self, num_classes, hidden=8):
        super().__init__(num_classes)
        self.conv1 = nn.Conv2d(3, hidden, kernel_size=5)
        self.fc1 = nn.ModuleDict({name: nn.Linear(hidden, number) for name, number in num_classes.items()})

    def forward(self, x):
        x = F.relu(F.max_pool2d(self.conv1(x), 2)).mean((2, 3))
        return {name: F.log_softmax(fc(x), dim=1) for name, fc in self.fc1.items()}
"""
TRAINER = """
from trainer import Trainer

class PlainTrainer(Trainer):
    def train_epoch(self, epoch):
        log = super().train_epoch(epoch)
        log["train/twice"] = 2 * log["train/loss"]
        return log

    def train_step(self, micro_batches, epoch):
        (batch,) = micro_batches
        learner = self.learner
        learner.optimizer.zero_grad()
        weights = learner.criterion.sample_weight_sums(batch.targets)
        with learner.autocast():
            output = learner.network(learner.inputs(batch))
            loss, losses = learner.criterion(output, batch.targets, weights)
        loss.backward()
        learner.optimizer.step()
        detached = {name: each.detach() for name, each in output.items()}
        self.train_metrics.add(losses, weights, weights, detached, batch.scoring_targets)
        return self.stop.requested
"""
CHANGES: dict[str, Any] = {
    "plugins": ["loss.py", "metric.py", "net.py", "trainer.py"],
    "arch": {"type": "SmallNet", "args": {"hidden": 4}},
    "loss": {"heads": {name: {"type": "ce_loss", "args": {}} for name in ("mask", "gender", "age")}},
    "metrics": ["share_right", "top_k_acc", "accuracy"],
    "trainer.type": "PlainTrainer",
    "trainer.monitor": "max val/share_right",
    "trainer.save_best": [],
    "lr_scheduler": {"type": "StepLR", "args": {"step_size": 50, "gamma": 0.1}},
}


@pytest.fixture
def habits(workplace: Workplace) -> Workplace:
    for name, text in {"loss.py": LOSS, "metric.py": METRIC, "net.py": MODEL, "trainer.py": TRAINER}.items():
        workplace.write(name, text)
    workplace.write_config(CHANGES)
    return workplace


def test_loss_metrics_model_and_trainer_of_its_form_train(habits: Workplace) -> None:
    habits.train("-c", "tiny.json", "-d", "cpu", "--lr", "0.01", "--bs", "8").check_success()
    (row,) = map(json.loads, habits.only("saved/log/*/*/metrics.jsonl").read_text().splitlines())
    assert row["train/twice"] == 2 * row["train/loss"]
    for name in ("train/", "val/", "val/mask_", "train/gender_"):
        assert row[f"{name}share_right"] == pytest.approx(row[f"{name}accuracy"])
    assert row["val/gender_top_k_acc"] == 1
    (run,) = habits.runs
    assert {"model_best.pth", "last.pth", "config.json"} <= {path.name for path in run.iterdir()}
    habits.test("-r", run / "model_best.pth", "--split", "validation").check_success()


def test_its_loss_of_log_probabilities_goes_with_a_model_that_gives_them(habits: Workplace) -> None:
    habits.write("loss.py", LOSS.replace("F.cross_entropy", "F.nll_loss"))
    habits.train("-c", "tiny.json", "--dry-run").check_success()
    refused = habits.train_and_change_nothing("-c", "tiny.json", "--set", "arch.type=BaselineCNN")
    heads = ("mask", "gender", "age")
    refused.check_refusal(2, *((f"tiny.json: loss.heads.{name}.type", "cross_entropy", GUIDE) for name in heads))


@pytest.mark.parametrize("method", TRAINER_METHODS)
def test_its_trainers_methods_are_answered(habits: Workplace, method: str) -> None:
    text = f"from trainer import Trainer\nclass PlainTrainer(Trainer):\n    def {method}(self, epoch): return {{}}\n"
    habits.write("trainer.py", text)
    ours = TRAINER_METHODS[method].split("(")[0]
    refused = habits.train_and_change_nothing("-c", "tiny.json")
    refused.check_refusal(2, ('tiny.json: trainer.type = "PlainTrainer" ', f"defines {method}", ours, GUIDE))


@pytest.mark.parametrize(
    ("model", "key_path", "answer"),
    [
        ("        super().__init__()\n", "arch.args", "super().__init__(num_classes)"),
        ("        super().__init__(num_classes)\n        self.fc = nn.Linear(3, 2)\n", "arch.type", "logits by head"),
    ],
)
def test_its_models_form_is_answered(habits: Workplace, model: str, key_path: str, answer: str) -> None:
    body = "    def forward(self, x):\n        return self.fc(x.mean((2, 3)))\n"
    start = "import torch.nn as nn\nfrom base import BaseModel\nclass SmallNet(BaseModel):\n"
    habits.write("net.py", f"{start}    def __init__(self, num_classes=10, hidden=8):\n{model}{body}")
    habits.train_and_change_nothing("-c", "tiny.json").check_refusal(2, (f"tiny.json: {key_path}", answer))


def test_a_layer_that_does_not_fit_is_found_before_the_run(habits: Workplace) -> None:
    habits.write("net.py", MODEL.replace("nn.Conv2d(3,", "nn.Conv2d(1,"))
    habits.train_and_change_nothing("-c", "tiny.json").check_refusal(
        2, ("tiny.json: arch.type", "net.py:13", "channel")
    )


@pytest.mark.parametrize("name", CONFIG_METHODS)
def test_its_config_parsers_methods_are_answered(name: str) -> None:
    config = ConfigParser.from_file("config.json", SECTIONS)
    with pytest.raises(AttributeError, match=rf"config.{name} is .*here it is .*{GUIDE}"):
        getattr(config, name)
    assert config.component("optimizer").__name__ == config["optimizer"]["type"]


def test_its_flags_and_one_of_ones_own() -> None:
    given = parse_arguments(["-c", "x.json", "-r", "y.pth", "-d", "0", "--lr", "0.1", "--bs", "4"])
    assert (given.config, given.resume, given.device) == (Path("x.json"), "y.pth", "0")
    assert {each.key_path: each.value for each in given.overrides} == {
        "optimizer.args.lr": 0.1,
        "data_loader.args.batch_size": 4,
    }
    FLAGS_FOR_KEYS["--wd"] = "optimizer.args.weight_decay"
    try:
        (override,) = parse_arguments(["--wd", "0.5"]).overrides
    finally:
        del FLAGS_FOR_KEYS["--wd"]
    assert (override.key_path, override.value, override.origin) == ("optimizer.args.weight_decay", 0.5, "--wd 0.5")


def test_several_gpus_by_number_are_answered(habits: Workplace) -> None:
    refused = habits.train_and_change_nothing("-c", "tiny.json", "-d", "0,1")
    refused.check_refusal(2, ("--device 0,1", "CUDA_VISIBLE_DEVICES=0,1 torchrun --nproc-per-node=2 train.py"))
