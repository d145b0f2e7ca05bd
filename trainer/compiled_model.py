"""torch.compile, for batches of one size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from base.base_model import BaseModel

CompileMode = Literal["default", "reduce-overhead", "max-autotune"]
_WITHOUT_GRAPHS = {"reduce-overhead": "default", "max-autotune": "max-autotune-no-cudagraphs"}


class CompiledModel(nn.Module):
    """A model whose whole batches are computed by what torch.compile makes of it; the weights are the model's own.

    In training and in evaluation each, it is compiled for whole batches. A smaller one, as the last of a set may be, is
    computed as if nothing were compiled: that takes a moment, and to compile anew a minute. So a run that is resumed
    before an epoch's last batch computes it as one that was never stopped.

    batch_sizes: images of a whole batch of this process, in training and in evaluation
    mode: torch.compile's; all but "default" record CUDA graphs on a GPU
    accumulating: gradients of one batch are kept while the next is computed, which a graph's memory does not allow:
        then there are no graphs
    """

    def __init__(
        self,
        model: BaseModel,
        batch_sizes: tuple[int, int],
        mode: CompileMode,
        accumulating: bool,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.model = model
        self.has_graphs = device.type == "cuda" and mode != "default" and not accumulating
        model.compile(mode=_WITHOUT_GRAPHS.get(mode, mode) if accumulating else mode, dynamic=False)
        self._whole = dict(zip((True, False), batch_sizes, strict=True))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """See BaseModel.forward."""
        # It is the call of the model that is compiled, and not its method.
        run: Callable[[Tensor], dict[str, Tensor]] = self.model
        if len(images) < self._whole[self.training]:
            run = self.model.forward
        elif self.has_graphs:
            torch.compiler.cudagraph_mark_step_begin()
        outputs = run(images)
        # A graph's own outputs are written over by its next run, and these are counted later.
        return {name: output.clone() for name, output in outputs.items()} if self.has_graphs else outputs
