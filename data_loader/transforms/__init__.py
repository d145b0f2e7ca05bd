"""Transforms: albumentations by name in a config, tried before the first image is read, run fast, random by key."""

import os

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # before its import: it would ask the network for a newer version

# isort: split
from data_loader.transforms.build import (
    TRANSFORMS,
    TransformLists,
    TransformSpec,
    build_transforms,
    eval_pipeline,
    size_hw,
    transform_problems,
)
from data_loader.transforms.pipeline import AugmentationKey, DeterministicPrefix, Pipeline

__all__ = [
    "TRANSFORMS",
    "AugmentationKey",
    "DeterministicPrefix",
    "Pipeline",
    "TransformLists",
    "TransformSpec",
    "build_transforms",
    "eval_pipeline",
    "size_hw",
    "transform_problems",
]
