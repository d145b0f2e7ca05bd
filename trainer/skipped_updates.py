"""Updates of the weights that are skipped, as a gradient is not finite."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from base.base_model import BaseModel

IN_A_ROW = 20
"""So many skipped updates, one after the other, end a run. float16's loss scale finds its size within fewer."""


class SkippedUpdates:
    """Steps the optimizer where the gradients are finite; else all stays as it was: the weights, the optimizer's state
    and the running statistics, which the forward pass may have spoilt.

    Gradients that are averaged over processes are the same in all, and so is the decision. On a GPU it is made there,
    where the optimizer can (torch's fused ones): the host does not wait. Others are decided on the host, and so is the
    first update of an epoch: the state of a fused SGD that begins with a skipped one would be undefined memory.

    on_host: decide on the host always, as on a CPU, where nothing waits
    """

    next_on_host = True
    """Whether the next update is decided on the host in any case."""

    def __init__(self, model: BaseModel, optimizer: Optimizer, device: torch.device, on_host: bool) -> None:
        self.optimizer, self.on_host = optimizer, on_host
        self._in_a_row = torch.zeros((), dtype=torch.int64, device=device)
        parameters = {name for name, _ in model.named_parameters()}
        buffers = {name: each for name, each in model.state_dict().items() if name not in parameters}
        self._statistics = [each for each in buffers.values() if each.is_floating_point()]  # changed in place alone
        self._sizes = [each.numel() for each in self._statistics]
        self._kept: Tensor | None = None

    def begin_epoch(self) -> None:
        """To be called before an epoch, or the rest of one."""
        self._kept = self._joined() if self._statistics else None
        self.next_on_host = True

    def step(self, norm: Tensor, scaler: torch.amp.GradScaler) -> Tensor:
        """One update; whether it was skipped, a scalar bool on the device.

        norm: of all gradients, a scalar, which is finite where they are
        scaler: of float16, which decides by itself"""
        is_skipped = norm.isfinite().logical_not().to(self._in_a_row.device)
        if scaler.is_enabled():
            scaler.step(self.optimizer)
            scaler.update()
        elif self.next_on_host or not getattr(self.optimizer, "_step_supports_amp_scaling", False):
            if not is_skipped:
                self.optimizer.step()
                self.next_on_host = self.on_host
        else:  # as torch's GradScaler does it
            self.optimizer.grad_scale, self.optimizer.found_inf = None, is_skipped.float()  # type: ignore[attr-defined]
            self.optimizer.step()
            del self.optimizer.grad_scale, self.optimizer.found_inf  # type: ignore[attr-defined]
        self._in_a_row = (self._in_a_row + 1) * is_skipped
        self._restore_statistics(is_skipped)
        return is_skipped

    @property
    def in_a_row(self) -> int:
        """How many updates, up to the last one, were skipped one after the other. It waits for a GPU."""
        return int(self._in_a_row)

    def _joined(self) -> Tensor:
        return torch.cat([each.flatten() for each in self._statistics])

    def _restore_statistics(self, is_skipped: Tensor) -> None:
        if not self._statistics:
            return
        found = self._joined()
        self._kept = found if self._kept is None else torch.where(is_skipped, self._kept, found)
        if not self.on_host or is_skipped:
            pieces = zip(self._kept.split(self._sizes), self._statistics, strict=True)
            torch._foreach_copy_(self._statistics, [piece.view_as(each) for piece, each in pieces])

    def state_dict(self) -> dict[str, Any]:
        return {"in_a_row": self.in_a_row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._in_a_row.fill_(state["in_a_row"])
