"""torch.compile, for batches of one size."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from base.base_model import BaseModel

CompileMode = Literal["default", "reduce-overhead", "max-autotune"]
_WITHOUT_GRAPHS = {"reduce-overhead": "default", "max-autotune": "max-autotune-no-cudagraphs"}


class CompiledModel(nn.Module):
    """A model whose whole batches go through torch.compile; the weights are the model's own.

    It is compiled once for training and once for evaluation. A smaller batch, as the last of a set may be, is computed
    without compilation: that takes a moment, and another compilation a minute. So a run that is resumed before an
    epoch's last batch computes it as one that was never stopped.

    batch_sizes: images of a whole batch of this process, in training and in evaluation
    mode: torch.compile's; all but "default" record CUDA graphs on a GPU
    accumulating: the gradients of one batch are kept while the next is computed, which the memory of a CUDA graph does
        not allow: there are no graphs then
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
        self._train_size, self._eval_size = batch_sizes

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """See BaseModel.forward."""
        is_whole = len(images) >= (self._train_size if self.training else self._eval_size)
        if is_whole and self.has_graphs:
            torch.compiler.cudagraph_mark_step_begin()
        # Only the call of the model is compiled, and not its method.
        outputs: dict[str, Tensor] = self.model(images) if is_whole else self.model.forward(images)
        # The next run of a graph overwrites its outputs, and these are counted later.
        return {name: output.clone() for name, output in outputs.items()} if self.has_graphs else outputs
