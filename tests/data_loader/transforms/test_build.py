"""Transforms: what a list may hold, and that chance depends on the key alone."""

from __future__ import annotations

import logging
import warnings
from typing import Any, ClassVar

import albumentations
import numpy as np
import pytest

from data_loader.preparation.preparation import Preparation
from data_loader.transforms import (
    AugmentationKey,
    Pipeline,
    TransformLists,
    build_transforms,
    eval_pipeline,
    transform_problems,
)
from experiment.schema import SECTIONS
from utils.errors import Problem

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


def _problems(lists: TransformLists, input_size: int | None = 8) -> list[Problem]:
    """What a config with these lists is refused for: by its schema, or else by what is tried."""
    return SECTIONS.part("transforms").problems(lists, ()) or transform_problems(lists, input_size)


def _one_of(*specs: dict[str, Any]) -> dict[str, Any]:
    return {"type": "OneOf", "args": {"transforms": [*specs], "p": 1.0}}


def test_choices_may_hold_transforms() -> None:
    pipeline = _train([RESIZE, _one_of({"type": "Blur"}, {"type": "ToGray"})])
    assert len({pipeline(_image(), AugmentationKey(0, 0, index)).tobytes() for index in range(10)}) > 1
    crops = _train([_one_of({"type": "CenterCrop"}, {"type": "RandomCrop"})])  # which are given the input size
    assert crops(_image(), AugmentationKey(0, 0, 0)).shape == (24, 24, 3)


BAD_TRANSFORMS: list[tuple[Any, tuple[Any, ...], str]] = [
    ({"type": "HorizontalFlop"}, ("type",), "HorizontalFlip"),
    ({"type": "os.system"}, ("type",), "known names"),
    ({"type": "Compose"}, ("type",), "known names"),
    ({"type": "Lambda"}, ("type",), "known names"),
    ({"type": "HorizontalFlip", "p": 1}, ("p",), "known: type, args"),
    ({"args": {}}, ("type",), "missing"),
    ("Resize", (), "text"),
    ({"type": "Blur", "args": {"blur_limits": 3}}, ("args", "blur_limits"), "blur_limit"),
    ({"type": "Blur", "args": {"blur_limit": 4}}, ("args", "blur_limit"), "4"),
    ({"type": "Blur", "args": {"blur_limit": "3"}}, ("args", "blur_limit"), "text"),
    ({"type": "HorizontalFlip", "args": {"p": 2}}, ("args", "p"), "1"),
    ({"type": "HorizontalFlip", "args": {"p": True}}, ("args", "p"), "truth value"),
    ({"type": "GaussNoise", "args": {"std_range": [0.1, 5]}}, ("args", "std_range"), "[0.1, 5]"),
    ({"type": "CoarseDropout", "args": {"max_holes": 8}}, ("args", "max_holes"), "num_holes_range"),
    ({"type": "RandomSizedCrop"}, ("args", "min_max_height"), "missing"),
    ({"type": "OneOf", "args": {"transforms": [{"type": "ToGray"}], "p": 2}}, ("args", "p"), "1"),
    ({"type": "SomeOf", "args": {"transforms": [], "n": 1}}, ("args", "transforms"), "at least one"),
    ({"type": "OneOf", "args": {"transforms": {"type": "Blur"}}}, ("args", "transforms"), "list"),
    ({"type": "Normalize", "args": {"p": 1e-6}}, (), "last"),
    ({"type": "ToTensorV2"}, (), "last"),
]


@pytest.mark.parametrize("outer", [(), ("OneOf",), ("RandomOrder", "OneOf", "Sequential")])
@pytest.mark.parametrize(("spec", "key_path", "expected"), BAD_TRANSFORMS)
def test_bad_transforms_are_refused_wherever_they_are(
    outer: tuple[str, ...], spec: Any, key_path: tuple[Any, ...], expected: str
) -> None:
    for name in reversed(outer):
        spec = {"type": name, "args": {"transforms": [spec]}}
    problem = _problems({"train": [RESIZE, spec, RESIZE], "eval": [RESIZE]})[0]
    assert problem.key_path == ("train", 1, *("args", "transforms", 0) * len(outer), *key_path)
    assert expected in str(problem)


@pytest.mark.parametrize(
    ("spec", "key_path", "expected"),
    [
        ({"type": "LongestMaxSize"}, (1, "args"), "max_size"),
        ({"type": "SomeOf", "args": {"transforms": [{"type": "Blur"}], "n": 2}}, (1,), "`n`"),
        ({"type": "ToFloat", "args": {"p": 1e-6}}, (1,), "RGB"),
        ({"type": "MaskDropout"}, (1,), "cannot take an image"),
        ({"type": "RandomScale", "args": {"p": 1e-6}}, (), "one size"),
    ],
)
def test_what_only_a_trial_shows_is_refused(spec: Any, key_path: tuple[Any, ...], expected: str) -> None:
    (problem,) = _problems({"train": [RESIZE, spec], "eval": [RESIZE]})
    assert problem.key_path == ("train", *key_path)
    assert expected in str(problem)


def test_all_problems_come_together() -> None:
    lists: TransformLists = {
        "train": [{"type": "Normalize"}, RESIZE, {"type": "ToFloat", "args": {"p": 3}}],
        "eval": [],
    }
    assert [each.key_path for each in _problems(lists)] == [("train", 0), ("train", 2, "args", "p")]


@pytest.mark.parametrize(
    ("args", "argument"),
    [
        ({"mean": [123.7, 116.3, 103.5], "std": [58.4, 57.1, 57.4]}, "mean"),
        ({"mean": [0.5, 0.5, 0.5]}, "std"),
        ({"mean": [0.5], "std": [0.5]}, "mean"),
        ({"mean": 0.5, "std": 0}, "std"),
        ({"normalization": "image"}, "normalization"),
        ({"means": [0.5, 0.5, 0.5]}, "means"),
        ({"p": 0.5}, "p"),
    ],
)
def test_bad_normalisation_is_refused(args: dict[str, Any], argument: str) -> None:
    problems = _problems({"train": [RESIZE], "eval": [RESIZE, {"type": "Normalize", "args": args}]})
    assert problems[0].key_path == ("eval", 1, "args", argument)


def test_warnings_about_a_class_as_such_are_no_problem() -> None:
    _train([RESIZE, {"type": "ShiftScaleRotate"}, {"type": "TimeReverse"}])


def test_both_lists_agree_in_size_and_normalisation() -> None:
    small, large = ({"type": "Resize", "args": {"height": side, "width": side}} for side in (8, 9))
    normalise = {"type": "Normalize", "args": {"mean": 0.5, "std": 0.5}}
    cases: list[tuple[list[Any], list[Any], int | None, tuple[Any, ...], str]] = [
        ([small], [large], None, ("train",), "8 x 8"),
        ([small], [large], 8, ("eval",), "input_size = 8"),
        ([small, normalise], [small], 8, ("train",), "Normalize"),
        ([RESIZE], [small], None, ("train", 0, "args", "height"), "data_loader.args.input_size"),
    ]
    for train, evaluation, input_size, key_path, expected in cases:
        problem = _problems({"train": train, "eval": evaluation}, input_size)[0]
        assert problem.key_path == key_path
        assert expected in problem.text


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
    assert "is random" in problems[0].text


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


def test_a_preparation_is_the_first_step_of_both_lists() -> None:
    """Also where nothing else of a list is deterministic; without one the key is as it always was."""

    class Left:
        key: ClassVar[str] = "left"
        preparation = Preparation([])

        def __call__(self, image: np.ndarray, name: str, bits: int) -> np.ndarray:
            assert (name, bits) == ("a photograph", 12)
            return image[:, : image.shape[1] // 2].copy()

    left: Any = Left()
    image, key = _image(), AugmentationKey(1, 2, 3)
    resize: dict[str, Any] = {"type": "Resize", "args": {"height": 8, "width": 8}}
    random: dict[str, Any] = {"type": "RandomCrop", "args": {"height": 8, "width": 8}}
    for train, count in (([random], 0), ([resize, {"type": "HorizontalFlip"}], 1)):
        lists: TransformLists = {"train": train, "eval": [resize]}
        made, plain = (build_transforms(lists, None, *OWN, 12, each) for each in (left, None))
        assert len(made.train.prefix.transforms) == count
        for pipeline, without in ((made.train, plain.train), (made.evaluation, plain.evaluation)):
            cut = image[:, : image.shape[1] // 2].copy()
            np.testing.assert_array_equal(pipeline(image, key, "a photograph"), without(cut, key))
            assert pipeline.prefix.key == {**without.prefix.key, "preparation": "left"}
            assert without.prefix.key.keys() == {"transforms", "bits_used_of_16"}
