"""The first team's config: its keys and values, over the project's own config.json."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from utils.config.json_text import read_json
from utils.config.published_form import DEFAULT_CONFIG, LOSS_NAMES, is_published_form, translate
from utils.errors import InvalidConfig, dotted

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
    translated, note = translate(PUBLISHED)
    assert not is_published_form(translated)
    default = read_json(DEFAULT_CONFIG)
    # whole keys: nothing of the default's amsgrad or save_best is mixed in
    for key in ("name", "n_gpu", "arch", "optimizer", "lr_scheduler", "metrics", "trainer", "wandb", "visualize"):
        assert translated[key] == PUBLISHED[key]
    assert translated["transforms"] == default["transforms"]
    assert translated["loss"]["heads"] == {
        "mask": {"type": "FocalLoss", "args": {"class_weights": [1.4, 7, 7]}, "weight": 0.375},
        "gender": {"type": "CrossEntropyLoss", "args": {"class_weights": [1.6, 2.6]}, "weight": 0.25},
        "age": {"type": "FocalLoss", "args": {"class_weights": SIX_WEIGHTS}, "weight": 0.375},
    }
    age = translated["labels"]["attributes"]["age"]
    assert age == {**default["labels"]["attributes"]["age"], "training_bins": [20, 30, 40, 50, 60]}
    assert translated["data_loader"] == {
        "type": "AttributeDataLoader",
        "args": {"input_size": 240, "batch_size": 16, "num_workers": 4},
    }
    assert translated["data"] == [{"type": "CompetitionFolder", "args": {"root": "/input/data/train"}}]
    assert translated["split"]["args"] == {"validation_share": 0.1, "stratify": ["gender", "age"]}
    assert translated.keys() == default.keys() - {"$schema"}
    for key in ("loss", "labels", "data", "split", "data_loader"):
        assert f'"{key}": {json.dumps(translated[key])}' in note


def test_a_loss_that_compares_embeddings_is_beside_cross_entropy() -> None:
    triples = [["focal", [1.4, 7, 7], 0.375], ["TripletMarginLoss", [], 0.25], ["ArcFaceLoss", SIX_WEIGHTS, 0.5]]
    published = _changed(loss_name=triples)
    translated, _ = translate(published)
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
    assert translated["arch"]["args"] == {**published["arch"]["args"], "embedding_size": 128}
    published["arch"]["args"]["embedding_size"] = 64
    assert translate(published)[0]["arch"]["args"]["embedding_size"] == 64


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


@pytest.mark.parametrize(
    ("keys", "root"),
    [
        ({"info_dir": "a/b/eval/"}, "a/b/train"),
        ({"data_loader": _loader(data_dir="mine")}, "mine"),
        ({"data_loader": _loader(train_dir="mine", stage="eval")}, "mine"),
    ],
)
def test_the_training_folder(keys: dict[str, Any], root: str) -> None:
    translated, _ = translate(_changed(**keys))
    assert translated["data_loader"]["args"].keys() == {"input_size", "batch_size", "num_workers"}
    assert translated["data"][0]["args"]["root"] == root


REFUSED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "two triples": ({"loss_name": [["ce", [], 1], ["ce", [], 1]]}, ["loss_name"]),
    "a pair": ({"loss_name": [["ce", [], 1], ["ce", 1], ["ce", [], 1]]}, ["loss_name"]),
    "class weights that are no list": ({"loss_name": [["ce", [], 1], ["ce", [], 1], ["ce", 3, 1]]}, ["loss_name"]),
    "another loss": ({"loss": "nll"}, ["loss"]),
    "another loader": ({"data_loader": {"type": "Other"}}, ["data_loader"]),
    "all at once": ({"loss": "nll", "loss_name": [1], "data_loader": 3}, ["loss_name", "loss", "data_loader"]),
}


@pytest.mark.parametrize(("keys", "key_paths"), REFUSED.values(), ids=REFUSED)
def test_refusals(keys: dict[str, Any], key_paths: list[str]) -> None:
    with pytest.raises(InvalidConfig) as caught:
        translate(_changed(**keys))
    assert [dotted(problem.key_path) for problem in caught.value.problems] == key_paths
    assert "head weight" in str(caught.value) or "loss_name" not in key_paths


def test_todays_form_is_left_alone() -> None:
    assert not is_published_form(read_json(DEFAULT_CONFIG))
    assert not is_published_form({"extends": "config.json", "loss": {"heads": {}}})


def test_every_name_of_a_loss_in_its_code_and_readme_is_understood() -> None:
    assert LOSS_NAMES.keys() == {"ce", "ce_loss", "cross_entropy", "focal", "label_smoothing", "f1"}
