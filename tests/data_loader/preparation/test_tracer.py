"""TRACER takes the published files and computes what the authors' program does."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from data_loader.preparation.tracer import SCALES, Tracer, read_tracer
from utils.errors import CheckpointError

Layout = dict[str, tuple[int, ...]]

WIDTHS = (1.0, 1.0, 1.1, 1.2, 1.4, 1.6, 1.8, 2.0)
DEPTHS = (1.0, 1.1, 1.2, 1.4, 1.8, 2.2, 2.6, 3.1)
STAGES = ((1, 3, 1, 16), (2, 3, 6, 24), (2, 5, 6, 40), (3, 3, 6, 80), (3, 5, 6, 112), (4, 5, 6, 192), (1, 3, 6, 320))
"""Of EfficientNet-B0: blocks, kernel, expansion, channels (Tan and Le 2019, table 1)."""

AUTHORS = {
    0: [[0.152753, 0.200720], [0.195055, 0.236451]],
    1: [[0.409989, 0.326449], [0.422948, 0.312647]],
}
"""The mean of each quarter of the map that the authors' program computes with `weights_of(number)` of `picture()`."""


def published_layout(number: int) -> Layout:
    """The names and shapes of TRACER-Efficient-<number>.pth without "module.", by the papers' tables."""
    return dict(_layout(number))


def _layout(number: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    def rounded(channels: int) -> int:
        scaled = channels * WIDTHS[number]
        nearest = max(8, int(scaled + 4) // 8 * 8)
        return nearest + 8 if nearest < 0.9 * scaled else nearest

    stem = rounded(32)
    yield "model._conv_stem.weight", (stem, 3, 3, 3)
    yield from _norm("model._bn0", stem)
    inputs, index, levels = stem, 0, []
    for blocks, kernel, expansion, channels in STAGES:
        outputs = rounded(channels)
        for _ in range(math.ceil(blocks * DEPTHS[number])):
            yield from _block(f"model._blocks.{index}", inputs, outputs, kernel, expansion)
            inputs, index = outputs, index + 1
        levels.append(outputs)
    first, second, third, fourth = (levels[stage] for stage in (1, 2, 4, 6))
    yield from _refinement("model.Frequency_Edge_Module1", first, first, "conv")
    yield from _attention("model.Frequency_Edge_Module1.UAM", first)
    for name, channels, width in (("rfb2", second, 32), ("rfb3", third, 64), ("rfb4", fourth, 128)):
        yield from _unit(f"{name}.branch0.0", channels, width, (1, 1))
        for branch, side in ((1, 3), (2, 5), (3, 7)):
            yield from _unit(f"{name}.branch{branch}.0", channels, width, (1, 1))
            for step, kernels in enumerate(((1, side), (side, 1), (3, 3)), start=1):
                yield from _unit(f"{name}.branch{branch}.{step}", width, width, kernels)
        yield from _unit(f"{name}.conv_cat", 4 * width, width, (3, 3))
        yield from _unit(f"{name}.conv_res", channels, width, (1, 1))
    for name, inner, outer in (("upsample1", 128, 64), ("upsample2", 128, 32), ("upsample3", 64, 32),
                               ("upsample4", 128, 128), ("upsample5", 192, 192), ("concat2", 192, 192),
                               ("concat3", 224, 224)):  # fmt: skip
        yield from _unit(f"agg.conv_{name}", inner, outer, (3, 3))
    yield from _attention("agg.UAM", 224)
    for each in "qkv":
        yield f"agg.UAM.spatial_{each}.weight", (1, 224, 1, 1)
    yield from _refinement("ObjectAttention2", second, second // 2, "conv1")
    yield from _refinement("ObjectAttention1", first, first // 2, "conv1")


def _norm(name: str, channels: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for each in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.{each}", (channels,)
    yield f"{name}.num_batches_tracked", ()


def _unit(name: str, inputs: int, outputs: int, kernel: tuple[int, int]) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.conv.weight", (outputs, inputs, *kernel)
    yield from _norm(f"{name}.bn", outputs)


def _block(name: str, inputs: int, outputs: int, kernel: int, expansion: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    wide, squeezed = inputs * expansion, max(1, inputs // 4)
    if expansion > 1:
        yield f"{name}._expand_conv.weight", (wide, inputs, 1, 1)
        yield from _norm(f"{name}._bn0", wide)
    yield f"{name}._depthwise_conv.weight", (wide, 1, kernel, kernel)
    yield from _norm(f"{name}._bn1", wide)
    yield f"{name}._se_reduce.weight", (squeezed, wide, 1, 1)
    yield f"{name}._se_reduce.bias", (squeezed,)
    yield f"{name}._se_expand.weight", (wide, squeezed, 1, 1)
    yield f"{name}._se_expand.bias", (wide,)
    yield f"{name}._project_conv.weight", (outputs, wide, 1, 1)
    yield from _norm(f"{name}._bn2", outputs)


def _refinement(name: str, channels: int, width: int, last: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.DWSConv.DWConv.weight", (channels, 1, 3, 3)
    yield from _norm(f"{name}.DWSConv.bn", channels)
    yield f"{name}.DWSConv.PWConv.weight", (width, channels, 1, 1)
    yield from _norm(f"{name}.DWSConv.bn2", width)
    for number, kernel in enumerate((1, 3, 3, 3), start=1):
        yield f"{name}.DWConv{number}.0.DWConv.weight", (width, 1, kernel, kernel)
        yield from _norm(f"{name}.DWConv{number}.0.bn", width)
        yield from _unit(f"{name}.DWConv{number}.1", width, width // 4, (1, 1))
    yield from _unit(f"{name}.{last}", width, 1, (1, 1))


def _attention(name: str, channels: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _norm(f"{name}.bn", channels)
    yield from _norm(f"{name}.norm.0", channels)
    for each in ("channel_q", "channel_k", "channel_v", "fc"):
        yield f"{name}.{each}.weight", (channels, channels, 1, 1)


def weights_of(number: int) -> dict[str, Tensor]:
    """Waves, a different one for each name."""
    weights = {}
    for name, shape in published_layout(number).items():
        count = math.prod(shape)
        wave = torch.sin(torch.arange(count, dtype=torch.float64) ** 1.3 + zlib.crc32(name.encode()) % 1000)
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(7)
        elif name.endswith(("running_var", "bn.weight", "bn1.weight", "bn2.weight", "_bn0.weight", "norm.0.weight")):
            weights[name] = (1 + 0.4 * wave).reshape(shape).float()
        elif len(shape) == 1:
            weights[name] = (0.2 * wave).reshape(shape).float()
        else:
            weights[name] = (wave * 1.4 / math.sqrt(math.prod(shape[1:]))).reshape(shape).float()
    return weights


def picture() -> Tensor:
    """(1, 3, 160, 160): a bright disc before stripes."""
    rows, columns = torch.meshgrid(torch.arange(160.0), torch.arange(160.0), indexing="ij")
    disc = ((rows - 60) ** 2 + (columns - 90) ** 2 < 1600).float()
    return torch.stack([2 * disc, torch.sin(columns / 7), disc - torch.cos(rows / 11)])[None]


def save(path: Path, number: int, prefix: str = "module.") -> Path:
    torch.save({prefix + name: tensor for name, tensor in weights_of(number).items()}, path)
    return path


@pytest.mark.parametrize("number", range(len(SCALES)))
def test_every_weight_of_the_published_files_has_its_place(number: int) -> None:
    with torch.device("meta"):
        network = Tracer(number)
    published = {name: torch.empty(shape, device="meta") for name, shape in published_layout(number).items()}
    taken = {name: tuple(tensor.shape) for name, tensor in network.translated(published).items()}
    assert taken == {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize("number", AUTHORS)
def test_it_computes_what_the_authors_program_does(number: int, tmp_path: Path) -> None:
    network, pixels = read_tracer(save(tmp_path / "tracer.pth", number))
    assert pixels == 320
    with torch.inference_mode():
        found = network(picture())
    assert found.shape == (1, 1, 160, 160)
    np.testing.assert_allclose(F.avg_pool2d(found, 80)[0, 0].numpy(), AUTHORS[number], atol=2e-5)


def test_other_files_are_refused(tmp_path: Path) -> None:
    for content in ({"weight": torch.zeros(2)}, {"state_dict": {"model._blocks.0._bn1.weight": torch.ones(3)}}):
        torch.save(content, tmp_path / "other.pth")
        with pytest.raises(CheckpointError, match=r"other\.pth.*TRACER"):
            read_tracer(tmp_path / "other.pth")
    weights = weights_of(0)
    del weights["agg.UAM.fc.weight"]
    torch.save(weights, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"agg\.UAM\.fc\.weight"):
        read_tracer(tmp_path / "other.pth")
