"""What every model offers: logits by head, and the preprocessing that its backbone was made for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


class BaseModel(nn.Module, ABC):
    """A model with one output a head. A subclass's constructor takes `num_classes` first, then the arguments of JSON.

    num_classes: classes by head
    input_hw: (height, width) in pixels that the backbone was made for; None: it takes any alike
    mean, std: what it expects images of 0 to 1 to be normalised with, one number a channel, R, G, B
    """

    input_hw: tuple[int, int] | None = None
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __init__(self, num_classes: Mapping[str, int]) -> None:
        super().__init__()
        assert num_classes, "a model needs a head"
        self.num_classes = dict(num_classes)

    @abstractmethod
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """images (B, 3, H, W) float, normalised -> raw logits by head, (B, C) each.

        A model for metric learning adds its embedding, (B, E), under the name base.batch.EMBEDDING."""

    def stages(self) -> list[list[str]]:
        """The names of the learned parameters, as in `named_parameters`, in the stages that an image passes through.

        From the input to the last features, each parameter in one stage; heads and embedding are in none. A model that
        names no stages has none: it can neither be frozen nor given a learning rate by depth."""
        return []

    @classmethod
    def check_arguments(cls, **arguments: Any) -> None:  # noqa: ARG003
        """Checks what signatures cannot say of the JSON arguments, before anything is built or fetched.

        Raises ValueError, one line that begins with the argument."""
        return

    @classmethod
    def check_weights(cls, **arguments: Any) -> None:  # noqa: ARG003
        """Checks that the weights to begin with can be had, as far as that costs nothing. Raises ValueError, one line.

        A run that loads a checkpoint does not need them."""
        return

    @classmethod
    def arguments_without_weights(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON arguments that build the same model without loading weights: a checkpoint brings them."""
        return dict(arguments)

    @property
    def num_parameters(self) -> int:
        """How many numbers the model can learn, frozen ones included."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def num_trainable(self) -> int:
        """How many of them are trained at present."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)

    def summary(self) -> str:
        """One line for the log, such as "BaselineCNN: 0.39 M parameters, heads mask 3, gender 2, age 3"."""
        heads = ", ".join(f"{name} {number}" for name, number in self.num_classes.items())
        size = f", made for {self.input_hw[0]} x {self.input_hw[1]}" if self.input_hw else ""
        return f"{self.title()}: {self.num_parameters / 1e6:.2f} M parameters, heads {heads}{size}"

    def title(self) -> str:
        """What the model is called in messages."""
        return type(self).__name__
