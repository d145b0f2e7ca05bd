"""The weights of a file under a model's names, whatever program wrote the file.

They are found by their names, under any prefix; else by the names that timm's own conversion gives them; else by the
order of the layers, where only one position fits their shapes.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from inspect import signature
from itertools import chain
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from base.base_model import BaseModel
from base.weights import without_wrappers
from utils.checkpoint import read_foreign_checkpoint
from utils.errors import CheckpointError

HEADS = "heads."

_STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
"""Where programs keep the weights in what they save, the likeliest first."""

_RECOMPUTED = ("num_batches_tracked", "relative_position_index", "attn_mask")
"""Buffers that no prediction depends on, or that the model computes itself."""

_CONVERSIONS = ("checkpoint_filter_fn", "_filter_fn")
"""timm's names, in a model's module, for the function that converts other names and layouts to today's."""


@dataclass(frozen=True)
class Match:
    """The weights of a file that fit a model.

    weights: by the model's names
    missing: the model's weights that the file lacks
    unused: the file's other weights, by the file's names
    deeper: names of `unused` weights of further layers in the model's blocks: the file is of a deeper network
    how: how they were matched, for the log
    """

    weights: dict[str, Tensor]
    missing: dict[str, Tensor]
    unused: dict[str, Tensor]
    deeper: list[str]
    how: str

    @property
    def is_complete(self) -> bool:
        """Whether the file has the whole model, and is not of a deeper one."""
        return not self.missing and not self.deeper

    def problems(self, num_layers: int = 3) -> list[str]:
        """A line for each of the first missing and unused layers, with the shapes of their tensors."""
        unused = {name: self.unused[name] for name in self.deeper} or self.unused
        return [
            *_layer_lines("it lacks", self.missing, num_layers),
            *_layer_lines("it has, and the model does not,", unused, num_layers),
        ]


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights by name in a checkpoint of this or of any program, or a safetensors file. Raises CheckpointError."""
    weights = find_weights(read_foreign_checkpoint(path))
    if not weights:
        raise CheckpointError(f"{path}: holds no weights by name; save the model's state_dict")
    return without_wrappers(weights)


def find_weights(content: Any) -> dict[str, Tensor]:
    """The weights by name in nested dicts: under a usual key, or the largest dict of tensors; {} if there is none."""
    if not isinstance(content, Mapping):
        return {}
    if content.get("answers_with") == "average":  # of this program, see trainer/averaging.py
        return dict(content["averaging"]["average"])
    for key in _STATE_DICT_KEYS:
        if found := find_weights(content.get(key)):
            return found
    own = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    return own or max(map(find_weights, content.values()), key=len, default={})


def match_model(model: BaseModel, found: Mapping[str, Tensor]) -> Match:
    """The weights of a whole model: its backbone's as `match_weights` finds them, its heads' by their names alone."""
    heads = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(HEADS)}
    taken = {name: found[name] for name in heads if name in found and found[name].shape == heads[name].shape}
    backbone = getattr(model, "backbone", model)
    prefix = "" if backbone is model else "backbone."
    expected = {name: tensor for name, tensor in backbone.state_dict().items() if name not in heads}
    match = match_weights(expected, {name: each for name, each in found.items() if name not in taken}, backbone)
    weights = {f"{prefix}{name}": tensor for name, tensor in match.weights.items()} | taken
    missing = {f"{prefix}{name}": tensor for name, tensor in match.missing.items()}
    missing |= {name: tensor for name, tensor in heads.items() if name not in taken}
    return replace(match, weights=weights, missing=missing)


def match_weights(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], network: nn.Module) -> Match:
    """The weights of a model among those `found` in a file; where some are missing, the best match by name.

    expected: the model's own
    network: the model, for timm's conversion and the names of its classifier
    """
    by_name = _match_by_name(expected, found, network)
    if not by_name.missing:
        return by_name
    for how, renamed in chain(_by_conversion(found, network), _by_order(expected, found)):
        match = _match_by_name(expected, renamed, network)
        if match.is_complete:
            return replace(match, how=how)
    return by_name


def _match_by_name(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], network: nn.Module) -> Match:
    """By name, under the prefix that fits the most weights."""
    prefixes: Counter[str] = Counter()
    for name, tensor in found.items():
        steps = name.split(".")
        for number in range(len(steps)):
            short = ".".join(steps[number:])
            if short in expected and expected[short].shape == tensor.shape:
                prefixes[name.removesuffix(short)] += 1
    prefix = prefixes.most_common(1)[0][0] if prefixes else ""
    weights = {
        name: found[prefix + name]
        for name, tensor in expected.items()
        if prefix + name in found and found[prefix + name].shape == tensor.shape
    }
    classifiers = getattr(network, "pretrained_cfg", {}).get("classifier") or ()  # timm's, which the heads replace
    classifiers = (classifiers,) if isinstance(classifiers, str) else classifiers
    used = {f"{prefix}{name}.{kind}" for name in classifiers for kind in ("weight", "bias")}
    used |= {f"{prefix}{name}" for name in weights}
    blocks = {name.split(".")[0] for name in expected} - {name.split(".")[0] for name in classifiers}
    unused = _needed({name: tensor for name, tensor in found.items() if name not in used})
    return Match(
        weights,
        missing=_needed({name: tensor for name, tensor in expected.items() if name not in weights}),
        unused=unused,
        deeper=[name for name in unused if name.startswith(prefix) and name[len(prefix) :].split(".")[0] in blocks],
        how=f"by name, under {prefix}" if prefix else "by name",
    )


def _needed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(_RECOMPUTED)}


def _by_conversion(found: Mapping[str, Tensor], network: nn.Module) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """How, and the weights as timm's function for the network converts those under each of the file's first names."""
    functions = [getattr(sys.modules[type(network).__module__], name, None) for name in _CONVERSIONS]
    for convert in filter(None, functions):
        for prefix in ("", *dict.fromkeys(f"{name.split('.')[0]}." for name in found)):
            inside = {name.removeprefix(prefix): each for name, each in found.items() if name.startswith(prefix)}
            outside = {name: each for name, each in found.items() if not name.startswith(prefix)}
            arguments = (inside, network)[: len(signature(convert).parameters)]
            try:
                converted = convert(*arguments)
            except Exception:  # it was written for certain files, and this may be any
                continue
            yield "by the names that timm converts them to", dict(converted) | outside


def _by_order(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """How, and the weights with the only run of tensors that have the model's kinds and shapes in its order renamed."""
    for ours, theirs in ((expected, found), (_needed(expected), _needed(found))):
        kinds, file_kinds = (
            [(name.split(".")[-1], tensor.shape) for name, tensor in tensors.items()] for tensors in (ours, theirs)
        )
        starts = [at for at in range(len(file_kinds)) if file_kinds[at : at + len(kinds)] == kinds]
        if len(starts) == 1:
            names = dict(zip(list(theirs)[starts[0] :], ours, strict=False))
            first, own = next(iter(names.items()))
            how = f"by the order and the shapes of the layers ({first} is {own}, ...)"
            rest = {name: tensor for name, tensor in found.items() if name not in names}
            yield how, rest | {own: found[name] for name, own in names.items()}


def _layer_lines(text: str, tensors: Mapping[str, Tensor], shown: int) -> list[str]:
    layers: dict[str, list[str]] = {}
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition(".")
        layers.setdefault(layer, []).append(f"{kind} {tuple(tensor.shape)}")
    lines = [f"{text} {layer}: {', '.join(kinds)}" for layer, kinds in layers.items()]
    return lines if len(lines) <= shown else [*lines[:shown], f"... and {len(lines) - shown} more layers"]
