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
from utils.config.signatures import argument_problems
from utils.errors import InvalidConfig, KeyPath, Problem, dotted
from utils.images import BitsUsed
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
    bits_used_of_16: BitsUsed = 16,
) -> Transforms:
    """Builds and tries both lists.

    A required height, width or size that a transform is not given is `input_size` (pixels, or [height, width]); both
    lists must end in that size. Normalize may only stand last (a ToTensorV2 behind it changes nothing): it is left to
    the device. `mean` and `std` are the backbone's own, for a Normalize without them or none at all. `bits_used_of_16`
    goes with them: as which 16-bit images are decoded.

    Raises InvalidConfig with all problems, their key paths relative to the two lists.
    """
    problems: list[Problem] = []
    image_hw: tuple[int, int] | None = None
    if input_size is not None:
        image_hw = (input_size, input_size) if isinstance(input_size, int) else (input_size[0], input_size[1])
    own = (tuple(mean), tuple(std))
    train_specs, train_normalise = _without_normalise(("train",), lists["train"], own, problems)
    eval_specs, eval_normalise = _without_normalise(("eval",), lists["eval"], own, problems)
    train = _build(("train",), train_specs, image_hw, problems)
    evaluation = _build(("eval",), eval_specs, image_hw, problems)
    if problems:
        raise InvalidConfig(problems)
    if train_normalise != eval_normalise:
        wrong = f"normalises with mean, std = {train_normalise}, transforms.eval with {eval_normalise}"
        problems.append(Problem(("train",), f"{wrong}; give both the same Normalize"))
    check_deterministic(("eval",), evaluation, problems)
    train_hw = final_size(("train",), train, problems)
    eval_hw = final_size(("eval",), evaluation, problems)
    for side, size in (("train", train_hw), ("eval", eval_hw)):
        if size and image_hw and size != image_hw:
            wrong = (
                f"ends in {size[0]} x {size[1]} pixels, but data_loader.args.input_size = {input_size}; change one of "
                "them, or set input_size to null"
            )
            problems.append(Problem((side,), wrong))
    if train_hw and eval_hw and not image_hw and train_hw != eval_hw:
        wrong = f"ends in {train_hw[0]} x {train_hw[1]} pixels, transforms.eval in {eval_hw[0]} x {eval_hw[1]}"
        problems.append(Problem(("train",), f"{wrong}; end both in the same size"))
    if problems or not train_hw or not eval_hw:
        raise InvalidConfig(problems)
    plain_specs = [_completed(spec, image_hw) for spec in eval_specs]
    mean_rgb, std_rgb = eval_normalise
    preprocessing = Preprocessing(eval_hw, mean_rgb, std_rgb, plain_specs, bits_used_of_16)
    num_deterministic = count_deterministic(train)
    prefix_hw = final_size((), train[:num_deterministic], []) if num_deterministic else None
    completed = [_completed(spec, image_hw) for spec in train_specs]
    train_pipeline = Pipeline(train, completed, train_hw, num_deterministic, prefix_hw, bits_used_of_16)
    return Transforms(train_pipeline, _deterministic(evaluation, preprocessing), preprocessing)


def eval_pipeline(preprocessing: Preprocessing) -> Pipeline:
    """The deterministic steps of a checkpoint's preprocessing. Raises InvalidConfig, key paths inside its list."""
    problems: list[Problem] = []
    transforms = _build((), preprocessing.eval_transforms, None, problems)
    if problems:
        raise InvalidConfig(problems)
    return _deterministic(transforms, preprocessing)


def _deterministic(transforms: Sequence[Any], preprocessing: Preprocessing) -> Pipeline:
    image_hw, specs = preprocessing.image_hw, preprocessing.eval_transforms
    return Pipeline(transforms, specs, image_hw, len(transforms), image_hw, preprocessing.bits_used_of_16)


def transform_problems(lists: TransformLists, input_size: int | Sequence[int] | None) -> list[Problem]:
    """All that is wrong with the two lists; none if they can be used. Key paths are relative to the lists."""
    unlike_any = (-1.0, -1.0, -1.0)  # the backbone's own is not known yet, and no config can give this
    try:
        build_transforms(lists, input_size, unlike_any, unlike_any)
    except InvalidConfig as error:
        return error.problems
    return []


def _type(spec: Any) -> Any:
    return spec.get("type") if isinstance(spec, dict) else None


def _without_normalise(
    key_path: KeyPath, specs: Sequence[TransformSpec], own: tuple[Any, Any], problems: list[Problem]
) -> tuple[list[TransformSpec], tuple[Any, Any]]:
    """The list without its trailing Normalize and ToTensorV2, and the mean and std to normalise with."""
    kept, statistics = list(specs), own
    if kept and _type(kept[-1]) == "ToTensorV2":
        kept.pop()
    if kept and _type(kept[-1]) == "Normalize":
        statistics = _statistics((*key_path, len(kept) - 1, "args"), kept.pop().get("args", {}), own, problems)
    for here, spec in _with_inner_specs(key_path, kept):
        if _type(spec) in ("Normalize", "ToTensorV2"):
            problems.append(Problem(here, f"({_type(spec)}) may only stand last (it is done on the device)"))
    return kept, statistics


def _with_inner_specs(key_path: KeyPath, specs: Sequence[TransformSpec]) -> Iterator[tuple[KeyPath, TransformSpec]]:
    """All specs and those in the args of choices such as OneOf, each with its key path."""
    for number, spec in enumerate(specs):
        here = (*key_path, number)
        yield here, spec
        args = spec.get("args") if isinstance(spec, dict) else None
        inner = args.get("transforms") if isinstance(args, dict) else None
        if isinstance(inner, list):
            yield from _with_inner_specs((*here, "args", "transforms"), inner)


def _statistics(
    key_path: KeyPath, args: dict[str, Any], own: tuple[Any, Any], problems: list[Problem]
) -> tuple[Any, Any]:
    """The (mean, std) that a Normalize asks for: three numbers each, of a range 0 to 1."""
    allowed: dict[str, Any] = {"normalization": "standard", "max_pixel_value": 255, "p": 1, "mean": None, "std": None}
    for name, value in args.items():
        if name not in allowed:
            problems.append(Problem((*key_path, name), not_one_of(name, allowed)))
        elif allowed[name] is not None and value != allowed[name]:
            wrong = f"= {value!r} must be {allowed[name]!r}, which it is anyway"
            problems.append(Problem((*key_path, name), wrong))
    if args.get("mean") is None and args.get("std") is None:
        return own
    found = []
    for name, lowest in (("mean", 0.0), ("std", 1e-6)):
        value = args.get(name)
        values = tuple(value) if isinstance(value, list | tuple) else (value,) * 3
        right = all(isinstance(number, int | float) and lowest <= number <= 1 for number in values)
        if len(values) != 3 or not right:
            wrong = f"= {value!r} must be three numbers, in units of 0 to 1; give mean and std"
            problems.append(Problem((*key_path, name), wrong))
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
    key_path: KeyPath,
    specs: Sequence[TransformSpec],
    image_hw: tuple[int, int] | None,
    problems: list[Problem],
    nested: bool = False,
) -> list[Any]:
    """The transforms; a problem for each that cannot be made.

    nested: they stand inside another's args, where the config's own checks of types and ranges do not look."""
    transforms = []
    for number, spec in enumerate(specs):
        here = (*key_path, number)
        if (
            not isinstance(_type(spec), str)
            or not isinstance(spec.get("args", {}), dict)
            or spec.keys() - {"type", "args"}
        ):
            wrong = f'= {spec} must be {{"type": a transform\'s name, "args": {{its arguments}}}}'
            problems.append(Problem(here, wrong))
        elif spec["type"] not in TRANSFORMS:
            problems.append(Problem((*here, "type"), f'= "{spec["type"]}" {not_one_of(spec["type"], TRANSFORMS)}'))
        else:
            completed = _completed(spec, image_hw)
            found = argument_problems(TRANSFORMS[spec["type"]], completed["args"], (*here, "args")) if nested else []
            problems += found
            transforms += [] if found else _build_one(here, completed, image_hw, problems)
    return transforms


def _build_one(
    key_path: KeyPath, spec: TransformSpec, image_hw: tuple[int, int] | None, problems: list[Problem]
) -> list[Any]:
    """One transform in a list, or an empty list and its problems."""
    kind, args, here = TRANSFORMS[spec["type"]], spec["args"], (*key_path, "args")
    parameters = inspect.signature(kind).parameters
    before = len(problems)
    for name in args:
        if name not in parameters:
            wrong = f"is not an argument of {spec['type']}{did_you_mean(name, parameters)} (it takes "
            problems.append(Problem((*here, name), f"{wrong}{', '.join(parameters)})"))
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in args:
            hint = " (or set data_loader.args.input_size)" if name in ("height", "width", "size") else ""
            problems.append(Problem((*here, name), f"is missing; {spec['type']} needs it{hint}"))
    chance = args.get("p", 1)
    if isinstance(chance, bool) or not isinstance(chance, int | float) or not 0 <= chance <= 1:
        problems.append(Problem((*here, "p"), f"= {chance!r} must be a number of 0 to 1"))
    if "transforms" in parameters and "transforms" in args:
        inner = args["transforms"]
        if not isinstance(inner, list) or not inner:
            problems.append(Problem((*here, "transforms"), f"= {inner!r} must be a list of transforms, at least one"))
        else:
            args = {**args, "transforms": _build((*here, "transforms"), inner, image_hw, problems, nested=True)}
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
        causes = error.__cause__.errors() if isinstance(error.__cause__, ValidationError) else []
        messages: dict[KeyPath, list[str]] = {}
        for cause in causes:
            name = str(cause["loc"][0]) if cause["loc"] else None
            messages.setdefault(key_path if name is None else (*here, name), []).append(cause["msg"])
        for where, said in messages.items():
            value = spec["type"] if where == key_path else repr(args.get(where[-1]))
            problems.append(Problem(where, f"= {value}: {' / '.join(dict.fromkeys(said))}"))
        if not causes:
            problems.append(Problem(here, f"= {spec['args']}: {spec['type']} refuses them: {first_line(error)}"))
        return []
    for message in (str(warning.message) for warning in caught):
        if not any(phrase in message for phrase in _ADVICE):
            name, _, reason = message.partition(": ")
            if name in args:
                problems.append(Problem((*here, name), f"= {args[name]!r}: {reason}"))
            else:
                problems.append(Problem(key_path, f"= {spec['type']}: {message}"))
        elif "is a special case of" not in message:  # ShiftScaleRotate, each time
            logger.warning("%s: %s: %s", dotted(key_path), spec["type"], message)
    return [transform]
