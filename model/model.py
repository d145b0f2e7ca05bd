"""The models that a config may name."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt
from timm.data import resolve_model_data_config
from timm.models import get_deprecated_models, is_model_pretrained
from torch import Tensor, nn

from base.base_model import BaseModel
from model.backbone import build_backbone
from model.heads import LinearHeads
from utils.config.sections import exported

__all__ = ["BaselineCNN", "TimmModelMulti"]


def build_without_weights(arch: Mapping[str, Any], num_classes: Mapping[str, int]) -> BaseModel:
    """The model of a config's "arch" section with random weights.

    Raises ValueError for a model that neither this file lists nor an active plug-in defines."""
    if arch["type"] not in ARCHITECTURES:
        raise ValueError(f"the model {arch['type']!r} is not one of {', '.join(ARCHITECTURES)}")
    architecture: Any = ARCHITECTURES[arch["type"]]
    return architecture(num_classes, **architecture.arguments_without_weights(arch["args"]))


Rate = Annotated[float, Field(ge=0, lt=1)]
Pooling = Literal["gem", "avg", "max", "avgmax", "catavgmax", "token", "map"]


class TimmModelMulti(BaseModel):
    """A timm image classifier whose classifier is replaced by one linear layer a head on the pooled features.

    model_name: timm's, with or without a tag ("resnet18", "resnet18.a1_in1k")
    pretrained: download timm's weights from the Hugging Face hub, once
    weights_file: weights of this network instead, of any program: a run's checkpoint, .pth or .safetensors
    drop_rate: dropout before the heads
    drop_path_rate: stochastic depth, where the backbone has it
    img_size: side of the images in pixels, for backbones that are built for one size (ViT, Swin, ...); null for the
        backbone's own
    dynamic_img_size: a ViT takes images of any size whose sides are multiples of its patches, by interpolating the
        embedding of positions; only timm's VisionTransformer and its like can
    pooling: "gem" (see `GeM`) for backbones with a feature map, or one of timm's that the backbone has; null for the
        backbone's own
    dropout_samples: see `LinearHeads`
    embedding_size: see `LinearHeads`
    gradient_checkpointing: recompute activations in the backward pass to save memory, where timm supports it: slower,
        the same gradients

    Raises ValueError if the backbone cannot be built so, or its weights cannot be loaded.
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
        dynamic_img_size: bool = False,
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
            dynamic_img_size=dynamic_img_size or None,  # which the others do not know
        )
        # Not num_features: some have one more layer between pooling and classifier (vgg, mobilenetv3, ...).
        num_features = int(self.backbone.head_hidden_size)  # type: ignore[arg-type]
        self.heads = LinearHeads(num_features, num_classes, drop_rate, dropout_samples, embedding_size)
        preprocessing = resolve_model_data_config(self.backbone)
        _, height, width = preprocessing["input_size"]
        self.input_hw = (img_size, img_size) if img_size else (height, width)
        self.mean, self.std = tuple(preprocessing["mean"]), tuple(preprocessing["std"])

    @classmethod
    def check_weights(cls, **arguments: Any) -> None:
        """See BaseModel.check_weights."""
        name, file = arguments["model_name"], arguments["weights_file"]
        if file is not None:
            if not Path(file).is_file():
                raise ValueError(f"weights_file = {file} is not a file")
        elif arguments["pretrained"] and not is_model_pretrained(name) and name not in get_deprecated_models():
            raise ValueError(f"pretrained = true: timm has no weights of {name}; set it to false, or give weights_file")

    @classmethod
    def arguments_without_weights(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """See BaseModel.arguments_without_weights."""
        return {**arguments, "pretrained": False, "weights_file": None}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """See BaseModel.forward."""
        return self.heads(self.backbone(images))

    def stages(self) -> list[list[str]]:
        """See BaseModel.stages. They are timm's groups, without the weights that `pooling` adds."""
        return [[f"backbone.{name}" for name in names] for names in self._stages]

    def title(self) -> str:
        """See BaseModel.title."""
        return f"TimmModelMulti of {self.model_name}"


class BaselineCNN(BaseModel):
    """A small network to begin with: four convolutions, each halving the image, and global average pooling.

    It takes images of any size.

    width: channels of the first convolution, doubled by each next one
    drop_rate: dropout before the heads
    dropout_samples: see `LinearHeads`
    embedding_size: see `LinearHeads`
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


ARCHITECTURES = exported(sys.modules[__name__], BaseModel)
