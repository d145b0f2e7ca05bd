"""Test-time augmentation: a model predicts several variants of an image, and the mean of the probabilities counts.

A variant v of an image x is what a named list of deterministic albumentations makes of the decoded image, before the
model's own evaluation transforms:

    p(class | x) = 1/V sum_v p(class | v(x)),

in probabilities, not in logits. The image as it is counts only where a variant says so, with an empty list:
"plain": []. A config names its variants in the section `views`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from base.preprocessing import Preprocessing
from data_loader.transforms import TRANSFORMS, Pipeline, TransformSpec, eval_pipeline
from data_loader.transforms.trials import check_deterministic, final_size
from utils.errors import InvalidConfig, Problem

Tta = Mapping[str, Sequence[TransformSpec]]


def tta_problems(tta: Tta) -> list[Problem]:
    """What is wrong with a section `views` beyond the shape and the arguments of its lists; key paths inside it."""
    if not tta:
        return [Problem((), 'is empty; name at least one, such as "plain": [] for the image as it is')]
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
                wrong = (
                    f"({type(transform).__name__}) is random, and test-time augmentation must not be; set p to 1, and "
                    "every range to one value, such as [30, 30]"
                )
                problems.append(Problem((name, number), wrong))
    return problems


def tta_pipelines(tta: Tta, preprocessing: Preprocessing) -> list[Pipeline]:
    """By variant: its transforms, then the model's own. Raises InvalidConfig for variants that cannot be built."""
    own = preprocessing.eval_transforms
    return [eval_pipeline(replace(preprocessing, eval_transforms=[*specs, *own])) for specs in tta.values()]
