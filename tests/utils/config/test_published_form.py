"""The first team's config: its keys and values, over the project's own config.json."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from utils.config.json_text import read_json
from utils.config.published_form import DEFAULT_CONFIG, is_published_form, translate
from utils.errors import InvalidConfig

SHARED = Path(__file__).parents[4] / "shared" / "data" / "published_config.json"
SIX_WEIGHTS = [2.9, 4.0, 4.5, 14.0, 14.0, 28.0]
PUBLISHED: dict[str, Any] = {
    "name": "Mask_Base",
    "n_gpu": 1,
    "arch": {"type": "TimmModelMulti", "args": {"model_name": "resnet18", "pretrained": True}},
    "data_loader": {
        "type": "setup",
        "args": {"stage": "train", "input_size": 240, "batch_size": 16, "num_workers": 4},
    },
    "optimizer": {"type": "Adam", "args": {"lr": 0.0003, "weight_decay": 0.1}},
    "loss": "all_loss",
    "loss_name": [["focal", [1.4, 7, 7], 0.375], ["ce", [1.6, 2.6], 0.25], ["focal", SIX_WEIGHTS, 0.375]],
    "metrics": ["accuracy", "f1"],
    "lr_scheduler": {"type": "StepLR", "args": {"step_size": 5, "gamma": 0.1}},
    "trainer": {"epochs": 50, "save_dir": "saved/", "monitor": "min val/loss", "early_stop": 3, "tensorboard": False},
    "wandb": True,
    "visualize": False,
    "submit_dir": "/submit",
    "info_dir": "/input/data/eval",
}


def _changed(**keys: Any) -> dict[str, Any]:
    return {**copy.deepcopy(PUBLISHED), **keys}


def _loader(**arguments: Any) -> dict[str, Any]:
    return {"type": "setup", "args": {"input_size": 240, "batch_size": 16, "num_workers": 4, **arguments}}


def test_the_whole_config() -> None:
    assert is_published_form(PUBLISHED)
    translated, notes = translate(PUBLISHED)
    assert not is_published_form(translated)
    default = read_json(DEFAULT_CONFIG)
    for key in ("name", "n_gpu", "arch", "optimizer", "lr_scheduler", "metrics", "trainer", "wandb", "visualize"):
        assert (
            translated[key] == PUBLISHED[key]
        )  # whole keys: nothing of the default's amsgrad or save_best is mixed in
    assert translated["transforms"] == default["transforms"]
    assert translated["loss"]["heads"] == {
        "mask": {"type": "FocalLoss", "args": {"class_weights": [1.4, 7, 7]}, "weight": 0.375},
        "gender": {"type": "CrossEntropyLoss", "args": {"class_weights": [1.6, 2.6]}, "weight": 0.25},
        "age": {"type": "FocalLoss", "args": {"class_weights": SIX_WEIGHTS}, "weight": 0.375},
    }
    age = translated["labels"]["attributes"]["age"]
    assert age == {**default["labels"]["attributes"]["age"], "training_bins": [20, 30, 40, 50, 60]}
    assert age["bins"] == [30, 60]
    assert translated["data_loader"] == {
        "type": "AttributeDataLoader",
        "args": {"input_size": 240, "batch_size": 16, "num_workers": 4},
    }
    assert translated["data"] == [{"type": "CompetitionFolder", "args": {"root": "/input/data/train"}}]
    assert translated["split"]["args"] == {"validation_share": 0.1, "stratify": ["gender", "age"]}
    assert translated.keys() == default.keys() - {"$schema"}
    told = "\n".join(notes)
    for key in (
        "loss.heads.mask",
        "loss.heads.age",
        "labels.attributes.age",
        "data_loader",
        "data =",
        "split",
        "transforms",
    ):
        assert key in told
    assert json.dumps(translated["loss"]["heads"]["age"]) in told


@pytest.mark.parametrize("weights", [None, [], [1.0, 2.0, 3.0]])
def test_three_ages_are_the_scored_ones(weights: list[float] | None, tmp_path: Path) -> None:
    default = read_json(DEFAULT_CONFIG)
    default["labels"]["attributes"]["age"]["training_bins"] = [30, 58]
    (tmp_path / "config.json").write_text(json.dumps(default), encoding="utf-8")
    triples = [["f1", None, 1], ["label_smoothing", [], 1], ["LDAMLoss", weights, 1]]
    translated, _ = translate(_changed(loss_name=triples), tmp_path / "config.json")
    assert "training_bins" not in translated["labels"]["attributes"]["age"]
    heads = translated["loss"]["heads"]
    assert [head["type"] for head in heads.values()] == ["F1Loss", "LabelSmoothingLoss", "LDAMLoss"]
    assert heads["mask"]["args"] == heads["gender"]["args"] == {}
    assert heads["age"]["args"] == ({"class_weights": weights} if weights else {})


def test_a_loss_that_compares_embeddings_stands_beside_cross_entropy() -> None:
    triples = [["focal", [1.4, 7, 7], 0.375], ["TripletMarginLoss", [], 0.25], ["ArcFaceLoss", SIX_WEIGHTS, 0.5]]
    translated, notes = translate(_changed(loss_name=triples))
    assert translated["loss"] == {
        "heads": {
            "mask": {"type": "FocalLoss", "args": {"class_weights": [1.4, 7, 7]}, "weight": 0.375},
            "gender": {"type": "CrossEntropyLoss", "args": {}, "weight": 0.25},
            "age": {"type": "CrossEntropyLoss", "args": {"class_weights": SIX_WEIGHTS}, "weight": 0.5},
        },
        "metric_learning": {
            "gender_TripletMarginLoss": {"type": "TripletMarginLoss", "args": {}, "head": "gender", "weight": 0.25},
            "age_ArcFaceLoss": {"type": "ArcFaceLoss", "args": {}, "head": "age", "weight": 0.5},
        },
    }
    arch = PUBLISHED["arch"]
    assert translated["arch"] == {**arch, "args": {**arch["args"], "embedding_size": 128}}
    assert "embedding_size" not in arch["args"]
    told = "\n".join(notes)
    assert 'loss.metric_learning.age_ArcFaceLoss = {"type": "ArcFaceLoss"' in told
    assert "arch.args.embedding_size = 128" in told


def test_an_embedding_that_is_there_keeps_its_size() -> None:
    arch = {"type": "TimmModelMulti", "args": {"model_name": "resnet18", "embedding_size": 32}}
    translated, notes = translate(_changed(arch=arch, loss_name=[["ce", [], 1], ["ce", [], 1], ["NCALoss", [], 1]]))
    assert translated["arch"] == arch
    assert "arch.args.embedding_size = 32" in "\n".join(notes)


def test_without_such_a_loss_there_is_no_embedding() -> None:
    translated, _ = translate(PUBLISHED)
    assert translated["arch"] == PUBLISHED["arch"]
    assert translated["loss"].keys() == {"heads"}


def test_the_training_folder() -> None:
    def root(config: dict[str, Any]) -> str:
        translated, _ = translate(config)
        assert translated["data_loader"]["args"].keys() == {"input_size", "batch_size", "num_workers"}
        return str(translated["data"][0]["args"]["root"])

    assert root(_changed(info_dir="a/b/eval/")) == "a/b/train"
    assert root(_changed(data_loader=_loader(data_dir="mine"))) == "mine"
    assert root(_changed(data_loader=_loader(train_dir="mine", stage="eval"))) == "mine"


REFUSED = {
    "four-ages": (
        {"loss_name": [["ce", [], 1], ["ce", [], 1], ["ce", [1, 1, 1, 1], 1]]},
        'loss_name.2 = ["ce", [1, 1, 1, 1], 1] (age): 4 class weights; 3 (<30, 30-59, >=60) or '
        "6 (by decades) are expected",
    ),
    "two-triples": (
        {"loss_name": [["ce", [], 1], ["ce", [], 1]]},
        'loss_name = [["ce", [], 1], ["ce", [], 1]] must hold three [loss, class weights, head weight], '
        "for mask, gender, age",
    ),
    "a-pair": (
        {"loss_name": [["ce", [], 1], ["ce", 1], ["ce", [], 1]]},
        'loss_name.1 = ["ce", 1] (gender) must be [loss, class weights, head weight]',
    ),
    "stage": (
        {"data_loader": _loader(stage="test")},
        'data_loader.args.stage = "test" is not one of "train", "eval"',
    ),
    "other-loss": ({"loss": "nll"}, 'loss = "nll" must be "all_loss"; to name one loss a head, write loss.heads'),
    "other-loader": (
        {"data_loader": {"type": "Other"}},
        'data_loader = {"type": "Other"} must be {"type": "setup", "args": {...}} beside loss_name',
    ),
}


@pytest.mark.parametrize(("keys", "message"), REFUSED.values(), ids=REFUSED)
def test_refusals(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidConfig, match=f"^{re.escape(message)}$"):
        translate(_changed(**keys))


def test_all_problems_at_once() -> None:
    with pytest.raises(InvalidConfig) as caught:
        translate(_changed(loss="nll", loss_name=[1, ["ce"], ["ce", [], 1]], data_loader=_loader(stage="x")))
    assert len(str(caught.value).splitlines()) == 4


def test_todays_form_is_left_alone() -> None:
    assert not is_published_form(read_json(DEFAULT_CONFIG))
    assert not is_published_form({"extends": "config.json", "loss": {"heads": {}}})


@pytest.mark.skipif(not SHARED.exists(), reason="the published config is not here")
def test_the_published_file_itself() -> None:
    config = read_json(SHARED)
    translated, _ = translate(config)
    assert translated["trainer"] == config["trainer"]
    assert [head["args"]["class_weights"] for head in translated["loss"]["heads"].values()] == [
        triple[1] for triple in config["loss_name"]
    ]


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("ce", "CrossEntropyLoss"),
        ("ce_loss", "CrossEntropyLoss"),
        ("cross_entropy", "CrossEntropyLoss"),
        ("focal", "FocalLoss"),
        ("label_smoothing", "LabelSmoothingLoss"),
        ("f1", "F1Loss"),
    ],
)
def test_every_name_of_a_loss_in_its_code_and_readme_is_understood(name: str, ours: str) -> None:
    translated, _ = translate(_changed(loss_name=[[name, [], 1], ["ce", [], 1], ["ce", [], 1]]))
    assert translated["loss"]["heads"]["mask"]["type"] == ours
