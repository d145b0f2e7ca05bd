"""The callbacks that a config may name, and `Callbacks`, those of a run as one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from base.base_callback import BaseCallback, Update
from trainer.sharpness_aware import restored
from utils.config.plugins import described_failure
from utils.errors import UserError

__all__ = ["AdversarialWeights", "GradientNorm"]


class GradientNorm(BaseCallback):
    """train/gradient_norm, the mean over an epoch's updates of the Euclidean norm of the model's gradients, before they
    are clipped; and train/largest_gradient_norm. Updates whose gradients are not finite are left out.

    What to set trainer.max_grad_norm to is easily read from it.
    """

    metrics: ClassVar[Mapping[str, Literal["min", "max"]]] = {
        "train/gradient_norm": "min",
        "train/largest_gradient_norm": "min",
    }

    def __init__(self) -> None:
        self._sums: Tensor | None = None  # float64 on the device: the sum of the norms, their number, the largest

    def before_update(self, update: Update) -> None:
        gradients = [each.grad for each in update.model.parameters() if each.grad is not None]
        norm = nn.utils.get_total_norm(gradients).double() / update.gradient_scale
        is_finite = norm.isfinite()
        norm = torch.where(is_finite, norm, 0.0)
        if self._sums is None:
            self._sums = torch.zeros(3, dtype=torch.float64, device=norm.device)
        sums = self._sums.to(norm.device)  # a resumed run's are on the CPU
        self._sums = torch.stack([sums[0] + norm, sums[1] + is_finite, torch.maximum(sums[2], norm)])

    def end_epoch(self, epoch: int, metrics: Mapping[str, float]) -> Mapping[str, float]:  # noqa: ARG002
        total, count, largest = (0.0, 0.0, 0.0) if self._sums is None else self._sums.tolist()
        self._sums = None
        return dict(zip(self.metrics, (total / count, largest), strict=True)) if count else {}

    def state_dict(self) -> dict[str, Any]:
        return {"sums": None if self._sums is None else self._sums.cpu()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._sums = state["sums"]


class AdversarialWeights(BaseCallback):
    """Adversarial weight perturbation (AWP; Wu, Xia & Wang 2020): the gradient at w + v, where v makes the loss
    larger, each layer l by its own size:

        v_l = radius * |w_l| * g_l / |g_l|,             g the gradient at w.

    The update follows (1 - share) * g + share * (the gradient at w + v); at 0.5 both losses count alike, as in the
    adversarial training of Goodfellow et al. (2015, section 6). Vectors (norms and biases) are not perturbed. Weights
    and running statistics are afterwards what they were. An update costs two passes.

    radius: the paper's gamma, 0.005 to 0.01
    share: of the gradient at w + v
    from_epoch: the first epoch that does so
    """

    def __init__(
        self,
        radius: PositiveFloat = 0.01,
        share: Annotated[float, Field(gt=0, le=1)] = 1.0,
        from_epoch: PositiveInt = 1,
    ) -> None:
        self.radius, self.share, self.from_epoch = radius, share, from_epoch

    def before_update(self, update: Update) -> None:
        if update.epoch < self.from_epoch:
            return
        modules = nn.ModuleList([update.model, update.criterion])
        own = {weight: weight.grad for weight in modules.parameters() if weight.grad is not None}
        with restored([*own, *modules.buffers()]):
            with torch.no_grad():
                for weight in update.model.parameters():
                    if weight.grad is not None and weight.ndim > 1:
                        weight.add_(_direction(weight, weight.grad), alpha=self.radius)
            modules.zero_grad(set_to_none=True)
            update.add_gradients()
        if self.share < 1:
            for weight, gradient in own.items():
                if weight.grad is not None:
                    weight.grad.lerp_(gradient, 1 - self.share)


def _direction(weight: Tensor, gradient: Tensor) -> Tensor:
    """|w| g / |g|; 0 where that is no number."""
    norm = gradient.norm()
    factor = torch.where(norm.isfinite() & (norm > 0), weight.norm() / norm, 0.0)
    return (gradient * factor).nan_to_num_(0.0, 0.0, 0.0)


class Callbacks:
    """Several callbacks as one, in their order. An error of one names it.

    Raises UserError, whatever a callback raises.
    """

    def __init__(self, callbacks: Sequence[BaseCallback] = ()) -> None:
        self.callbacks = list(callbacks)

    def before_update(self, update: Update) -> None:
        for number, callback in enumerate(self.callbacks):
            with self._named(number, "before_update"):
                callback.before_update(update)

    def after_update(self, update: Update) -> None:
        for number, callback in enumerate(self.callbacks):
            with self._named(number, "after_update"):
                callback.after_update(update)

    def end_epoch(self, epoch: int, metrics: Mapping[str, float]) -> dict[str, float]:
        """The numbers of all, where those of a later one may be made of an earlier one's."""
        found: dict[str, float] = {}
        for number, callback in enumerate(self.callbacks):
            with self._named(number, "end_epoch"):
                known = {**metrics, **found}
                own = callback.end_epoch(epoch, {**known}) or {}
                if taken := [str(name) for name in own if name in known]:
                    raise ValueError(f"gives {', '.join(taken)}, which the epoch has already; choose another name")
                found |= {str(name): float(value) for name, value in own.items()}
        return found

    def state_dict(self) -> list[dict[str, Any]]:
        states = []
        for number, callback in enumerate(self.callbacks):
            with self._named(number, "state_dict"):
                states.append({"type": type(callback).__name__, "state": _plain(callback.state_dict())})
        return states

    def load_state_dict(self, states: Sequence[Mapping[str, Any]]) -> None:
        for number, (callback, state) in enumerate(zip(self.callbacks, states, strict=True)):
            with self._named(number, "load_state_dict"):
                callback.load_state_dict(state["state"])

    @contextmanager
    def _named(self, number: int, method: str) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            name = type(self.callbacks[number]).__name__
            raise UserError(f"callbacks.{number} ({name}): {method} fails{described_failure(error)}") from error


def _plain(value: Any) -> Any:
    """The value, if a checkpoint can hold it. Raises ValueError."""
    if isinstance(value, Mapping):
        return {_plain(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        return value.detach().cpu()
    raise ValueError(f"a {type(value).__name__} cannot be saved; give numbers, texts, tensors, lists and dicts of them")
