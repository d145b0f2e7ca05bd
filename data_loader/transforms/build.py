"""From the two lists of a config to pipelines: albumentations by name, checked before the first image is read.

The config's schema has checked names and arguments against signatures, also inside OneOf and its like (see TypedSection
in utils/config/sections.py); what only albumentations or a trial can find is checked here."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import albumentations

from base.preprocessing import Preprocessing
from data_loader.preparation.prepared_images import PreparedImages
from data_loader.transforms.pipeline import DeterministicPrefix, Pipeline
from data_loader.transforms.trials import check_deterministic, check_reproducible, count_deterministic, final_size
from utils.config.json_text import arguments_of
from utils.config.plugins import Names, subclasses
from utils.config.signatures import constructor_problems
from utils.errors import InvalidConfig, KeyPath, Problem
from utils.images import BitsUsed
from utils.wording import format_value, not_one_of

TransformSpec = dict[str, Any]
"""{"type": a class of albumentations or of a plug-in, "args": {...}}."""

_EXCLUDED = {"Compose", "ReplayCompose", "Lambda", "DualTransform", "ImageOnlyTransform", "ToTensor3D"}
_BASES = (albumentations.BasicTransform, albumentations.BaseCompose)
TRANSFORMS: Mapping[str, Any] = Names(
    {
        name: found
        for name, found in sorted(vars(albumentations).items())
        if inspect.isclass(found)
        and issubclass(found, _BASES)
        and not issubclass(found, albumentations.Transform3D)
        and found not in _BASES
        and name not in _EXCLUDED
    },
    "a transform of albumentations, such as a subclass of ImageOnlyTransform",
    subclasses(*_BASES),
)

_ADVICE = ("is a special case of", "is a specialized version of", "is an alias for", "is very slow")
"""Warnings of albumentations about a class as such; all others are about arguments that it does not use as given."""

_INPUT_SIZE_ARGUMENTS = ("height", "width", "size")


class TransformLists(TypedDict):
    """The section `transforms`: what happens to training images, and to all others."""

    train: list[TransformSpec]
    eval: list[TransformSpec]


@dataclass(frozen=True)
class Transforms:
    """What the two lists of a config become."""

    train: Pipeline
    evaluation: Pipeline
    preprocessing: Preprocessing


def build_transforms(
    lists: TransformLists,
    input_size: int | Sequence[int] | None,
    mean: Sequence[float],
    std: Sequence[float],
    bits_used_of_16: BitsUsed = 16,
    preparation: PreparedImages | None = None,
) -> Transforms:
    """Builds and tries both lists.

    lists: train and eval. Normalize may only be last (a ToTensorV2 behind it changes nothing): it is done on the device
    input_size: pixels, or [height, width]: a required height, width or size that a transform is not given; both lists
        must end in that size
    mean, std: of the backbone, by channel, for a Normalize without them or none at all
    bits_used_of_16: as which 16-bit images are decoded
    preparation: comes before both lists

    Raises InvalidConfig with all problems, their key paths relative to the two lists.
    """
    problems: list[Problem] = []
    image_hw = None if input_size is None else size_hw(input_size)
    specs: dict[str, list[TransformSpec]] = {}
    statistics: dict[str, tuple[Any, Any]] = {}
    for side in ("train", "eval"):
        kept, statistics[side] = _without_normalise((side,), lists[side], (tuple(mean), tuple(std)), problems)
        specs[side] = [_with_size(spec, image_hw) for spec in kept]
    transforms = {side: _build((side,), specs[side], problems) for side in specs}
    if problems:
        raise InvalidConfig(problems)
    if statistics["train"] != statistics["eval"]:
        wrong = f"normalises with mean, std = {statistics['train']}, transforms.eval with {statistics['eval']}"
        problems.append(Problem(("train",), f"{wrong}; give both the same Normalize"))
    check_deterministic(("eval",), transforms["eval"], problems)
    check_reproducible(("train",), transforms["train"], problems)
    ends = {side: final_size((side,), transforms[side], problems) for side in transforms}
    expected = image_hw or ends["eval"]
    origin = f"data_loader.args.input_size = {input_size}" if image_hw else "the size in which transforms.eval ends"
    for side, hw in ends.items():
        if hw and expected and hw != expected:
            wrong = (
                f"ends in {hw[0]} x {hw[1]} pixels, not in {expected[0]} x {expected[1]}, {origin}; change one of them"
            )
            problems.append(Problem((side,), wrong))
    train_hw, eval_hw = ends["train"], ends["eval"]
    if problems or not train_hw or not eval_hw:
        raise InvalidConfig(problems)
    steps = [] if preparation is None else preparation.preparation.to_config()
    preprocessing = Preprocessing(eval_hw, *statistics["eval"], specs["eval"], bits_used_of_16, steps)
    num_deterministic = count_deterministic(transforms["train"])
    prefix_hw = final_size((), transforms["train"][:num_deterministic], []) if num_deterministic else None
    prefix = DeterministicPrefix(
        transforms["train"][:num_deterministic],
        specs["train"][:num_deterministic],
        prefix_hw,
        bits_used_of_16,
        preparation,
    )
    train = Pipeline(prefix, transforms["train"][num_deterministic:], train_hw)
    return Transforms(train, _deterministic(transforms["eval"], preprocessing, preparation), preprocessing)


def size_hw(input_size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width of a config's input_size."""
    return (input_size, input_size) if isinstance(input_size, int) else (input_size[0], input_size[1])


def eval_pipeline(preprocessing: Preprocessing, preparation: PreparedImages | None = None) -> Pipeline:
    """The deterministic steps of a checkpoint's preprocessing. Raises InvalidConfig, key paths inside its list.

    preparation: that of the preprocessing, built"""
    assert bool(preprocessing.preparation) == (preparation is not None), "a model sees pictures prepared as in training"
    problems: list[Problem] = []
    transforms = _build((), preprocessing.eval_transforms, problems)
    if problems:
        raise InvalidConfig(problems)
    return _deterministic(transforms, preprocessing, preparation)


def _deterministic(
    transforms: Sequence[Any], preprocessing: Preprocessing, preparation: PreparedImages | None
) -> Pipeline:
    image_hw, specs, bits = preprocessing.image_hw, preprocessing.eval_transforms, preprocessing.bits_used_of_16
    return Pipeline(DeterministicPrefix(transforms, specs, image_hw, bits, preparation), [], image_hw)


def transform_problems(lists: TransformLists, input_size: int | Sequence[int] | None) -> list[Problem]:
    """What is wrong with the two lists, which the config's schema accepts. Key paths are relative to the lists."""
    unlike_any = (-1.0, -1.0, -1.0)  # the backbone's own is not known yet, and no config can give this
    try:
        build_transforms(lists, input_size, unlike_any, unlike_any)
    except InvalidConfig as error:
        return error.problems
    return []


def _without_normalise(
    key_path: KeyPath, specs: Sequence[TransformSpec], own: tuple[Any, Any], problems: list[Problem]
) -> tuple[list[TransformSpec], tuple[Any, Any]]:
    """The list without its trailing Normalize and ToTensorV2, and the mean and std to normalise with."""
    kept, statistics = list(specs), own
    if kept and kept[-1]["type"] == "ToTensorV2":
        kept.pop()
    if kept and kept[-1]["type"] == "Normalize":
        statistics = _statistics((*key_path, len(kept) - 1, "args"), arguments_of(kept.pop()), own, problems)
    return kept, statistics


def _statistics(
    key_path: KeyPath, args: dict[str, Any], own: tuple[Any, Any], problems: list[Problem]
) -> tuple[Any, Any]:
    """The (mean, std) of a Normalize's arguments: three numbers each, in units of 0 to 1."""
    for name, required in {"normalization": "standard", "max_pixel_value": 255, "p": 1}.items():
        if args.get(name, required) != required:
            problems.append(
                Problem((*key_path, name), f"= {format_value(args[name])} must be {format_value(required)}")
            )
    if args.get("mean") is None and args.get("std") is None:
        return own
    found = []
    for name, lowest in (("mean", 0.0), ("std", 1e-6)):
        value = args.get(name)
        values = tuple(value) if isinstance(value, list | tuple) else (value,) * 3
        if len(values) != 3 or not all(isinstance(each, int | float) and lowest <= each <= 1 for each in values):
            wrong = f"= {format_value(value)} must be three numbers, in units of 0 to 1; give mean and std"
            problems.append(Problem((*key_path, name), wrong))
        found.append(values)
    return found[0], found[1]


def _with_size(spec: TransformSpec, image_hw: tuple[int, int] | None) -> TransformSpec:
    """The spec, and those inside it, with `image_hw` for a required height, width or size that is not given."""
    args = dict(arguments_of(spec))
    if image_hw:
        sizes = dict(zip(_INPUT_SIZE_ARGUMENTS, (*image_hw, list(image_hw)), strict=True))
        parameters = inspect.signature(TRANSFORMS[spec["type"]]).parameters
        required = {
            name for name in sizes if name in parameters and parameters[name].default is inspect.Parameter.empty
        }
        args = {**{name: sizes[name] for name in sizes if name in required}, **args}
    if isinstance(args.get("transforms"), list):
        args["transforms"] = [_with_size(inner, image_hw) for inner in args["transforms"]]
    return {"type": spec["type"], "args": args}


def _build(key_path: KeyPath, specs: Sequence[TransformSpec], problems: list[Problem]) -> list[Any]:
    """The transforms; a problem for each that cannot be made."""
    transforms = []
    for number, spec in enumerate(specs):
        here, name = (*key_path, number), str(spec.get("type"))
        if name not in TRANSFORMS:  # in a checkpoint that was changed by hand
            problems.append(Problem((*here, "type"), f'= "{name}" {not_one_of(name, TRANSFORMS)}'))
            continue
        if name in ("Normalize", "ToTensorV2"):
            problems.append(Problem(here, f"({name}) must be last: it is done on the device"))
            continue
        args, inside = dict(arguments_of(spec)), (*here, "args")
        parameters = inspect.signature(TRANSFORMS[name]).parameters
        before = len(problems)
        for argument, parameter in parameters.items():
            if parameter.default is parameter.empty and argument not in args:
                hint = " (or set data_loader.args.input_size)" if argument in _INPUT_SIZE_ARGUMENTS else ""
                problems.append(Problem((*inside, argument), f"is missing; {name} needs it{hint}"))
        if not 0 <= args.get("p", 1) <= 1:  # albumentations does not check that of OneOf and its like
            problems.append(Problem((*inside, "p"), f"= {format_value(args['p'])} must be 0 to 1"))
        if "transforms" in parameters and "transforms" in args:
            if not args["transforms"]:
                problems.append(Problem((*inside, "transforms"), "= [] must hold at least one transform"))
            args["transforms"] = _build((*inside, "transforms"), args["transforms"], problems)
        if len(problems) == before:
            transforms += _build_one(here, name, args, problems)
    return transforms


def _build_one(key_path: KeyPath, name: str, args: dict[str, Any], problems: list[Problem]) -> list[Any]:
    """The one transform, or an empty list and its problems."""
    # albumentations only warns of some wrong values and uses its defaults; `strict` makes them errors
    maker = next(parent for parent in TRANSFORMS[name].__mro__ if "__init__" in vars(parent))
    strict = {"strict": True} if "InitSchema" in vars(maker) else {}
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            transform = TRANSFORMS[name](**args, **strict)
    except Exception as error:
        problems += constructor_problems(TRANSFORMS[name], args, (*key_path, "args"), error)
        return []
    for message in (str(warning.message) for warning in caught):
        if not any(advice in message for advice in _ADVICE):
            argument = message.partition(": ")[0]
            inside = (*key_path, "args", argument) if argument in args else key_path
            problems.append(Problem(inside, f"= {format_value(args.get(argument, name))}: {message}"))
    return [transform]
