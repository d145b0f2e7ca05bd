"""Test-time augmentation: a model predicts several variants of an image, and the mean of the probabilities counts.

A variant v of an image x is what a named list of deterministic albumentations makes of the decoded and prepared image,
before the model's own evaluation transforms:

    p(class | x) = 1/V sum_v p(class | v(x)),

in probabilities, not in logits. The image itself counts only where a variant is an empty list: "plain": []. A config
names its variants in the section `views`.

Importing this module imports neither torch nor albumentations: the command line checks the names of PRESETS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from utils.errors import InvalidConfig, Problem

if TYPE_CHECKING:
    from base.preprocessing import Preprocessing
    from data_loader.preparation.prepared_images import PreparedImages
    from data_loader.transforms import Pipeline

Tta = Mapping[str, Sequence[Any]]
"""By variant, a list of transforms as a config names them."""

_FLIP = [{"type": "HorizontalFlip", "args": {"p": 1}}]


def _rotated(degrees: float) -> list[dict[str, Any]]:
    return [{"type": "Rotate", "args": {"limit": [degrees, degrees], "p": 1}}]


def _cropped(top: float, right: float, bottom: float, left: float) -> list[dict[str, Any]]:
    """Without these shares of the image's sides."""
    percent = [-top, -right, -bottom, -left]
    return [{"type": "CropAndPad", "args": {"percent": percent, "keep_size": False, "p": 1}}]


_X = 1 / 8  # of each side is cropped away: 224 of 256 pixels are left, as in Krizhevsky et al. 2012, section 4.1
PRESETS: dict[str, dict[str, list[dict[str, Any]]]] = {
    "none": {"plain": []},
    "flip": {"plain": [], "flip": _FLIP},
    "flip_rotate": {"plain": [], "flip": _FLIP, "left": _rotated(30), "right": _rotated(-30)},
    "five_crops": {
        "top_left": _cropped(0, _X, _X, 0),
        "top_right": _cropped(0, 0, _X, _X),
        "bottom_left": _cropped(_X, _X, 0, 0),
        "bottom_right": _cropped(_X, 0, 0, _X),
        "centre": _cropped(_X / 2, _X / 2, _X / 2, _X / 2),
    },
}
"""By the name that --tta takes, the variants of an image."""


def tta_problems(tta: Tta) -> list[Problem]:
    """What is wrong with a section `views` beyond the shape and the arguments of its lists; key paths inside it."""
    from base.preprocessing import Preprocessing
    from data_loader.transforms import TRANSFORMS, eval_pipeline
    from data_loader.transforms.trials import check_deterministic, final_size

    if not tta:
        return [Problem((), 'is empty; name at least one, such as "plain": [] for the image itself')]
    problems: list[Problem] = []
    for name, specs in tta.items():
        try:
            transforms = eval_pipeline(Preprocessing((1, 1), (0.5,) * 3, (0.5,) * 3, list(specs))).prefix.transforms
        except InvalidConfig as error:
            problems += [problem.under((name,)) for problem in error.problems]
            continue
        final_size((name,), [*transforms, TRANSFORMS["Resize"](8, 8)], problems)
        for number, transform in enumerate(transforms):
            random: list[Problem] = []
            check_deterministic((), [transform], random)
            if random:
                wrong = f"({type(transform).__name__}) is random; set p to 1, and ranges to one value, such as [30, 30]"
                problems.append(Problem((name, number), wrong))
    return problems


def tta_pipelines(tta: Tta, preprocessing: Preprocessing, preparation: PreparedImages | None = None) -> list[Pipeline]:
    """By variant: the preparation, its transforms, then the model's own. Raises InvalidConfig for variants that cannot
    be built."""
    from data_loader.transforms import eval_pipeline

    own = preprocessing.eval_transforms
    variants = [replace(preprocessing, eval_transforms=[*specs, *own]) for specs in tta.values()]
    return [eval_pipeline(variant, preparation) for variant in variants]
