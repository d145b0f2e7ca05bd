"""The models that a config may name."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any

from pydantic import Field
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from base.base_model import BaseModel
from model.backbone import build_backbone, check_backbone
from model.heads import LinearHeads

__all__ = ["BaselineCNN", "TimmModelMulti"]


def build_without_weights(arch: Mapping[str, Any], num_classes: Mapping[str, int]) -> BaseModel:
    """The model of a config's "arch" section, its weights random: a checkpoint brings them.

    Raises ValueError for a model that is not listed here."""
    if arch["type"] not in __all__:
        raise ValueError(f"the model {arch['type']!r} is not one of {', '.join(__all__)}")
    architecture: type[BaseModel] = globals()[arch["type"]]
    return architecture(num_classes, **architecture.arguments_without_weights(arch.get("args", {})))


Rate = Annotated[float, Field(ge=0, lt=1)]


class TimmModelMulti(BaseModel):
    """Any of timm's image classifiers, its classifier replaced by one linear layer a head on the pooled features.

    model_name: timm's, with or without a tag ("resnet18", "resnet18.a1_in1k"); pretrained: fetch timm's weights, once,
    from the Hugging Face hub; weights_file: read them from this file instead (.safetensors or .pth, as the hub has
    it); drop_rate: dropout before the heads; drop_path_rate: stochastic depth, where the backbone has it; img_size:
    side of the images in pixels, for backbones that are built for one size (ViT, Swin, ...) if it is not their own.

    Raises ConfigError if weights cannot be had.
    """

    def __init__(
        self,
        num_classes: Mapping[str, int],
        model_name: str,
        pretrained: bool = False,
        weights_file: str | None = None,
        drop_rate: Rate = 0.0,
        drop_path_rate: Rate | None = None,
        img_size: Annotated[int, Field(ge=1)] | None = None,
    ) -> None:
        super().__init__(num_classes)
        self.model_name = model_name
        self.backbone = build_backbone(
            model_name, pretrained, weights_file, drop_path_rate=drop_path_rate, img_size=img_size
        )
        # Not num_features: some have a layer more between pooling and classifier (vgg, mobilenetv3, ...).
        self.heads = LinearHeads(int(self.backbone.head_hidden_size), num_classes, drop_rate)  # type: ignore[arg-type]
        preprocessing = resolve_model_data_config(self.backbone)
        _, height, width = preprocessing["input_size"]
        self.input_hw = (img_size, img_size) if img_size else (height, width)
        self.mean, self.std = tuple(preprocessing["mean"]), tuple(preprocessing["std"])

    @classmethod
    def check_arguments(cls, **arguments: Any) -> None:
        """Raises ValueError for a backbone that timm does not have (with the nearest names) or cannot build so."""
        check_backbone(
            arguments["model_name"],
            arguments.get("pretrained", False),
            arguments.get("weights_file"),
            drop_path_rate=arguments.get("drop_path_rate"),
            img_size=arguments.get("img_size"),
        )

    @classmethod
    def arguments_without_weights(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """See BaseModel.arguments_without_weights."""
        return {**arguments, "pretrained": False, "weights_file": None}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """See BaseModel.forward."""
        return self.heads(self.backbone(images))

    def _title(self) -> str:
        return f"TimmModelMulti of {self.model_name}"


class BaselineCNN(BaseModel):
    """The small network a beginner starts with: four convolutions, each halving the image, and the mean over places.

    width: channels of the first convolution, doubled by each next one; drop_rate: dropout before the heads. It takes
    images of any size.
    """

    def __init__(
        self, num_classes: Mapping[str, int], width: Annotated[int, Field(ge=1)] = 32, drop_rate: Rate = 0.0
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
        self.heads = LinearHeads(channels[-1], num_classes, drop_rate)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """See BaseModel.forward."""
        return self.heads(self.features(images))
