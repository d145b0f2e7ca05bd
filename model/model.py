"""The models that a config may name."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from base.base_model import BaseModel
from model.backbone import WEIGHTS_ARGUMENTS, build_backbone, check_backbone, check_backbone_weights
from model.heads import HEADS_ARGUMENTS, LinearHeads, check_heads
from utils.config.signatures import PositiveInt

__all__ = ["BaselineCNN", "TimmModelMulti"]


def build_without_weights(arch: Mapping[str, Any], num_classes: Mapping[str, int]) -> BaseModel:
    """The model of a config's "arch" section, its weights random: a checkpoint brings them.

    Raises ValueError for a model that is not listed here."""
    if arch["type"] not in __all__:
        raise ValueError(f"the model {arch['type']!r} is not one of {', '.join(__all__)}")
    architecture: type[BaseModel] = globals()[arch["type"]]
    return architecture(num_classes, **architecture.arguments_without_weights(arch["args"]))


Rate = Annotated[float, Field(ge=0, lt=1)]
Pooling = Literal["gem", "avg", "max", "avgmax", "catavgmax", "token", "map"]


class TimmModelMulti(BaseModel):
    """Any of timm's image classifiers, its classifier replaced by one linear layer a head on the pooled features.

    model_name: timm's, with or without a tag ("resnet18", "resnet18.a1_in1k")
    pretrained: fetch timm's weights from the Hugging Face hub, once
    weights_file: weights of this network instead, of any program: a run's checkpoint, .pth or .safetensors
    drop_rate: dropout before the heads
    drop_path_rate: stochastic depth, where the backbone has it
    img_size: side of the images in pixels, for backbones that are built for one size (ViT, Swin, ...), if not their own
    pooling: "gem" (see `GeM`) for backbones with a map of features, or another of timm's poolings that the backbone
        knows, instead of its own
    dropout_samples, embedding_size: see `LinearHeads`
    gradient_checkpointing: keep fewer activations in memory and compute them again in the backward pass, where timm
        can: slower, with the same gradients

    Raises ValueError if weights cannot be had.
    """

    def __init__(
        self,
        num_classes: Mapping[str, int],
        model_name: str,
        pretrained: bool = False,
        weights_file: str | None = None,
        drop_rate: Rate = 0.0,
        drop_path_rate: Rate | None = None,
        img_size: PositiveInt | None = None,
        pooling: Pooling | None = None,
        dropout_samples: PositiveInt = 1,
        embedding_size: PositiveInt | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__(num_classes)
        self.model_name = model_name
        self.backbone, self._stages = build_backbone(
            model_name,
            pretrained,
            weights_file,
            pooling,
            gradient_checkpointing,
            drop_path_rate=drop_path_rate,
            img_size=img_size,
        )
        # Not num_features: some have a layer more between pooling and classifier (vgg, mobilenetv3, ...).
        num_features = int(self.backbone.head_hidden_size)  # type: ignore[arg-type]
        self.heads = LinearHeads(num_features, num_classes, drop_rate, dropout_samples, embedding_size)
        preprocessing = resolve_model_data_config(self.backbone)
        _, height, width = preprocessing["input_size"]
        self.input_hw = (img_size, img_size) if img_size else (height, width)
        self.mean, self.std = tuple(preprocessing["mean"]), tuple(preprocessing["std"])

    @classmethod
    def check_arguments(cls, **arguments: Any) -> None:
        """Raises ValueError for a backbone that timm does not have (with the nearest names) or cannot build so."""
        check_heads(arguments)
        others = (*HEADS_ARGUMENTS, *WEIGHTS_ARGUMENTS)
        check_backbone(**{name: value for name, value in arguments.items() if name not in others})

    @classmethod
    def check_weights(cls, **arguments: Any) -> None:
        """See BaseModel.check_weights."""
        check_backbone_weights(
            **{name: value for name, value in arguments.items() if name in ("model_name", *WEIGHTS_ARGUMENTS)}
        )

    @classmethod
    def arguments_without_weights(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """See BaseModel.arguments_without_weights."""
        return {**arguments, "pretrained": False, "weights_file": None}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """See BaseModel.forward."""
        return self.heads(self.backbone(images))

    def stages(self) -> list[list[str]]:
        """See BaseModel.stages. They are timm's own groups; what `pooling` adds to the backbone is in none."""
        return [[f"backbone.{name}" for name in names] for names in self._stages]

    def title(self) -> str:
        """See BaseModel.title."""
        return f"TimmModelMulti of {self.model_name}"


class BaselineCNN(BaseModel):
    """The small network a beginner starts with: four convolutions, each halving the image, and the mean over places.

    width: channels of the first convolution, doubled by each next one; drop_rate: dropout before the heads;
    dropout_samples, embedding_size: see `LinearHeads`. It takes images of any size.
    """

    def __init__(
        self,
        num_classes: Mapping[str, int],
        width: PositiveInt = 32,
        drop_rate: Rate = 0.0,
        dropout_samples: PositiveInt = 1,
        embedding_size: PositiveInt | None = None,
    ) -> None:
        super().__init__(num_classes)
        channels = [3, width, 2 * width, 4 * width, 8 * width]
        layers: list[nn.Module] = []
        for before, after in pairwise(channels):
            layers += [
                nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(inplace=True),
            ]
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.heads = LinearHeads(channels[-1], num_classes, drop_rate, dropout_samples, embedding_size)

    @classmethod
    def check_arguments(cls, **arguments: Any) -> None:
        """Raises ValueError for several dropouts that drop nothing."""
        check_heads(arguments)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """See BaseModel.forward."""
        return self.heads(self.features(images))

    def stages(self) -> list[list[str]]:
        """See BaseModel.stages: each convolution with its norm."""
        stages: list[list[str]] = []
        for name, parameter in self.features.named_parameters(prefix="features"):
            if parameter.ndim > 1:
                stages.append([])
            stages[-1].append(name)
        return stages
