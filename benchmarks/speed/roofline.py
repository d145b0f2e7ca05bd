"""The least time that a training step can take on a GPU, by how fast it moves bytes and multiplies matrices.

Only the layers that multiply matrices are counted (convolutions and linear layers): all that is done element by element
could be done on the way to them. Each takes, in the type that is computed in,

    forward:   reads its input and its weights, writes its output
    backward:  reads the output's gradient twice and the input and the weights once, writes both gradients

and 2 multiply-adds' worth of arithmetic, three times over; it is no faster than the slower of memory and arithmetic.
The optimizer reads and writes each weight's float32 copies. The sum over all layers is the roofline (Williams et al.
2009, layer by layer).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

BYTES_OF_AN_UPDATE = 4 * (1 + 2 + 2 * 3)
"""Of each weight, in float32: the gradient is read, the weight and Adam's three moments (amsgrad) read and written."""


@dataclass(frozen=True)
class LayerCost:
    """Of one layer and one step, forward and backward."""

    moved_bytes: float
    operations: float


@dataclass(frozen=True)
class Limits:
    """What the card was measured to do.

    bytes_per_second: copied, where reading and writing both count
    operations_per_second: of a large product of matrices
    """

    bytes_per_second: float
    operations_per_second: float

    def seconds(self, layers: list[LayerCost], parameters: int) -> float:
        """The least time of a step."""
        of_layers = sum(
            max(layer.moved_bytes / self.bytes_per_second, layer.operations / self.operations_per_second)
            for layer in layers
        )
        return of_layers + parameters * BYTES_OF_AN_UPDATE / self.bytes_per_second

    def seconds_of_bytes(self, layers: list[LayerCost], parameters: int) -> float:
        """As `seconds`, if arithmetic took no time."""
        moved = sum(layer.moved_bytes for layer in layers) + parameters * BYTES_OF_AN_UPDATE
        return moved / self.bytes_per_second


def layer_costs(model: nn.Module, images: Tensor, bytes_per_value: int) -> list[LayerCost]:
    """Of each convolution and linear layer that the images pass through. bytes_per_value: of the type computed in."""
    costs: list[LayerCost] = []

    def count(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d | nn.Linear)
        read, written, weights = inputs[0].numel(), output.numel(), module.weight.numel()
        # Every output value is a sum over the weights of its channel; 2 operations each.
        forward = 2 * written * weights // module.weight.shape[0]
        moved = (read + weights + written) + (2 * written + read + weights) + (read + weights)
        costs.append(LayerCost(moved * bytes_per_value, 3 * forward))

    hooks = [
        module.register_forward_hook(count) for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return costs


def measured_limits(device: torch.device, dtype: torch.dtype) -> Limits:
    """Of the card, with a copy of a gigabyte and a product of 8192 x 8192 matrices; the best of several."""
    source = torch.empty(2**30, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copied = 2 * source.numel() / _best_seconds(lambda: target.copy_(source))
    side = 8192
    one, other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return Limits(copied, 2 * side**3 / _best_seconds(lambda: one @ other))


def _best_seconds(work: Callable[[], object], repeats: int = 10) -> float:
    best = float("inf")
    for _ in range(repeats):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        work()
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begin)
    return best
