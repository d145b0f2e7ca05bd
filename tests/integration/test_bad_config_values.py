"""A config whose values cannot be: the place, the value, what was expected and the nearest name, with exit code 2."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.workplace import ROOT, Lines, Workplace

DEFAULT = str(ROOT / "config.json")
KEYS = "(known: "
BACKBONE = {"type": "TimmModelMulti", "args": {"model_name": "resnet10t", "pretrained": False}}


def schedule(name: str, **others: Any) -> dict[str, Any]:
    return {"lr_scheduler": {"type": name, **others}}


def steps(*entries: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"type": "Resize"}, *entries, {"type": "Normalize"}]


VALUES: dict[str, tuple[dict[str, Any], Lines]] = {
    "7-in-args": (
        {"data_loader.args.batchsize": 3},
        [("tiny.json: data_loader.args.batchsize is not a known key", '"batch_size"?')],
    ),
    "8-of-a-transform": (
        {"transforms.train": steps({"type": "HorizontalFlip", "args": {"p": "0.5"}})},
        [("tiny.json: transforms.train", 'p = "0.5"', "number")],
    ),
    "12-monitor": (
        {"trainer.monitor": "min val/lss"},
        [('tiny.json: trainer.monitor = "min val/lss"', "val/age_f1", "train/accuracy", 'did you mean "val/loss"?')],
    ),
    "12-further-best": (
        {"trainer.save_best": ["max val/f1", "max val/maks_f1"]},
        [('tiny.json: trainer.save_best.1 = "max val/maks_f1"', "val/loss_mask", 'did you mean "val/mask_f1"?')],
    ),
    "12-no-direction": ({"trainer.monitor": "val/f1"}, [('tiny.json: trainer.monitor = "val/f1" must be "min <',)]),
    "12-a-metric-of-no-kind": (
        {"metrics": ["f1", "f3"]},
        [('tiny.json: metrics = ["f1", "f3"] names \'f3\'', "accuracy, f1")],
    ),
    "12-a-metric-left-out": (
        {"metrics": ["accuracy"]},
        [(f'{DEFAULT}: trainer.save_best.0 = "max val/f1"', "val/accuracy")],
    ),
    "12-nothing-validates": (
        {"split": {"type": "NoSplit"}, "trainer.save_best": []},
        [(f'{DEFAULT}: trainer.monitor = "min val/loss"', 'did you mean "train/loss"?')],
    ),
    "12-of-the-schedule": (
        schedule("ReduceLROnPlateau", metric="val/los"),
        [('tiny.json: lr_scheduler.metric = "val/los"', "val/f1", 'did you mean "val/loss"?')],
    ),
    "13-unknown-weights": (
        {"arch": BACKBONE | {"args": {"model_name": "resnet18.mine"}}},
        [("tiny.json: arch.args.model_name = resnet18.mine is not", "resnet18.")],
    ),
    "13-from-elsewhere": (
        {"arch": BACKBONE | {"args": {"model_name": "hf_hub:someone/model"}}},
        [("tiny.json: arch.args.model_name = hf_hub:someone/model is not", "weights_file")],
    ),
    "14-loss": (
        {"loss.heads.mask.type": "FocaLoss"},
        [('tiny.json: loss.heads.mask.type = "FocaLoss" is not one of', "F1Loss", 'did you mean "FocalLoss"?')],
    ),
    "14-transform": (
        {"transforms.train": steps({"type": "HorizontalFlipp"})},
        [("tiny.json: transforms.train", '"HorizontalFlipp" is not one of', '"HorizontalFlip"')],
    ),
    "14-no-source": ({"data": []}, [("tiny.json: data = [] is empty; name at least one",)]),
    **{
        f"15-{name}": (
            {"transforms.train": steps({"type": transform, "args": arguments})},
            [("tiny.json: transforms.train", *fragments)],
        )
        for name, transform, arguments, fragments in [
            ("unknown-argument", "HorizontalFlip", {"prob": 0.5}, ["args.prob", "p)"]),
            ("of-an-earlier-version", "CoarseDropout", {"max_holes": 8}, ["args.max_holes", "num_holes_range"]),
            ("no-longer-known", "HorizontalFlip", {"always_apply": True}, ["args.always_apply", "p)"]),
            ("out-of-range", "HorizontalFlip", {"p": 1.5}, ["args.p = 1.5"]),
            ("of-another-type", "ShiftScaleRotate", {"shift_limit": "a lot"}, ["args.shift_limit"]),
            ("falling-range", "CoarseDropout", {"num_holes_range": [5, 1]}, ["args.num_holes_range = [5, 1]"]),
        ]
    },
    "15-chance-in-validation": (
        {"transforms.eval": steps({"type": "HorizontalFlip"})},
        [("tiny.json: transforms.eval", "(HorizontalFlip) is random (p = 0.5)", "move it to transforms.train")],
    ),
    "19-too-many": (
        {"loss.heads.gender.args.class_weights": [1, 2, 3]},
        [("tiny.json: loss.heads.gender.args.class_weights = [1, 2, 3]", "2 classes (male, female)")],
    ),
    "19-for-other-bins": (
        {"labels.attributes.age.training_bins": [20, 30, 40, 50, 60], "loss.heads.age.args.class_weights": [1, 2, 3]},
        [("tiny.json: loss.heads.age.args.class_weights", "3 entries", "6 classes (<20,")],
    ),
    "19-all-zero": (
        {"loss.heads.mask.args.class_weights": [0, 0, 0]},
        [("tiny.json: loss.heads.mask.args.class_weights = [0.0, 0.0, 0.0] must", "not be all 0")],
    ),
    "20-falling": (
        {"labels.attributes.age.bins": [60, 30]},
        [("tiny.json: labels.attributes.age.bins = [60.0, 30.0]", "must rise")],
    ),
    "20-none": ({"labels.attributes.age.bins": []}, [("tiny.json: labels.attributes.age.bins = []", "at least one")]),
    "20-falling-training-bins": (
        {"labels.attributes.age.training_bins": [58, 30]},
        [("tiny.json: labels.attributes.age.training_bins = [58.0, 30.0]", "must rise")],
    ),
    "20-a-wrong-mapping": (
        {
            "labels.attributes.age.training_bins": [20, 30, 60],
            "labels.attributes.age.training_to_scoring": [0, 2, 1, 2],
        },
        [("tiny.json: labels.attributes.age.training_to_scoring = [0, 2, 1, 2]", "rising")],
    ),
    "21-a-loss-for-no-head": (
        {"loss.heads.maks": {"type": "FocalLoss"}},
        [("tiny.json: loss.heads.maks is a loss for no head", 'did you mean "mask"?')],
    ),
    "21-a-head-without-loss": (
        {"labels.attributes.hat": {"classes": ["yes", "no"]}},
        [(f"{DEFAULT}: loss.heads has no loss for the head hat", "add one")],
    ),
    "21-nothing-weighs": (
        {f"loss.heads.{head}.weight": 0 for head in ("mask", "gender", "age")},
        [("tiny.json: loss.heads gives every head the weight 0",)],
    ),
    "22-not-the-transforms'": (
        {"transforms.eval": [{"type": "Resize", "args": {"height": 16, "width": 16}}]},
        [("tiny.json: transforms.eval", "16 x 16", "data_loader.args.input_size = 32", "change one")],
    ),
    "23-half-the-steps": (
        schedule("OneCycleLR", args={"max_lr": 0.1, "epochs": 3}),
        [("tiny.json: lr_scheduler.args.epochs = 3: OneCycleLR refuses it", "steps_per_epoch")],
    ),
    "23-a-metric-at-each-step": (
        schedule("ReduceLROnPlateau", metric="val/loss", interval="step"),
        [('tiny.json: lr_scheduler.interval = "step" must be "epoch"',)],
    ),
    "23-no-milestones": (schedule("MultiStepLR"), [("tiny.json: lr_scheduler.args.milestones is missing",)]),
    "23-steps-of-nothing": (
        schedule("StepLR", args={"step_size": 0}),
        [('tiny.json: lr_scheduler.args = {"step_size": 0', "StepLR fails at step 1")],
    ),
    "23-an-optimizer's-range": (
        {"optimizer.args.lr": -1},
        [("tiny.json: optimizer.args.lr = -1: AdamW refuses it",)],
    ),
    "23-what-an-optimizer-takes-in-silence": (
        {"optimizer": {"type": "AdamP", "args": {"lr": -1}}},
        [("tiny.json: optimizer.args.lr = -1", "at least 0")],
    ),
    "23-what-an-optimizer-refuses-as-it-steps": (
        {"optimizer": {"type": "Muon", "args": {"ns_coefficients": "sixtic"}}},
        [('tiny.json: optimizer.args.ns_coefficients = "sixtic"', "quintic")],
    ),
    "23-what-an-optimizer-asserts": (
        {"optimizer": {"type": "Mars", "args": {"mars_type": "sgd"}}},
        [("tiny.json: optimizer.args", "sgd", "not supported")],
    ),
    "23-a-rate-that-an-optimizer-needs": (
        {"optimizer": {"type": "SGDP"}},
        [("tiny.json: optimizer", "lr")],
    ),
    "23-a-loss-that-takes-no-miner": (
        {
            "arch.args.embedding_size": 4,
            "loss.metric_learning": {"near": {"type": "PNPLoss", "head": "age", "miner": {"type": "HDCMiner"}}},
        },
        [("tiny.json: loss.metric_learning.near", "not supported")],
    ),
    "a-name-with-a-dot": (
        {
            "arch.args.embedding_size": 4,
            "loss.metric_learning": {"age.near": {"type": "TripletMarginLoss", "head": "age"}},
        },
        [("tiny.json: loss.metric_learning.age.near", "dot")],
    ),
    "23-a-loss-that-fails-on-its-first-batch": (
        {
            "arch.args.embedding_size": 4,
            "loss.metric_learning": {
                "near": {"type": "MarginLoss", "head": "age", "args": {"triplets_per_anchor": "some"}}
            },
        },
        [("tiny.json: loss.metric_learning.near",)],
    ),
    "a-sampler-that-does-not-suit-the-loader": (
        {
            "sampler": {"type": "MPerClassSampler", "args": {"by": "age", "images_per_class": 3}},
            "data_loader.args.shuffle": False,
        },
        [
            ("tiny.json: data_loader.args.shuffle = false", "sampler"),
            ("tiny.json: sampler.args.images_per_class = 3", "data_loader.args.batch_size = 8"),
        ],
    ),
    "36-a-split-by-no-attribute": (
        {"split.args.stratify": ["gendr"]},
        [('tiny.json: split.args.stratify names "gendr"', 'did you mean "gender"?')],
    ),
}


@pytest.mark.parametrize("case", VALUES)
def test_a_value_that_cannot_be(empty_workplace: Workplace, case: str) -> None:
    changes, lines = VALUES[case]
    outcome = empty_workplace.train_and_change_nothing("--config", empty_workplace.write_config(changes))
    outcome.check_refusal(2, *lines)


@pytest.mark.parametrize("case", ["12-monitor", "14-loss", "20-falling", "21-a-loss-for-no-head"])
def test_print_config_and_dry_run_refuse_the_same(empty_workplace: Workplace, case: str) -> None:
    changes, lines = VALUES[case]
    config = empty_workplace.write_config(changes)
    for flag in ("--print-config", "--dry-run"):
        outcome = empty_workplace.train_and_change_nothing("--config", config, flag)
        outcome.check_refusal(2, *lines)
        assert outcome.out == ("" if flag == "--print-config" else f"config: {config}\n")
