"""Images/s from evaluation files to a CSV, for M models and T variants of an image, beside the forward passes alone."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import test as evaluation
from benchmarks.speed.measuring import Figure, Row, Target, interleaved, ratios, seconds_of
from benchmarks.speed.synthetic import synthetic_batches, synthetic_config, synthetic_trainer
from benchmarks.speed.workplace import Workplace
from data_loader.data_loaders import TTALoader
from data_loader.records.records import Record
from data_loader.records.sources import read_evaluation_folder
from inference.predictor import Predictor, predict
from inference.tta import PRESETS

MODELS = ("resnet10t", "efficientnet_b0")
TTA = "flip"
BATCH_SIZE = 32
DECODING, CACHED = "prediction, without a cache", "prediction, from the cache on disk"


def measure(workplace: Workplace) -> Row:
    checkpoints = [untrained_checkpoint(workplace, model_name, "disk") for model_name in MODELS]
    predictors = loaded(workplace, checkpoints)
    without_cache = loaded(workplace, [untrained_checkpoint(workplace, model_name, "none") for model_name in MODELS])
    records = read_evaluation_folder(workplace.data / "eval")
    forward = ForwardPasses(predictors, records)
    command = [
        "--resume", *map(str, checkpoints), "--views", TTA, "--info-dir", str(workplace.data / "eval"),
        "--bs", str(BATCH_SIZE), "--output", str(workplace.folder / "answers.csv"), "--device", str(workplace.device),
    ]  # fmt: skip
    values = interleaved(
        {
            DECODING: lambda: len(records) / seconds_of(lambda: predict(without_cache, records, BATCH_SIZE)),
            CACHED: lambda: len(records) / seconds_of(lambda: predict(predictors, records, BATCH_SIZE)),
            "forward passes alone": lambda: len(records) / seconds_of(forward),
            "test.py, from start to CSV": lambda: len(records) / seconds_of(lambda: quietly(command)),
        },
        workplace.scale.rounds,
    )
    figures = [Figure(name, "images/s", each) for name, each in values.items()]
    for name in (DECODING, CACHED):
        share = ratios(values[name], values["forward passes alone"])
        figures.append(Figure(f"{name} / forward passes alone", "x", share, Target(0.9, 0.9)))
    return Row(
        "Evaluation to CSV",
        figures,
        {
            "models": MODELS,
            "views": list(PRESETS[TTA]),
            "side": workplace.scale.side,
            "batch_size": BATCH_SIZE,
            "images": len(records),
            "device": workplace.device.type,
        },
        [
            "an image counts once, however many models and variants (test-time augmentation) there are",
            "without a cache each file is decoded once for all models and variants; the cache is built in the round "
            "that is not counted; the forward passes have their uint8 images in memory; test.py, with the cache, also "
            "reads the checkpoints, checks the files and writes the CSV",
        ],
    )


class ForwardPasses:
    """The models on prepared images: every variant of every image through its model, in the model's precision."""

    def __init__(self, predictors: list[Predictor], records: list[Record]) -> None:
        self.predictors = predictors
        pipelines = [pipeline for predictor in predictors for pipeline in predictor.pipelines]
        self.batches = [list(variants.images) for variants in TTALoader(records, pipelines, BATCH_SIZE)]

    def __call__(self) -> None:
        with torch.inference_mode():
            for variants in self.batches:
                of_model = iter(variants)
                for predictor in self.predictors:
                    for _ in predictor.pipelines:
                        forward(predictor, next(of_model))
        if torch.cuda.is_available():
            torch.cuda.synchronize()


def quietly(command: list[str]) -> None:
    """test.py without its output."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.main(command)


def forward(predictor: Predictor, images: torch.Tensor) -> Any:
    return predictor.model(
        predictor.preprocessing.normalise(images.to(predictor.device), memory_format=torch.channels_last)
    )


def loaded(workplace: Workplace, checkpoints: Sequence[Path]) -> list[Predictor]:
    return [Predictor.from_checkpoint(path, workplace.device, PRESETS[TTA]) for path in checkpoints]


def untrained_checkpoint(workplace: Workplace, model_name: str, cache: str) -> Path:
    """The checkpoint of a run with that cache, before its first update."""
    side, device = workplace.scale.side, torch.device("cpu")
    config = synthetic_config(workplace, model_name, side, cache=cache)
    batches = synthetic_batches(workplace.labels, 1, 1, side)
    trainer = synthetic_trainer(workplace, config, batches, 1, device, write_checkpoints=True)
    trainer.save()
    trainer.trackers.close(0)
    return trainer.checkpoints.folder / "last.pth"
