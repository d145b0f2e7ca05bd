"""Transforms: what a list may hold, and that chance depends on the key alone."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import albumentations
import numpy as np
import pytest

from data_loader.transforms import (
    AugmentationKey,
    Pipeline,
    TransformLists,
    build_transforms,
    eval_pipeline,
    transform_problems,
)

OWN = ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
RESIZE: dict[str, Any] = {"type": "Resize"}
DEFAULT_RECIPE: TransformLists = {
    "train": [
        RESIZE,
        {"type": "ShiftScaleRotate", "args": {"shift_limit": 0.1, "scale_limit": 0.1, "rotate_limit": 5}},
        {"type": "RandomBrightnessContrast", "args": {"brightness_limit": 0.2, "contrast_limit": 0.2}},
        {"type": "HorizontalFlip"},
        {"type": "CoarseDropout"},
        {"type": "Normalize"},
    ],
    "eval": [RESIZE, {"type": "Normalize"}],
}


def _image(height: int = 40, width: int = 30, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _train(specs: list[dict[str, Any]], size: int = 24) -> Pipeline:
    return build_transforms({"train": specs, "eval": [RESIZE]}, size, *OWN).train


def test_the_default_recipe_is_built_without_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        built = build_transforms(DEFAULT_RECIPE, [32, 24], *OWN)
        assert built.train(_image(), AugmentationKey(0, 0, 0)).shape == (32, 24, 3)
    assert not caplog.text
    assert built.preprocessing.image_hw == (32, 24)
    assert (built.preprocessing.mean, built.preprocessing.std) == OWN
    assert built.preprocessing.eval_transforms == [{"type": "Resize", "args": {"height": 32, "width": 24}}]
    expected = albumentations.Resize(32, 24)(image=_image())["image"]
    assert np.array_equal(eval_pipeline(built.preprocessing)(_image()), expected)
    assert np.array_equal(built.evaluation(_image()), expected)


def test_chance_depends_on_seed_epoch_and_index_alone() -> None:
    first, second = (build_transforms(DEFAULT_RECIPE, 24, *OWN).train for _ in range(2))
    key = AugmentationKey(1, 2, 3)
    expected = first(_image(), key)
    for other in (AugmentationKey(1, 2, 4), AugmentationKey(1, 3, 3), AugmentationKey(2, 2, 3)):
        assert not np.array_equal(first(_image(), other), expected)
    assert np.array_equal(first(_image(), key), expected)
    assert np.array_equal(second(_image(), key), expected)


def test_two_flips_in_one_recipe_are_uncorrelated() -> None:
    pipeline = _train([RESIZE, {"type": "HorizontalFlip"}, {"type": "VerticalFlip"}], 8)
    image = _image(8, 8)
    outcomes = {
        (mirror, upside): np.ascontiguousarray(image[:: -1 if upside else 1, :: -1 if mirror else 1]).tobytes()
        for mirror in (0, 1)
        for upside in (0, 1)
    }
    names = {value: key for key, value in outcomes.items()}
    flips = np.array([names[pipeline(image, AugmentationKey(0, 0, index)).tobytes()] for index in range(2000)])
    assert abs(np.corrcoef(flips.T)[0, 1]) < 0.08  # 3.5 standard errors
    assert np.all(abs(flips.mean(axis=0) - 0.5) < 0.04)
    next_epoch = np.array([names[pipeline(image, AugmentationKey(0, 1, index)).tobytes()] for index in range(2000)])
    assert abs(np.corrcoef(flips[:, 0], next_epoch[:, 0])[0, 1]) < 0.08


def test_normalize_leaves_the_list() -> None:
    args = {"mean": [0.548, 0.504, 0.479], "std": [0.237, 0.247, 0.246]}
    crop = {"type": "CenterCrop", "args": {"height": 400, "width": 200}}
    normalise = {"type": "Normalize", "args": args}
    lists: TransformLists = {
        "train": [crop, {"type": "RandomBrightnessContrast"}, normalise, {"type": "ToTensorV2"}],
        "eval": [crop, normalise],
    }
    built = build_transforms(lists, None, *OWN)
    assert built.preprocessing.image_hw == (400, 200)
    assert (list(built.preprocessing.mean), list(built.preprocessing.std)) == (args["mean"], args["std"])
    assert built.train(_image(512, 384), AugmentationKey(0, 0, 0)).dtype == np.uint8
    plain = build_transforms({"train": [RESIZE], "eval": [RESIZE, {"type": "Normalize"}]}, 8, *OWN)
    assert (plain.preprocessing.mean, plain.preprocessing.std) == OWN


def test_choices_may_hold_transforms() -> None:
    choice = {"type": "OneOf", "args": {"transforms": [{"type": "Blur"}, {"type": "ToGray"}], "p": 1.0}}
    pipeline = _train([RESIZE, choice])
    outputs = {pipeline(_image(), AugmentationKey(0, 0, index)).tobytes() for index in range(10)}
    assert len(outputs) > 1
    nested = {"type": "OneOf", "args": {"transforms": [{"type": "Blurr"}]}}
    (problem,) = transform_problems({"train": [RESIZE, nested], "eval": [RESIZE]}, 8)
    assert problem.key_path == ("train", 1, "args", "transforms", 0, "type")
    assert 'did you mean "Blur"' in problem.text


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"type": "HorizontalFlop"}, 'did you mean "HorizontalFlip"'),
        ({"type": "os.system"}, "known names"),
        ({"type": "Compose"}, "known names"),
        ({"type": "Lambda"}, "known names"),
        ({"type": "HorizontalFlip", "p": 1}, 'must be {"type": a transform\'s name, "args": {its arguments}}'),
        ({"args": {}}, 'must be {"type"'),
        ("Resize", 'must be {"type"'),
        ({"type": "Blur", "args": {"blur_limits": 3}}, "blur_limits is not an argument of Blur; did you"),
        ({"type": "RandomRotate90", "args": {"q": 1}}, ".args.q is not an argument"),
        ({"type": "HorizontalFlip", "args": {"p": 2}}, ".args.p = 2 must be a number of 0 to 1"),
        ({"type": "HorizontalFlip", "args": {"p": True}}, ".args.p = True must be a number of 0 to 1"),
        ({"type": "RandomBrightnessContrast", "args": {"brightness_limit": "x"}}, ".args.brightness_limit = 'x': "),
        ({"type": "CoarseDropout", "args": {"max_holes": 8}}, ".args.max_holes is not an argument"),
        ({"type": "LongestMaxSize"}, "Either max_size or max_size_hw must be specified"),
        ({"type": "RandomSizedCrop"}, ".args.min_max_height is missing"),
        ({"type": "ToFloat"}, "(ToFloat) does not give an RGB image of whole numbers 0 to 255"),
        ({"type": "MaskDropout"}, "(MaskDropout) cannot take an image of"),
        ({"type": "RandomScale"}, "does not end in one size"),
        ({"type": "RandomScale", "args": {"p": 1e-6}}, "does not end in one size"),
        ({"type": "ToFloat", "args": {"p": 1e-6}}, "(ToFloat) does not give an RGB image of whole numbers 0 to 255"),
        ({"type": "Blur", "args": {"blur_limit": 4}}, ".args.blur_limit = 4: Non-zero kernel sizes must be odd."),
        ({"type": "SomeOf", "args": {"transforms": [{"type": "Blur"}], "n": 2}}, "`n` is greater than number of"),
        ({"type": "SomeOf", "args": {"transforms": []}}, ".args.transforms = [] must be a list of transforms, at"),
        ({"type": "OneOf", "args": {"transforms": {"type": "Blur"}}}, "must be a list of transforms, at least one"),
    ],
)  # fmt: skip
def test_bad_transforms_are_told_before_training(spec: Any, expected: str) -> None:
    problems = transform_problems({"train": [RESIZE, spec], "eval": [RESIZE]}, 24)
    assert len(problems) == 1
    assert problems[0].key_path[0] == "train"
    assert expected in str(problems[0])


def test_the_argument_is_nearest_to_what_was_written() -> None:
    spec = {"type": "Resize", "args": {"heigth": 8}}
    assert 'did you mean "height"?' in transform_problems({"train": [spec], "eval": [RESIZE]}, 8)[0].text


def test_all_problems_come_together() -> None:
    lists: TransformLists = {"train": [{"type": "Normalize"}, RESIZE, {"type": "Blurr"}], "eval": [{"type": "Rezise"}]}
    problems = transform_problems(lists, 8)
    assert [problem.key_path for problem in problems] == [("train", 0), ("train", 2, "type"), ("eval", 0, "type")]
    assert "may only stand last" in problems[0].text


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ({"mean": [123.7, 116.3, 103.5], "std": [58.4, 57.1, 57.4]}, "in units of 0 to 1"),
        ({"mean": [0.5, 0.5, 0.5]}, "args.std = None must be three numbers"),
        ({"mean": [0.5], "std": [0.5]}, "must be three numbers"),
        ({"mean": 0.5, "std": 0}, "args.std = 0 must be three numbers"),
        ({"normalization": "image"}, "args.normalization = 'image' must be 'standard'"),
        ({"means": [0.5, 0.5, 0.5]}, 'did you mean "mean"?'),
        ({"p": 0.5}, "args.p = 0.5 must be 1"),
    ],
)
def test_bad_normalisation_is_told(args: dict[str, Any], expected: str) -> None:
    problems = transform_problems({"train": [RESIZE], "eval": [RESIZE, {"type": "Normalize", "args": args}]}, 8)
    assert any(expected in str(problem) for problem in problems)


def _in_choices(spec: dict[str, Any], kinds: tuple[str, ...]) -> dict[str, Any]:
    for kind in reversed(kinds):
        spec = {"type": kind, "args": {"transforms": [spec]}}
    return spec


@pytest.mark.parametrize("kinds", [("OneOf",), ("SomeOf",), ("Sequential",), ("RandomOrder", "OneOf", "Sequential")])
@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"type": "Blur", "args": {"blur_limits": 3}}, ".args.blur_limits is not an argument of Blur; did you mean"),
        ({"type": "Blur", "args": {"blur_limit": 4}}, ".args.blur_limit = 4: Non-zero kernel sizes must be odd."),
        ({"type": "Blur", "args": {"blur_limit": "3"}}, '.args.blur_limit = "3" is text; '),
        ({"type": "Blur", "args": {"p": True}}, ".args.p = true is a truth value"),
        ({"type": "Blur", "args": {"p": 2}}, ".args.p = 2 must be a number of 0 to 1"),
        ({"type": "GaussNoise", "args": {"std_range": [0.1, 5]}}, ".args.std_range = [0.1, 5]: Value error, All"),
        ({"type": "Blurr"}, '.type = "Blurr" is not one of the'),
        ({"type": "Blur", "p": 1}, "must be {\"type\": a transform's name"),
        ({"type": "Normalize", "args": {"p": 1e-6}}, " (Normalize) may only stand last"),
        ({"type": "ToTensorV2"}, " (ToTensorV2) may only stand last"),
    ],
)  # fmt: skip
def test_transforms_inside_others_are_checked_alike(
    kinds: tuple[str, ...], spec: dict[str, Any], expected: str
) -> None:
    (problem,) = transform_problems({"train": [RESIZE, _in_choices(spec, kinds), RESIZE], "eval": [RESIZE]}, 8)
    inside = ("train", 1, *("args", "transforms", 0) * len(kinds))
    assert problem.key_path[: len(inside)] == inside
    assert expected in str(problem)


def test_what_albumentations_says_of_a_class_is_no_problem(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        _train([RESIZE, {"type": "ShiftScaleRotate"}, {"type": "TimeReverse"}])
    assert [record.getMessage().split(": ")[:2] for record in caplog.records] == [["train.2", "TimeReverse"]]


def test_both_lists_agree_in_size_and_normalisation() -> None:
    small, large = ({"type": "Resize", "args": {"height": side, "width": side}} for side in (8, 9))
    normalise = {"type": "Normalize", "args": {"mean": 0.5, "std": 0.5}}
    assert "end both in the same size" in transform_problems({"train": [small], "eval": [large]}, None)[0].text
    assert "input_size = 8; change one" in transform_problems({"train": [small], "eval": [large]}, 8)[0].text
    assert "the same Normalize" in transform_problems({"train": [small, normalise], "eval": [small]}, 8)[0].text
    lacking = transform_problems({"train": [RESIZE], "eval": [small]}, None)[0]
    assert lacking.key_path == ("train", 0, "args", "height")
    assert "data_loader.args.input_size" in lacking.text


@pytest.mark.parametrize(
    "spec",
    [
        {"type": "HorizontalFlip"},
        {"type": "RandomRotate90", "args": {"p": 1}},
        {"type": "CLAHE", "args": {"p": 1}},  # its result does not differ on noise, but its limit does
        {"type": "RandomGamma", "args": {"p": 1}},
        {"type": "PadIfNeeded", "args": {"min_height": 9, "min_width": 9, "position": "random"}},
        {"type": "OneOf", "args": {"transforms": [{"type": "ToGray"}, {"type": "ToSepia"}], "p": 1}},
    ],
)
def test_validation_images_are_never_augmented(spec: dict[str, Any]) -> None:
    problems = transform_problems({"train": [RESIZE], "eval": [RESIZE, spec, RESIZE]}, 8)
    assert len(problems) == 1
    assert problems[0].key_path == ("eval", 1)
    assert f"({spec['type']}) is random" in problems[0].text


@pytest.mark.parametrize(
    "spec",
    [
        {"type": "HorizontalFlip", "args": {"p": 1}},
        {"type": "CLAHE", "args": {"clip_limit": [2, 2], "p": 1}},
        {"type": "PadIfNeeded", "args": {"min_height": 9, "min_width": 9}},
        {"type": "ToGray", "args": {"p": 1}},
        {"type": "ImageCompression", "args": {"quality_range": [90, 90], "p": 1}},
    ],
)
def test_deterministic_transforms_may_prepare_validation_images(spec: dict[str, Any]) -> None:
    assert transform_problems({"train": [RESIZE], "eval": [RESIZE, spec, RESIZE]}, 8) == []
