"""Any two ideas combine: random valid configs, each trained a few steps, stopped after one, resumed, and compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.integration.drawn_road import assert_same_end, resume, run, stop_after_updates, write_config
from utils.errors import StopSignal
from utils.random_streams import numpy_stream

NUM_COMBINATIONS = 200
ORDINARY = (1, 58, 41, 120, 22, 110, 179, 196, 191, 115, 90, 144, 15, 9, 79, 174, 129, 136, 0, 171, 3, 64, 189, 28)
"""Those in the ordinary suite, each the one with the most pairs of choices that those before it lack: they have 3,096
of the 3,591 pairs that occur, and every choice. The others are in the long suite."""

HEADS: dict[str, dict[str, list[str]]] = {
    "three": {"mask": ["mask"], "gender": ["gender"], "age": ["age"]},
    "combined pair": {"mask": ["mask"], "gender_age": ["gender", "age"]},
    "one of 18": {"all": ["mask", "gender", "age"]},
    "mask only": {"mask": ["mask"]},
}
BACKBONES: dict[str, dict[str, Any]] = {  # timm's own tiny models, a family each
    "resnet": {"model_name": "test_resnet"},
    "efficientnet": {"model_name": "test_efficientnet"},
    "byobnet": {"model_name": "test_byobnet"},
    "nfnet": {"model_name": "test_nfnet"},
    "convnext": {"model_name": "test_convnext"},
    "vit": {"model_name": "test_vit", "img_size": 32},
}
WITH_MAPS = ("resnet", "efficientnet", "byobnet", "nfnet", "convnext")
OPTIMIZERS: list[dict[str, Any]] = [
    {"type": "Adam", "args": {"lr": 0.001, "amsgrad": True}},
    {"type": "AdamW", "args": {"lr": 0.001, "weight_decay": 0.05}},
    {"type": "SGD", "args": {"lr": 0.01, "momentum": 0.9, "nesterov": True}},
    {"type": "RMSprop", "args": {"lr": 0.001}},
    {"type": "NAdam", "args": {"lr": 0.001}},
    {"type": "AdamP", "args": {"lr": 0.0003, "weight_decay": 1e-5}},
    {"type": "Lamb", "args": {"lr": 0.001}},
    {"type": "Muon", "args": {"lr": 0.001}},
]
SCHEDULES: list[dict[str, Any] | None] = [
    None,
    {"type": "StepLR", "args": {"step_size": 1}},
    {"type": "MultiStepLR", "args": {"milestones": [1], "gamma": 0.5}, "warmup_epochs": 0.5},
    {"type": "CosineAnnealingLR", "interval": "step", "warmup_epochs": 0.7},
    {"type": "CosineAnnealingLR"},
    {"type": "OneCycleLR", "args": {"max_lr": 0.01}},
    {"type": "ReduceLROnPlateau", "args": {"patience": 0}, "metric": "val/loss"},
]


def combination(number: int) -> dict[str, Any]:
    """The changes to the drawn road's config; every choice is drawn for itself."""
    stream = numpy_stream(2026, "combination", number)

    def choose(*choices: Any) -> Any:
        return choices[int(stream.integers(len(choices)))]

    family = choose("baseline", *BACKBONES)
    heads_name = choose(*HEADS)
    heads = HEADS[heads_name]
    metric_learning = choose({}, {}, _metric_learning(stream, next(iter(heads))))
    options: dict[str, Any] = dict(choose({}, {"drop_rate": 0.2}, {"drop_rate": 0.5, "dropout_samples": 3}))
    if metric_learning:
        options["embedding_size"] = 8
    if family in WITH_MAPS and choose(False, True):
        options["pooling"] = "gem"
    if family in ("resnet", "efficientnet", "vit", "convnext") and choose(False, False, True):
        options["gradient_checkpointing"] = True
    arch = {"type": "TimmModelMulti", "args": {**BACKBONES.get(family, {}), **options}}
    if family == "baseline":
        arch = {"type": "BaselineCNN", "args": {"width": 4, **options}}
    optimizer = dict(choose(*OPTIMIZERS))
    optimizer |= choose({}, {"layer_decay": 0.8}, {"decay_norms_and_biases": False}, {"lookahead": {"k": 2}})
    optimizer |= choose({}, {}, {"sharpness_aware": {"adaptive": choose(False, True)}})
    everything = "mask" if heads_name == "mask only" else "answer"
    samplers = [
        None,
        None,
        {"type": "WeightedSampler", "args": {"by": everything, "weighting": choose("balanced", "sqrt", "effective")}},
        {"type": "RepeatSampler", "args": {"times": {"mask": {"incorrect": 2, "not_wear": 2}}}},
        {"type": "MPerClassSampler", "args": {"by": "mask", "images_per_class": 4}},
    ]
    attribute = {"age": choose({}, {"training_bins": [30, 58]}, {"training_bins": [20, 30, 40, 50, 60]})}
    partners = ("mask", "wear") if heads_name == "mask only" else ("age", ">=60")
    return {
        "labels": {"attributes": attribute, "heads": heads},
        "arch": arch,
        "loss": {
            "heads": {
                **{name: None for name in ("mask", "gender", "age") if name not in heads},
                **{name: _head_loss(stream) for name in heads},
            },
            "metric_learning": metric_learning,
            "head_weights": choose("fixed", "learned"),
        },
        "mixing": _mixing(stream, partners),
        "sampler": choose(*samplers),
        "freezing": choose(None, None, {"stages": "all"}, {"stages": 1, "epochs": 1}),
        "optimizer": optimizer,
        "lr_scheduler": choose(*SCHEDULES),
        "weight_averaging": choose(
            None,
            {"type": "ExponentialMovingAverage", "args": {"decay": 0.9}},
            {"type": "StochasticWeightAveraging", "args": {"from_epoch": 1}},
        ),
        "data_loader": {
            "args": {
                "batch_size": 16,
                "valid_batch_size": 16,
                "input_size": [32, 32],
                "num_workers": 0,
                "cache": choose("none", "memory", "disk"),
            }
        },
        "trainer": {
            "epochs": 2,
            "accumulation_steps": choose(1, 2),
            "max_grad_norm": choose(None, 1.0),
            "precision": choose("float32", "bfloat16"),
            "verbosity": 0,
            "tensorboard": False,
            "monitor": "min val/loss",
            "save_best": [],
        },
    }


def _head_loss(stream: np.random.Generator) -> dict[str, Any]:
    names = ("CrossEntropyLoss", "FocalLoss", "LabelSmoothingLoss", "F1Loss", "LDAMLoss", "OrdinalLoss")
    weights = (None, "balanced", "sqrt", "effective")[int(stream.integers(4))]
    name = names[int(stream.integers(len(names)))]
    return {"type": name, "args": {"class_weights": weights}, "weight": float(stream.uniform(0.2, 1.5))}


def _metric_learning(stream: np.random.Generator, head: str) -> dict[str, Any]:
    specs: list[dict[str, Any]] = [
        {"type": "TripletMarginLoss", "args": {"margin": 0.1}, "miner": {"type": "MultiSimilarityMiner"}},
        {"type": "ArcFaceLoss"},
        {"type": "SupConLoss", "args": {"temperature": 0.2}},
        {"type": "MarginLoss", "miner": {"type": "DistanceWeightedMiner"}},
    ]
    return {"alike": {**specs[int(stream.integers(len(specs)))], "head": head, "weight": 0.1}}


def _mixing(stream: np.random.Generator, partners: tuple[str, str]) -> list[dict[str, Any]]:
    cut: dict[str, Any] = {"batch_share": 0.5, "share_range": [0.5, 0.5], "region": "left_right"}
    cut["partners"] = {"attribute": partners[0], "class": partners[1]}
    choices: list[list[dict[str, Any]]] = [
        [],
        [{"type": "MixUp", "args": {"alpha": 0.4}}],
        [{"type": "CutMix", "args": cut}],
        [{"type": "CutMix", "args": {"batch_share": 0.5}}, {"type": "MixUp", "args": {"batch_share": 0.5}}],
    ]
    return choices[int(stream.integers(len(choices)))]


@pytest.fixture(scope="module")
def save_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all, in which the photographs are checked once."""
    return tmp_path_factory.mktemp("combinations") / "saved"


@pytest.mark.parametrize(
    "number",
    [
        *ORDINARY,
        *(pytest.param(number, marks=pytest.mark.long) for number in range(NUM_COMBINATIONS) if number not in ORDINARY),
    ],
)
def test_a_combination_trains_and_resumes(
    number: int, tmp_path: Path, save_dir: Path, drawn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {**combination(number), "name": f"Road{number}"}
    changes["trainer"]["save_dir"] = str(save_dir)
    config = write_config(tmp_path, drawn, **changes)
    whole = run(config)
    with monkeypatch.context() as patched:
        stop_after_updates(patched, 1)
        with pytest.raises(StopSignal):
            run(config)
    (stopped,) = [path for path in whole.parent.iterdir() if path != whole]
    resume(str(stopped))
    assert_same_end(whole, stopped)
