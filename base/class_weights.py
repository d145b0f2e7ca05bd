"""Class weights: given one by one, or computed from how many training samples each class has."""

from __future__ import annotations

import math
from typing import Annotated, Literal, get_args

import torch
from pydantic import Field
from torch import Tensor

Rule = Literal["balanced", "sqrt", "effective"]
"""How weights follow from the number of training samples, see `weights_by_rule`."""

ClassWeights = list[Annotated[float, Field(ge=0, allow_inf_nan=False)]] | Rule
"""One weight a class, in the order of the head's classes, or the rule that computes them."""

BETA = 0.999
"""Of "effective": about 1 / (1 - BETA) samples of a class count, more of them hardly do."""


def weights_by_rule(rule: Rule, counts: Tensor) -> Tensor:
    """counts (C,) int64, the training samples of each class -> the weights (C,) float32.

    balanced: w_c ~ 1 / n_c, and so N / (C n_c), as scikit-learn's compute_class_weight has it;
    sqrt: w_c ~ 1 / sqrt(n_c), which lifts rare classes half as far (in the logarithm);
    effective: w_c ~ (1 - BETA) / (1 - BETA^n_c), one over the effective number of samples (Cui et al. 2019, section 4).

    Each is scaled so that the training samples' mean weight is 1: a loss is divided by the sum of its weights, so the
    scale changes nothing in it. A class without a sample has weight 1, that of the mean sample.
    """
    samples = counts.double().clamp(min=1)
    if rule == "balanced":
        weights = 1 / samples
    elif rule == "sqrt":
        weights = samples.rsqrt()
    else:
        weights = (1 - BETA) / -torch.expm1(samples * math.log(BETA))
    weights = weights * counts.sum().clamp(min=1) / (weights * counts).sum().clamp(min=torch.finfo(torch.float64).tiny)
    return torch.where(counts > 0, weights, 1.0).float()


def follow_some_rule(weights: Tensor, counts: Tensor) -> bool:
    """Whether the ratios of given weights (C,) are within a factor of 2 of those of some rule for these counts (C,), or
    of equal weights. Weights of 0 and classes without a sample are not compared."""
    comparable = (counts > 0) & (weights > 0)
    rules = [torch.ones_like(weights), *(weights_by_rule(rule, counts) for rule in get_args(Rule))]
    ratios = [weights[comparable] / rule[comparable] for rule in rules]
    return int(comparable.sum()) < 2 or any(float(ratio.max() / ratio.min()) <= 2 for ratio in ratios)
