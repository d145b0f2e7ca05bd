"""Sharpness-aware minimisation: the gradient is taken at perturbed weights, the worst point nearby."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from pydantic import PositiveFloat
from torch import Tensor, nn

ETA = 0.01
"""Keeps adaptive steps from vanishing with their weights; the paper's value."""


@contextmanager
def restored(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Within it the tensors may be changed in place; afterwards, however it ends, they are what they were, to the
    bit."""
    changed = [tensor.detach() for tensor in tensors]
    kept = [tensor.clone() for tensor in changed]
    try:
        yield
    finally:
        if changed:
            torch._foreach_copy_(changed, kept)


class SharpnessAware:
    """Minimises the loss at w + e, the worst point within rho of the weights w (SAM; Foret et al. 2021, eq. 2):

        e = rho * g / |g|,                 g the gradient at w, |.| the Euclidean norm over all weights.

    With `adaptive` the neighbourhood has each weight's own scale (ASAM; Kwon et al. 2021), T = |w| + 0.01 by weight:

        e = rho * T^2 g / |T g|,           where the paper has rho = 0.5, and SAM's 0.05.

    Every update costs two passes over its batches.

    modules: all that learns
    rho: the radius of the neighbourhood
    adaptive: the neighbourhood has each weight's own scale (ASAM), and rho is ten times as large
    """

    def __init__(self, modules: Iterable[nn.Module], rho: PositiveFloat = 0.05, adaptive: bool = False) -> None:
        self.modules, self.rho, self.adaptive = nn.ModuleList(modules), rho, adaptive

    @contextmanager
    def perturbed_weights(self) -> Iterator[None]:
        """Within it the weights are w + e, for the gradients g that exist on entry, which it clears: those that exist
        at the end are the ones to follow. Afterwards, however it ends, weights and buffers (running statistics, which
        the first pass has counted) are what they were, bit for bit.

        The gradients may be scaled by one common factor; where one is not finite, the weights stay where they are."""
        weights = [parameter for parameter in self.modules.parameters() if parameter.grad is not None]
        with restored([*weights, *self.modules.buffers()]):
            self._perturb(weights)
            self.modules.zero_grad(set_to_none=True)
            yield

    @torch.no_grad()
    def _perturb(self, weights: Sequence[nn.Parameter]) -> None:
        directions = [weight.grad for weight in weights if weight.grad is not None]
        scales = [weight.abs() + ETA for weight in weights] if self.adaptive else []
        if scales:
            directions = list(torch._foreach_mul(directions, scales))
        norm = nn.utils.get_total_norm(directions)
        factor = torch.where(norm.isfinite() & (norm > 0), self.rho / norm, 0.0)
        if scales:
            torch._foreach_mul_(directions, scales)
        for weight, direction in zip(weights, directions, strict=True):
            weight.add_((direction * factor).nan_to_num_(0.0, 0.0, 0.0))  # inf * 0 is no number
