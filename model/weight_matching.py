"""The weights of a file under a model's names, whatever program wrote the file.

They are found by their names, under any prefix; else by the names that timm's own conversion gives them; else by the
order of the layers, where their shapes allow one way only.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from inspect import signature
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from base.base_model import BaseModel
from base.weights import without_wrappers
from utils.checkpoint import read_foreign_checkpoint
from utils.errors import CheckpointError

STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
"""Where programs keep the weights in what they save, the likeliest first."""

BACKBONE, HEADS = "backbone.", "heads."

RECOMPUTED = ("num_batches_tracked", "relative_position_index", "attn_mask")
"""Buffers that no prediction depends on, or that the model makes itself."""

CONVERSIONS = ("checkpoint_filter_fn", "_filter_fn")
"""What timm calls the function, beside a model's class, that turns other names and layouts into today's."""


@dataclass(frozen=True)
class Match:
    """Weights of a file that were matched to a model's.

    weights: by the model's names
    missing: the model's weights that the file lacks
    unused: the file's other weights, by the file's names
    deeper: those of `unused` that are of further layers beside the model's: the file is of a deeper network
    how: how they were matched, for the log
    """

    weights: dict[str, Tensor]
    missing: dict[str, Tensor]
    unused: dict[str, Tensor]
    deeper: list[str]
    how: str

    @property
    def is_complete(self) -> bool:
        """Whether the file holds the whole model, and of no deeper one."""
        return not self.missing and not self.deeper

    def problems(self, layers_shown: int = 3) -> list[str]:
        """What does not fit: a line for each of the first layers that are missing or unused, and how many more."""
        unused = {name: self.unused[name] for name in self.deeper} or self.unused
        return [
            *_layers("lacks", self.missing, layers_shown),
            *_layers("has, and the model does not,", unused, layers_shown),
        ]


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights by name in a checkpoint of this or of any program, or a safetensors file. Raises CheckpointError."""
    content = read_foreign_checkpoint(path)
    weights = find_weights(content)
    if not weights:
        holds = f"a dict with {', '.join(map(str, list(content)[:8]))}" if isinstance(content, Mapping) else "no dict"
        raise CheckpointError(f"{path}: holds no weights by name (it holds {holds}); save the model's state_dict")
    return without_wrappers(weights)


def find_weights(content: Any) -> dict[str, Tensor]:
    """The weights by name in nested dicts: under a key that tells of them, or the most that are together; or none."""
    if not isinstance(content, Mapping):
        return {}
    if content.get("answers_with") == "average":  # of this program, see trainer/averaging.py
        return dict(content["averaging"]["average"])
    for key in STATE_DICT_KEYS:
        if found := find_weights(content.get(key)):
            return found
    own = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    return own or max(map(find_weights, content.values()), key=len, default={})


def match_weights(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], network: nn.Module) -> Match:
    """The weights of a model among those `found` in a file; where some are missing, what the names give.

    expected: the model's own
    network: the model; timm has conversions for many of its own
    """
    by_name = match_by_name(expected, found, network)
    if not by_name.missing:
        return by_name
    for converted in _conversions(found, network):
        match = match_by_name(expected, converted, network)
        if match.is_complete:
            return replace(match, how="by the names that timm converts them to")
    return _match_by_order(expected, found) or by_name


def match_model(model: BaseModel, found: Mapping[str, Tensor]) -> Match:
    """The weights of a whole model: its backbone's as `match_weights` finds them, its heads' by their names alone."""
    heads = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(HEADS)}
    taken = {name: found[name] for name in heads if name in found and found[name].shape == heads[name].shape}
    backbone = getattr(model, "backbone", model)
    prefix = "" if backbone is model else BACKBONE
    expected = {name: tensor for name, tensor in backbone.state_dict().items() if name not in heads}
    match = match_weights(expected, {name: each for name, each in found.items() if name not in taken}, backbone)
    weights = {f"{prefix}{name}": tensor for name, tensor in match.weights.items()} | taken
    missing = {f"{prefix}{name}": tensor for name, tensor in match.missing.items()}
    missing |= {name: tensor for name, tensor in heads.items() if name not in taken}
    return replace(match, weights=weights, missing=missing)


def match_by_name(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], network: nn.Module) -> Match:
    """By the names that follow the prefix under which the most are found."""
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
    classifiers = getattr(network, "pretrained_cfg", {}).get("classifier") or ()  # timm's, whose place the heads take
    classifiers = (classifiers,) if isinstance(classifiers, str) else classifiers
    settled = {f"{prefix}{name}.{kind}" for name in classifiers for kind in ("weight", "bias")}
    settled |= {f"{prefix}{name}" for name in weights}
    layers = {name.split(".")[0] for name in expected} - {name.split(".")[0] for name in classifiers}
    unused = _without_recomputed({name: tensor for name, tensor in found.items() if name not in settled})
    return Match(
        weights,
        missing=_without_recomputed({name: tensor for name, tensor in expected.items() if name not in weights}),
        unused=unused,
        deeper=[name for name in unused if name.startswith(prefix) and name[len(prefix) :].split(".")[0] in layers],
        how=f"by name, under {prefix}" if prefix else "by name",
    )


def _without_recomputed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(RECOMPUTED)}


def _conversions(found: Mapping[str, Tensor], network: nn.Module) -> Iterator[dict[str, Tensor]]:
    """The weights as timm's function for the network turns them into today's names and layouts, taken from under any
    of the file's first names."""
    functions = [getattr(sys.modules[type(network).__module__], name, None) for name in CONVERSIONS]
    for convert in filter(None, functions):
        for prefix in ("", *dict.fromkeys(f"{name.split('.')[0]}." for name in found)):
            inside = {name.removeprefix(prefix): each for name, each in found.items() if name.startswith(prefix)}
            outside = {name: each for name, each in found.items() if not name.startswith(prefix)}
            try:
                takes_network = len(signature(convert).parameters) > 1
                converted = convert(inside, network) if takes_network else convert(inside)
            except Exception:  # it was made for certain files, and this may be any
                continue
            yield dict(converted) | outside


def _match_by_order(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> Match | None:
    """By the one stretch of the file whose tensors are of the same kinds and shapes in the same order."""
    for ours, theirs in ((expected, found), (_without_recomputed(expected), _without_recomputed(found))):
        kinds = [(name.split(".")[-1], tensor.shape) for name, tensor in ours.items()]
        file_names, file_kinds = list(theirs), [(name.split(".")[-1], each.shape) for name, each in theirs.items()]
        starts = [at for at in range(len(file_kinds)) if file_kinds[at : at + len(kinds)] == kinds]
        if len(starts) == 1:
            stretch = file_names[starts[0] : starts[0] + len(kinds)]
            weights = {name: found[file_name] for name, file_name in zip(ours, stretch, strict=True)}
            rest = {name: tensor for name, tensor in found.items() if name not in set(stretch)}
            how = f"by the order and the shapes of the layers ({stretch[0]} is {next(iter(ours))}, ...)"
            return Match(weights, {}, _without_recomputed(rest), [], how)
    return None


def _layers(text: str, tensors: Mapping[str, Tensor], shown: int) -> list[str]:
    """A line for each of the first layers with the shapes of its tensors, and one for how many more there are."""
    layers: dict[str, list[str]] = {}
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition(".")
        layers.setdefault(layer, []).append(f"{kind} {tuple(tensor.shape)}")
    lines = [f"it {text} {layer}: {', '.join(kinds)}" for layer, kinds in layers.items()]
    return lines if len(lines) <= shown else [*lines[:shown], f"... and {len(lines) - shown} more layers"]
