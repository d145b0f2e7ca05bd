"""The interface of every model: logits by head, and the preprocessing that it expects."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


class BaseModel(nn.Module, ABC):
    """A model with one output a head. A subclass's constructor takes `num_classes`, then the arguments of JSON, and
    raises ValueError, one line that begins with the argument, for those that do not fit.

    num_classes: classes by head
    input_hw: (height, width) in pixels that the backbone was made for; None: any
    mean: of images of 0 to 1, by channel R, G, B, for the normalisation
    std: likewise
    """

    input_hw: tuple[int, int] | None = None
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __init__(self, num_classes: Mapping[str, int] | None = None) -> None:
        super().__init__()
        if not num_classes:
            raise ValueError("num_classes, the classes by head, must be handed on: super().__init__(num_classes)")
        self.num_classes = dict(num_classes)

    @abstractmethod
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """images (B, 3, H, W) float, normalised -> raw logits by head, (B, C) each.

        A model for metric learning adds its embedding, (B, E), under the name base.batch.EMBEDDING."""

    def stages(self) -> list[list[str]]:
        """The names of the parameters, as in `named_parameters`, by stage from the input to the features.

        Each parameter is in one stage, those of heads and embedding in none. A model without stages cannot be frozen,
        nor have a learning rate by depth."""
        return []

    @classmethod
    def check_weights(cls, **arguments: Any) -> None:  # noqa: ARG003
        """Checks that the initial weights exist, without loading them; not called for a run that loads a checkpoint.

        Raises ValueError, one line that begins with the argument."""
        return

    @classmethod
    def arguments_without_weights(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON arguments that build the same model without loading initial weights."""
        return dict(arguments)

    @property
    def num_parameters(self) -> int:
        """The number of parameters, frozen ones included."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def num_trainable(self) -> int:
        """The number of parameters that are trained at present."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)

    def summary(self) -> str:
        """One line for the log, such as "BaselineCNN: 0.39 M parameters, heads mask 3, gender 2, age 3"."""
        heads = ", ".join(f"{name} {number}" for name, number in self.num_classes.items())
        size = f", made for {self.input_hw[0]} x {self.input_hw[1]}" if self.input_hw else ""
        return f"{self.title()}: {self.num_parameters / 1e6:.2f} M parameters, heads {heads}{size}"

    def title(self) -> str:
        """The model's name in messages."""
        return type(self).__name__
