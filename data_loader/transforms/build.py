"""From the two lists of a config to pipelines: albumentations by name, checked before the first image is read."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import albumentations
from pydantic import ValidationError

from base.preprocessing import Preprocessing
from data_loader.transforms.pipeline import Pipeline
from data_loader.transforms.trials import check_deterministic, count_deterministic, final_size
from utils.config.signatures import check_arguments
from utils.errors import ConfigError
from utils.wording import did_you_mean, first_line, not_one_of

logger = logging.getLogger(__name__)

TransformSpec = dict[str, Any]
"""{"type": a class of albumentations, "args": {...}}."""

_NOT_BY_NAME = {"Compose", "ReplayCompose", "Lambda", "DualTransform", "ImageOnlyTransform", "ToTensor3D"}
TRANSFORMS: dict[str, type] = {
    name: found
    for name, found in sorted(vars(albumentations).items())
    if inspect.isclass(found)
    and issubclass(found, albumentations.BasicTransform | albumentations.BaseCompose)
    and not issubclass(found, albumentations.Transform3D)
    and found not in (albumentations.BasicTransform, albumentations.BaseCompose)
    and name not in _NOT_BY_NAME
}


_ADVICE = ("is a special case of", "is a specialized version of", "is an alias for", "is very slow")
"""What albumentations says of classes as such; its other warnings are of arguments that it changes as it likes."""


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
) -> Transforms:
    """Builds and tries both lists.

    A required height, width or size that a transform is not given is `input_size` (pixels, or [height, width]); both
    lists must end in that size. Normalize may only stand last (a ToTensorV2 behind it changes nothing): it is left to
    the device. `mean` and `std` are the backbone's own, for a Normalize without them or none at all.

    Raises ConfigError with all problems, a line each.
    """
    problems: list[str] = []
    image_hw: tuple[int, int] | None = None
    if input_size is not None:
        image_hw = (input_size, input_size) if isinstance(input_size, int) else (input_size[0], input_size[1])
    own = (tuple(mean), tuple(std))
    train_specs, train_normalise = _without_normalise("transforms.train", lists["train"], own, problems)
    eval_specs, eval_normalise = _without_normalise("transforms.eval", lists["eval"], own, problems)
    train = _build("transforms.train", train_specs, image_hw, problems)
    evaluation = _build("transforms.eval", eval_specs, image_hw, problems)
    if problems:
        raise ConfigError("\n".join(problems))
    if train_normalise != eval_normalise:
        problems.append(
            f"transforms.train normalises with mean, std = {train_normalise}, transforms.eval with {eval_normalise}; "
            f"give both the same Normalize"
        )
    check_deterministic("transforms.eval", evaluation, problems)
    train_hw = final_size("transforms.train", train, problems)
    eval_hw = final_size("transforms.eval", evaluation, problems)
    for place, size in (("transforms.train", train_hw), ("transforms.eval", eval_hw)):
        if size and image_hw and size != image_hw:
            problems.append(
                f"{place} ends in {size[0]} x {size[1]} pixels, but data_loader.args.input_size = {input_size}; "
                f"change one of them, or set input_size to null"
            )
    if train_hw and eval_hw and not image_hw and train_hw != eval_hw:
        problems.append(
            f"transforms.train ends in {train_hw[0]} x {train_hw[1]} pixels, transforms.eval in {eval_hw[0]} x "
            f"{eval_hw[1]}; end both in the same size"
        )
    if problems or not train_hw or not eval_hw:
        raise ConfigError("\n".join(problems))
    plain_specs = [_completed(spec, image_hw) for spec in eval_specs]
    mean_rgb, std_rgb = eval_normalise
    preprocessing = Preprocessing(eval_hw, mean_rgb, std_rgb, plain_specs)
    num_deterministic = count_deterministic(train)
    prefix_hw = final_size("", train[:num_deterministic], []) if num_deterministic else None
    train_pipeline = Pipeline(
        train, [_completed(spec, image_hw) for spec in train_specs], train_hw, num_deterministic, prefix_hw
    )
    return Transforms(train_pipeline, _without_chance(evaluation, plain_specs, eval_hw), preprocessing)


def eval_pipeline(preprocessing: Preprocessing) -> Pipeline:
    """The deterministic steps of a checkpoint's preprocessing."""
    problems: list[str] = []
    transforms = _build("preprocessing.eval_transforms", preprocessing.eval_transforms, None, problems)
    if problems:
        raise ConfigError("\n".join(problems))
    return _without_chance(transforms, preprocessing.eval_transforms, preprocessing.image_hw)


def _without_chance(transforms: Sequence[Any], specs: Sequence[TransformSpec], image_hw: tuple[int, int]) -> Pipeline:
    return Pipeline(transforms, specs, image_hw, len(transforms), image_hw)


def transform_problems(lists: TransformLists, input_size: int | Sequence[int] | None) -> list[str]:
    """All that is wrong with the two lists, a line each; none if they can be used."""
    unlike_any = (-1.0, -1.0, -1.0)  # the backbone's own is not known yet, and no config can give this
    try:
        build_transforms(lists, input_size, unlike_any, unlike_any)
    except ConfigError as error:
        return str(error).split("\n")
    return []


def _type(spec: Any) -> Any:
    return spec.get("type") if isinstance(spec, dict) else None


def _without_normalise(
    place: str, specs: Sequence[TransformSpec], own: tuple[Any, Any], problems: list[str]
) -> tuple[list[TransformSpec], tuple[Any, Any]]:
    """The list without its trailing Normalize and ToTensorV2, and the mean and std to normalise with."""
    kept, statistics = list(specs), own
    if kept and _type(kept[-1]) == "ToTensorV2":
        kept.pop()
    if kept and _type(kept[-1]) == "Normalize":
        statistics = _statistics(f"{place}[{len(kept) - 1}].args", kept.pop().get("args", {}), own, problems)
    for here, spec in _with_inner_specs(place, kept):
        if _type(spec) in ("Normalize", "ToTensorV2"):
            problems.append(f"{here}: {_type(spec)} may only stand last (it is done on the device)")
    return kept, statistics


def _with_inner_specs(place: str, specs: Sequence[TransformSpec]) -> Iterator[tuple[str, TransformSpec]]:
    """All specs and those in the args of choices such as OneOf, each with its place."""
    for number, spec in enumerate(specs):
        here = f"{place}[{number}]"
        yield here, spec
        args = spec.get("args") if isinstance(spec, dict) else None
        inner = args.get("transforms") if isinstance(args, dict) else None
        if isinstance(inner, list):
            yield from _with_inner_specs(f"{here}.args.transforms", inner)


def _statistics(place: str, args: dict[str, Any], own: tuple[Any, Any], problems: list[str]) -> tuple[Any, Any]:
    """The (mean, std) that a Normalize asks for: three numbers each, of a range 0 to 1."""
    allowed: dict[str, Any] = {"normalization": "standard", "max_pixel_value": 255, "p": 1, "mean": None, "std": None}
    for name, value in args.items():
        if name not in allowed:
            problems.append(f"{place}.{name} {not_one_of(name, allowed)}")
        elif allowed[name] is not None and value != allowed[name]:
            problems.append(f"{place}.{name} = {value!r} must be {allowed[name]!r}, which it is anyway")
    if args.get("mean") is None and args.get("std") is None:
        return own
    found = []
    for name, lowest in (("mean", 0.0), ("std", 1e-6)):
        value = args.get(name)
        values = tuple(value) if isinstance(value, list | tuple) else (value,) * 3
        right = all(isinstance(number, int | float) and lowest <= number <= 1 for number in values)
        if len(values) != 3 or not right:
            problems.append(f"{place}.{name} = {value!r} must be three numbers, in units of 0 to 1; give mean and std")
        found.append(values)
    return found[0], found[1]


def _completed(spec: TransformSpec, image_hw: tuple[int, int] | None) -> TransformSpec:
    """The spec with `image_hw` for a required height, width or size that it does not give."""
    args = dict(spec.get("args", {}))
    if image_hw:
        sizes = {"height": image_hw[0], "width": image_hw[1], "size": list(image_hw)}
        for name, parameter in inspect.signature(TRANSFORMS[spec["type"]]).parameters.items():
            if name in sizes and parameter.default is parameter.empty:
                args.setdefault(name, sizes[name])
    return {"type": spec["type"], "args": args}


def _build(
    place: str,
    specs: Sequence[TransformSpec],
    image_hw: tuple[int, int] | None,
    problems: list[str],
    nested: bool = False,
) -> list[Any]:
    """The transforms; a line in `problems` for each that cannot be made.

    nested: they stand inside another's args, where the config's own checks of types and ranges do not look."""
    transforms = []
    for number, spec in enumerate(specs):
        here = f"{place}[{number}]"
        if (
            not isinstance(_type(spec), str)
            or not isinstance(spec.get("args", {}), dict)
            or spec.keys() - {"type", "args"}
        ):
            problems.append(f'{here} = {spec} must be {{"type": a transform\'s name, "args": {{its arguments}}}}')
        elif spec["type"] not in TRANSFORMS:
            problems.append(f'{here}.type = "{spec["type"]}" {not_one_of(spec["type"], TRANSFORMS)}')
        else:
            completed = _completed(spec, image_hw)
            wrong = check_arguments(TRANSFORMS[spec["type"]], completed["args"], f"{here}.args") if nested else []
            problems += wrong
            transforms += [] if wrong else _build_one(here, completed, image_hw, problems)
    return transforms


def _build_one(place: str, spec: TransformSpec, image_hw: tuple[int, int] | None, problems: list[str]) -> list[Any]:
    """One transform in a list, or an empty list and its problems."""
    kind, args = TRANSFORMS[spec["type"]], spec["args"]
    parameters = inspect.signature(kind).parameters
    before = len(problems)
    for name in args:
        if name not in parameters:
            problems.append(
                f"{place}.args.{name}: {spec['type']} has no such argument (it has {', '.join(parameters)})"
                f"{did_you_mean(name, parameters)}"
            )
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in args:
            hint = " (or set data_loader.args.input_size)" if name in ("height", "width", "size") else ""
            problems.append(f"{place}.args: {spec['type']} needs {name}{hint}")
    chance = args.get("p", 1)
    if isinstance(chance, bool) or not isinstance(chance, int | float) or not 0 <= chance <= 1:
        problems.append(f"{place}.args.p = {chance!r} must be a number of 0 to 1")
    if "transforms" in parameters and "transforms" in args:
        inner = args["transforms"]
        if not isinstance(inner, list) or not inner:
            problems.append(f"{place}.args.transforms = {inner!r} must be a list of transforms, at least one")
        else:
            args = {**args, "transforms": _build(f"{place}.args.transforms", inner, image_hw, problems, nested=True)}
    if len(problems) > before:
        return []
    # albumentations only warns of some wrong values, and takes its defaults; `strict` makes them errors
    maker = next(parent for parent in kind.__mro__ if "__init__" in vars(parent))
    strict = {"strict": True} if "InitSchema" in vars(maker) else {}
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            transform = kind(**args, **strict)
    except Exception as error:
        wrong: dict[str, list[str]] = {}
        for part in error.__cause__.errors() if isinstance(error.__cause__, ValidationError) else []:
            if part["loc"]:
                name = str(part["loc"][0])
                wrong.setdefault(f"{place}.args.{name} = {args.get(name)!r}", []).append(part["msg"])
            else:
                wrong.setdefault(f"{place}: {spec['type']}", []).append(part["msg"])
        if not wrong:
            wrong[f"{place}: {spec['type']} cannot be made of {spec['args']}"] = [first_line(error)]
        problems += [f"{where}: {' / '.join(dict.fromkeys(messages))}" for where, messages in wrong.items()]
        return []
    advice = [str(warning.message) for warning in caught]
    for message in advice:
        if not any(phrase in message for phrase in _ADVICE):
            name, _, reason = message.partition(": ")
            where = f"{place}.args.{name} = {args[name]!r}" if name in args else f"{place}: {spec['type']}"
            problems.append(f"{where}: {reason if name in args else message}")
        elif "is a special case of" not in message:  # ShiftScaleRotate, each time
            logger.warning("%s: %s: %s", place, spec["type"], message)
    return [transform]
