"""TRACER, a network for salient objects (Lee, Shin and Han, AAAI 2022, arXiv 2112.07380), on timm's EfficientNets.

It takes the weights that the authors published, TRACER-Efficient-0.pth to TRACER-Efficient-7.pth, and only predicts.
Layers of the decoder have the names of those files; the encoder's are translated to timm's.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from base.weights import load_weights, without_wrappers
from utils.checkpoint import read_foreign_checkpoint
from utils.errors import CheckpointError

HIGH_PASS_RADIUS = 16
"""Of the frequencies that the edge module removes, in cycles over the feature map (section 3.2)."""
CONFIDENCE_RATIO = 0.1
"""The share of the channels, those of least attention, that the union attention drops (gamma)."""
DENOISING_RATIO = 0.93
"""Above it the object attention takes a pixel for background rather than for an edge (d)."""
RECEPTIVE_CHANNELS = (32, 64, 128)
"""Channels of the receptive field blocks of the second, third and fourth encoder level."""


class Scale(NamedTuple):
    """One of the eight published networks.

    blocks: of the encoder
    channels: of the encoder's last level
    encoder_pixels: the side for which the encoder's paddings are made
    input_pixels: the side of the pictures that it was trained on
    """

    blocks: int
    channels: int
    encoder_pixels: int
    input_pixels: int


SCALES = (
    Scale(16, 320, 224, 320),
    Scale(23, 320, 240, 320),
    Scale(23, 352, 260, 352),
    Scale(26, 384, 300, 384),
    Scale(32, 448, 380, 448),
    Scale(39, 512, 456, 512),
    Scale(45, 576, 528, 576),
    Scale(55, 640, 600, 640),
)

Weights = Mapping[str, Tensor]


def read_tracer(path: Path) -> tuple[Tracer, int]:
    """The network of a published file, in evaluation mode, and the side of its input in pixels.

    Raises CheckpointError if the file is missing, damaged, or of another network."""
    content = read_foreign_checkpoint(path)
    content = content.get("state_dict", content) if isinstance(content, Mapping) else {}
    weights = {name: tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}
    weights = without_wrappers(weights)
    blocks = {name.split(".")[2] for name in weights if name.startswith("model._blocks.")}
    last = weights.get("rfb4.conv_res.conv.weight", torch.empty(0, 0))
    found = [number for number, scale in enumerate(SCALES) if (len(blocks), last.shape[1]) == scale[:2]]
    if not found:
        raise CheckpointError(f"{path}: is no TRACER-Efficient-0 to -7; download one of the authors' weights")
    network = Tracer(found[0])
    load_weights(network, network.translated(weights), path)
    return network.eval(), SCALES[found[0]].input_pixels


class Tracer(nn.Module):
    """Pictures (B, 3, H, W), normalised as for ImageNet, -> the probability (B, 1, H, W) that a pixel is of the object.

    number: 0 to 7, of the EfficientNet
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.encoder = Encoder(number)
        first, second, third, fourth = self.encoder.channels
        widths = RECEPTIVE_CHANNELS
        self.rfb2, self.rfb3, self.rfb4 = map(ReceptiveField, (second, third, fourth), widths)
        self.agg = Aggregation(widths)
        self.ObjectAttention2 = ObjectAttention(second)
        self.ObjectAttention1 = ObjectAttention(first)

    def forward(self, images: Tensor) -> Tensor:
        """See the class. H and W are equal, and multiples of 32."""
        first, second, third, fourth = self.encoder(images)
        coarse = self.agg(self.rfb4(fourth), self.rfb3(third), self.rfb2(second))
        middle = self.ObjectAttention2(coarse, second)
        fine = self.ObjectAttention1(F.interpolate(middle, scale_factor=2, mode="bilinear"), first)
        maps = [F.interpolate(each, images.shape[-2:], mode="bilinear") for each in (coarse, middle, fine)]
        return torch.stack(maps).mean(dim=0).sigmoid()

    def translated(self, weights: Weights) -> dict[str, Tensor]:
        """The weights of a published file under this network's names."""
        return {self.encoder.translated(name): tensor for name, tensor in weights.items()}


def _convolution(inputs: int, outputs: int, kernel: Any, padding: Any = 0, dilation: int = 1) -> nn.Sequential:
    layers = OrderedDict[str, nn.Module](
        conv=nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False),
        bn=nn.BatchNorm2d(outputs),
        selu=nn.SELU(),
    )
    return nn.Sequential(layers)


def _depthwise(channels: int, kernel: int, padding: int = 0, dilation: int = 1) -> OrderedDict[str, nn.Module]:
    return OrderedDict[str, nn.Module](
        DWConv=nn.Conv2d(channels, channels, kernel, 1, padding, dilation, groups=channels, bias=False),
        bn=nn.BatchNorm2d(channels),
        selu=nn.SELU(),
    )


class Encoder(nn.Module):
    """An EfficientNet up to its last block: pictures -> feature maps of 1/4, 1/8, 1/16 and 1/32 of their side.

    The first of them is sharpened by the frequency edge module before the next block sees it.
    """

    LEVELS = (1, 2, 4, 6)
    """The stages of timm whose results are used."""

    def __init__(self, number: int) -> None:
        super().__init__()
        # Those weights come from TensorFlow, whose batch norm adds 1e-3 to the variance.
        network = timm.create_model(f"efficientnet_b{number}", num_classes=0, bn_eps=1e-3)
        self.conv_stem, self.bn1, self.blocks = network.conv_stem, network.bn1, network.blocks
        self.channels = [self.blocks[level][-1].conv_pwl.out_channels for level in self.LEVELS]
        self.edge = FrequencyEdge(self.channels[0])
        self._pad_as_published(SCALES[number].encoder_pixels)
        places = [(stage, block) for stage, blocks in enumerate(self.blocks) for block in range(len(blocks))]
        self._names = {}
        for index, (stage, block) in enumerate(places):
            layers = _FIRST_STAGE if stage == 0 else _LATER_STAGES
            for theirs, ours in layers.items():
                self._names[f"model._blocks.{index}.{theirs}"] = f"encoder.blocks.{stage}.{block}.{ours}"

    def forward(self, images: Tensor) -> list[Tensor]:
        """See the class."""
        features, levels = self.bn1(self.conv_stem(images)), []
        for number, stage in enumerate(self.blocks):
            features = stage(features)
            if number == self.LEVELS[0]:
                features = self.edge(features)
            if number in self.LEVELS:
                levels.append(features)
        return levels

    def translated(self, name: str) -> str:
        """The name in a `Tracer` of a weight of a published file."""
        layer, _, kind = name.rpartition(".")
        if layer in self._names:
            return f"{self._names[layer]}.{kind}"
        name = re.sub(r"^model\.Frequency_Edge_Module1\.", "encoder.edge.", name)
        return re.sub(r"^model\._bn0\.", "encoder.bn1.", re.sub(r"^model\._conv_stem\.", "encoder.conv_stem.", name))

    def _pad_as_published(self, side: int) -> None:
        """Pads before each convolution of stride 2 as TensorFlow does for pictures of `side` pixels, whatever the
        size is: the published weights were trained so."""
        stages = [blocks[0].conv_dw for blocks in self.blocks]
        for convolution in (self.conv_stem, *stages):
            if convolution.stride == (2, 2):
                total = convolution.kernel_size[0] - (1 if side % 2 else 2)
                before, after = total // 2, total - total // 2
                convolution.padding = (0, 0)
                convolution.register_forward_pre_hook(_Padding(before, after))
                side = (side + 1) // 2


_FIRST_STAGE = {
    "_depthwise_conv": "conv_dw", "_bn1": "bn1", "_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand",
    "_project_conv": "conv_pw", "_bn2": "bn2",
}  # fmt: skip
_LATER_STAGES = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
    "_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand", "_project_conv": "conv_pwl", "_bn2": "bn3",
}  # fmt: skip
"""By the name of a block's layer in the published files, timm's."""


class _Padding:
    def __init__(self, before: int, after: int) -> None:
        self.sides = (before, after, before, after)

    def __call__(self, _convolution: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        return F.pad(inputs[0], self.sides)


class Refinement(nn.Module):
    """A depthwise separable convolution, four dilated views of its result beside it, and one map (B, 1, H, W) of all.

    last: the name of the last convolution
    """

    def __init__(self, channels: int, width: int, last: str) -> None:
        super().__init__()
        pointwise = OrderedDict[str, nn.Module](
            PWConv=nn.Conv2d(channels, width, 1, bias=False), bn2=nn.BatchNorm2d(width), selu2=nn.SELU()
        )
        self.DWSConv = nn.Sequential(_depthwise(channels, 3, padding=1) | pointwise)
        for number, (kernel, padding, dilation) in enumerate(((1, 0, 1), (3, 1, 1), (3, 3, 3), (3, 5, 5)), start=1):
            view = nn.Sequential(_depthwise(width, kernel, padding, dilation))
            self.add_module(f"DWConv{number}", nn.Sequential(view, _convolution(width, width // 4, 1)))
        self.add_module(last, _convolution(width, 1, 1))
        self._last = last

    def refine(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 1, H, W), at least 0."""
        features = self.DWSConv(features)
        views = [self.get_submodule(f"DWConv{number}")(features) for number in (1, 2, 3, 4)]
        refined: Tensor = self.get_submodule(self._last)(torch.cat(views, dim=1) + features)
        return refined.relu()


class FrequencyEdge(Refinement):
    """Adds the edges of a feature map to it: what is left of it without its low frequencies (section 3.2)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, "conv")
        self.UAM = UnionAttention(channels, spatial=False)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        rows, columns = (torch.fft.fftfreq(side, 1 / side, device=features.device) for side in features.shape[-2:])
        is_high = rows[:, None] ** 2 + columns**2 >= HIGH_PASS_RADIUS**2
        details = torch.fft.ifft2(torch.fft.fft2(features) * is_high).abs()
        return features + self.refine(self.UAM.trace_channels(details)[0])


class UnionAttention(nn.Module):
    """Attention of the channels to each other, and then of the rows of the confident channels (section 3.3)."""

    def __init__(self, channels: int, spatial: bool) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.norm = nn.Sequential(nn.BatchNorm2d(channels))
        for name in ("channel_q", "channel_k", "channel_v", "fc"):
            self.add_module(name, nn.Conv2d(channels, channels, 1, bias=False))
        for name in ("spatial_q", "spatial_k", "spatial_v") if spatial else ():
            self.add_module(name, nn.Conv2d(channels, 1, 1, bias=False))

    def trace_channels(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> the same, weighted by the channels' attention, and the attention (B, C, 1, 1)."""
        pooled = self.norm(features.mean(dim=(2, 3), keepdim=True))
        query, key, value = (self.get_submodule(f"channel_{each}")(pooled).squeeze(-1) for each in "qkv")
        attended = (query @ key.transpose(1, 2)).softmax(dim=-1) @ value
        attention = self.get_submodule("fc")(attended.unsqueeze(-1)).sigmoid()
        return features * attention + features, attention

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 1, H, W)."""
        features, attention = self.trace_channels(features)
        threshold = attention.flatten(1).quantile(CONFIDENCE_RATIO, dim=1)[:, None, None, None]
        confident = self.bn(features) * attention.where(attention > threshold, 0)
        query, key, value = (self.get_submodule(f"spatial_{each}")(confident).squeeze(1) for each in "qkv")
        return ((query @ key.transpose(1, 2)).softmax(dim=-1) @ value + value).unsqueeze(1)


class ReceptiveField(nn.Module):
    """Four branches of growing dilation, joined and added to the input (Liu et al., ECCV 2018)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.branch0 = nn.Sequential(_convolution(inputs, outputs, 1))
        for number, side in enumerate((3, 5, 7), start=1):
            branch = nn.Sequential(
                _convolution(inputs, outputs, 1),
                _convolution(outputs, outputs, (1, side), padding=(0, side // 2)),
                _convolution(outputs, outputs, (side, 1), padding=(side // 2, 0)),
                _convolution(outputs, outputs, 3, padding=side, dilation=side),
            )
            self.add_module(f"branch{number}", branch)
        self.conv_cat = _convolution(4 * outputs, outputs, 3, padding=1)
        self.conv_res = _convolution(inputs, outputs, 1)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D, H, W)."""
        branches = [self.get_submodule(f"branch{number}")(features) for number in range(4)]
        joined: Tensor = self.conv_cat(torch.cat(branches, dim=1)) + self.conv_res(features)
        return joined.relu()


class Aggregation(nn.Module):
    """The three levels, each weighted by those below it, become one map of 1/8 of the picture's side."""

    def __init__(self, widths: tuple[int, int, int]) -> None:
        super().__init__()
        fine, middle, coarse = widths
        both, every = middle + coarse, fine + middle + coarse
        sizes = {
            "conv_upsample1": (coarse, middle), "conv_upsample2": (coarse, fine), "conv_upsample3": (middle, fine),
            "conv_upsample4": (coarse, coarse), "conv_upsample5": (both, both),
            "conv_concat2": (both, both), "conv_concat3": (every, every),
        }  # fmt: skip
        for name, (inputs, outputs) in sizes.items():
            self.add_module(name, _convolution(inputs, outputs, 3, padding=1))
        self.UAM = UnionAttention(every, spatial=True)

    def forward(self, coarse: Tensor, middle: Tensor, fine: Tensor) -> Tensor:
        """(B, 128, H/4, W/4), (B, 64, H/2, W/2), (B, 32, H, W) -> (B, 1, H, W)."""
        layer = self.get_submodule
        coarse_2 = _doubled(coarse)
        middle_weighted = layer("conv_upsample1")(coarse_2) * middle
        fine_weighted = layer("conv_upsample2")(_doubled(coarse_2)) * layer("conv_upsample3")(_doubled(middle)) * fine
        both = layer("conv_concat2")(torch.cat((middle_weighted, layer("conv_upsample4")(coarse_2)), dim=1))
        every = torch.cat((fine_weighted, layer("conv_upsample5")(_doubled(both))), dim=1)
        attended: Tensor = self.UAM(layer("conv_concat3")(every))
        return attended


def _doubled(features: Tensor) -> Tensor:
    return F.interpolate(features, scale_factor=2, mode="bilinear", align_corners=True)


class ObjectAttention(Refinement):
    """Refines a map by the features of the object and of the edge around it (section 3.4)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels // 2, "conv1")

    def forward(self, decoded: Tensor, features: Tensor) -> Tensor:
        """(B, 1, H, W) and (B, C, H, W) -> (B, 1, H, W)."""
        is_object = decoded.sigmoid()
        background = 1 - is_object
        is_edge = background.where(background <= DENOISING_RATIO, 0)
        return self.refine((is_object + is_edge) * features) + decoded
