"""Weights under other programs' names, fitted to a model of ours: by suffixes, shapes, order and the heads' words."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from base.base_model import BaseModel
from base.label_space import LabelSpace
from base.weights import without_wrappers
from utils.errors import CheckpointError, ConfigError

STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
"""Where programs keep the weights in what they save, the likeliest first."""

BACKBONE, HEADS = "backbone.", "heads."
RECOUNTED = ("num_batches_tracked", "relative_position_index", "attn_mask")
"""Buffers that no answer depends on, or that the model makes itself."""

COMMON_ATTRIBUTES = frozenset({"mask", "gender", "sex", "age"})
"""What layers are called after though the config may not know of it: a head of ages must not become one of masks."""

DEEPEST = 3
"""How many dicts deep the weights are looked for."""

SHOWN = 8


def state_dict_in(content: Any, path: Path) -> dict[str, Tensor]:
    """The weights by name in what `read_foreign_checkpoint` gives. Raises CheckpointError where there are none."""
    if found := list(_state_dicts(content)):
        _, _, weights = min(found, key=lambda each: each[:2])
        return dict(weights)
    holds = (
        f"a dict with {', '.join(map(str, list(content)[:8]))}" if isinstance(content, Mapping) else "something else"
    )
    raise CheckpointError(f"{path}: holds no weights by name (it holds {holds}); save the model's state_dict")


def _state_dicts(
    content: Any, depth: int = 0, unlikely: bool = False
) -> Iterator[tuple[bool, int, Mapping[str, Tensor]]]:
    """Every one in nested dicts: whether it lies anywhere but under STATE_DICT_KEYS, how deep, and itself; the
    likeliest keys first."""
    if _is_state_dict(content):
        yield unlikely, depth, content
    elif isinstance(content, Mapping) and depth < DEEPEST:
        for key in [*(key for key in STATE_DICT_KEYS if key in content), *content]:
            yield from _state_dicts(content[key], depth + 1, unlikely or key not in STATE_DICT_KEYS)


def _is_state_dict(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items())
    )


class Fitting:
    """Finds each weight of `model` among foreign ones, and says how.

    weights: by the model's names, what was found; left: the foreign ones that belong to none; notes: lines for the log.
    renames: (old, new): a layer, or the layers under a name, of the file that are to be called otherwise; new may be
    empty, which leaves them out. Raises ConfigError for an old name that the file does not have."""

    def __init__(
        self,
        model: BaseModel,
        labels: LabelSpace,
        foreign: Mapping[str, Tensor],
        renames: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.model, self.labels = model, labels
        self.expected: dict[str, Tensor] = model.state_dict()
        self.weights: dict[str, Tensor] = {}
        self.left = _renamed(without_wrappers(foreign), renames)
        self.notes: list[str] = []
        self._classifier_prefix = ""
        self._take_same_names()
        self._fit_body()
        for name in labels.heads:
            self._fit_head(name)
        self._drop_what_nothing_needs()

    def problems(self) -> list[str]:
        """What does not fit, a line each, with what to do; none if every weight was found and every one was used."""
        lacking = {name: tensor for name, tensor in self.expected.items() if name not in self.weights}
        if not lacking and not self.left:
            return []
        lines = [f"{len(self.weights)} of the {len(self.expected)} weights of {self.model.summary()} were found"]
        lines += _listed("the file lacks", lacking) + _listed("the model has no place for", self.left)
        return [
            *lines,
            "--rename old=new gives a layer of the file the model's name for it, --rename old= leaves one out; where "
            "whole parts differ, another arch.args.model_name, other labels.heads or other bins may describe the model",
        ]

    def _take(self, name: str, foreign_name: str) -> None:
        self.weights[name] = self.left.pop(foreign_name)

    def _fits(self, name: str, tensor: Tensor | None) -> bool:
        return tensor is not None and tensor.shape == self.expected[name].shape

    def _take_same_names(self) -> None:
        for name in self.expected:
            if self._fits(name, self.left.get(name)):
                self._take(name, name)

    # --- the body ---

    def _fit_body(self) -> None:
        """All but the heads: under any prefix, as timm called it in other versions, or in the same order."""
        own = BACKBONE if any(name.startswith(BACKBONE) for name in self.expected) else ""
        body = {
            name.removeprefix(own): name
            for name in self.expected
            if not name.startswith(HEADS) and name not in self.weights
        }
        needed = {short: name for short, name in body.items() if not short.endswith(RECOUNTED)}
        prefix = self._likeliest_prefix(needed)
        part = {name.removeprefix(prefix): name for name in self.left if name.startswith(prefix)}
        whole = all(self._fits(name, self.left.get(part.get(short, ""))) for short, name in needed.items())
        if not whole and (self._fit_by_timm(needed, prefix) or self._fit_in_order(needed)):
            return
        for short, name in body.items():
            if short in part and self._fits(name, self.left[part[short]]):
                self._take(name, part[short])
        if prefix and needed:
            self.notes.append(f"the backbone's weights are those under {prefix}")
        self._classifier_prefix = prefix

    def _likeliest_prefix(self, needed: Mapping[str, str]) -> str:
        """What stands before the most names that, without it, are names and shapes of the body; ends in a dot."""
        counts: Counter[str] = Counter()
        for foreign_name, tensor in self.left.items():
            steps = foreign_name.split(".")
            for number in range(len(steps)):
                short = ".".join(steps[number:])
                if short in needed and self._fits(needed[short], tensor):
                    counts["".join(f"{step}." for step in steps[:number])] += 1
        return counts.most_common(1)[0][0] if counts else ""

    def _fit_by_timm(self, needed: Mapping[str, str], likeliest_prefix: str) -> bool:
        """timm itself turns its earlier names, and those of the networks' authors, into today's, by a function beside
        the model's class."""
        backbone = getattr(self.model, BACKBONE.rstrip("."), None)
        convert = getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None)
        if convert is None:
            return False
        for prefix in dict.fromkeys([likeliest_prefix, *self._beginnings()]):
            part = {name: tensor for name, tensor in self.left.items() if name.startswith(prefix)}
            try:
                found = dict(convert({name.removeprefix(prefix): tensor for name, tensor in part.items()}, backbone))
            except Exception:  # it was made for files of timm's, and this may be any
                continue
            if all(self._fits(name, found.get(short)) for short, name in needed.items()):
                self.weights |= {name: found[short] for short, name in needed.items()}
                rest = {f"{prefix}{short}": tensor for short, tensor in found.items() if short not in needed}
                self.left = {name: tensor for name, tensor in self.left.items() if name not in part} | rest
                self.notes.append(
                    f"the backbone's weights are those under {prefix or 'no prefix'}, in an earlier layout"
                )
                self._classifier_prefix = prefix
                return True
        return False

    def _fit_in_order(self, needed: Mapping[str, str]) -> bool:
        """The same kinds of tensors of the same shapes in the same order: nn.Sequential(*backbone.children()), and
        other programs' forms of the same network."""
        wanted = [(short.split(".")[-1], self.expected[name].shape) for short, name in needed.items()]
        for prefix in self._beginnings():
            names = [name for name in self.left if name.startswith(prefix) and not name.endswith(RECOUNTED)]
            names = names[: len(wanted)]
            if [(name.split(".")[-1], self.left[name].shape) for name in names] == wanted:
                for name, foreign_name in zip(needed.values(), names, strict=True):
                    self._take(name, foreign_name)
                self.notes.append(
                    f"the backbone's {len(wanted)} weights were matched by order and shapes, as their names differ "
                    f"({names[0]} is {next(iter(needed))}, ...): make sure that the model answers as it did"
                )
                return True
        return False

    def _beginnings(self) -> list[str]:
        """What the names of the part that is the backbone may begin with."""
        return ["", *dict.fromkeys(f"{name.split('.')[0]}." for name in self.left)]

    # --- the heads ---

    def _fit_head(self, head: str) -> None:
        """The one layer whose name has the head's words and no other head's; or the only layer for the only head."""
        ours = f"{HEADS}head_{head}"
        if f"{ours}.weight" in self.weights:
            return
        layers = {
            name.removesuffix(".weight")
            for name in self.left
            if name.endswith(".weight") and self._fits(f"{ours}.weight", self.left[name])
        }
        layers = {layer for layer in layers if self._fits(f"{ours}.bias", self.left.get(f"{layer}.bias"))}
        named = {layer for layer in layers if self._spoken_of(layer) in self._called(head)}
        unnamed = {layer for layer in layers if not self._spoken_of(layer)} if len(self.labels.heads) == 1 else set()
        chosen = named or unnamed
        if len(chosen) == 1:
            layer = chosen.pop()
            for kind in ("weight", "bias"):
                self._take(f"{ours}.{kind}", f"{layer}.{kind}")
            classes = ", ".join(f"{number} {name}" for number, name in enumerate(self.labels.heads[head].class_names))
            self.notes.append(f"the head {head} is {layer}; its classes are taken to be {classes}")

    def _called(self, head: str) -> list[set[str]]:
        """The words that a head may go by: those of its name, or those of its attributes."""
        attributes = " ".join(attribute.name for attribute in self.labels.heads[head].attributes)
        return [_words(head), _words(attributes)]

    def _spoken_of(self, layer: str) -> set[str]:
        """The words of a layer's name that some head goes by, or an attribute of this or of any program."""
        called = [words for head in self.labels.heads for words in self._called(head)]
        return _words(layer) & set().union(COMMON_ATTRIBUTES, *called, *map(_words, self.labels.attributes))

    def _drop_what_nothing_needs(self) -> None:
        """Buffers that the model makes itself, and timm's own classifier where heads have taken its place."""
        for name, tensor in self.expected.items():
            if name.endswith(RECOUNTED):
                self.weights.setdefault(name, tensor)
        unneeded = [name for name in self.left if name.endswith(RECOUNTED)]
        if self.weights.keys() == self.expected.keys():
            backbone = getattr(self.model, BACKBONE.rstrip("."), None)
            classifiers = getattr(backbone, "pretrained_cfg", {}).get("classifier") or ()
            classifiers = (classifiers,) if isinstance(classifiers, str) else classifiers
            own = {f"{self._classifier_prefix}{each}.{kind}" for each in classifiers for kind in ("weight", "bias")}
            unneeded += [name for name in self.left if name in own]
        for name in unneeded:
            del self.left[name]


def _words(name: str) -> set[str]:
    """gender_out.0, genderOut -> {gender, out}: "age" must not be found in "image" and "stage"."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)}


def _renamed(foreign: Mapping[str, Tensor], renames: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    renamed = dict(foreign)
    for old, new in renames:
        inside = [name for name in renamed if name == old or name.startswith(f"{old}.")]
        if not inside:
            raise ConfigError(f"--rename {old}={new}: no weight of the file is called {old}, or begins with {old}.")
        for name in inside:
            tensor = renamed.pop(name)
            if new:
                renamed[f"{new}{name.removeprefix(old)}"] = tensor
    return renamed


def _listed(text: str, tensors: Mapping[str, Tensor]) -> list[str]:
    lines = [f"{text} {name} {tuple(tensor.shape)}" for name, tensor in list(tensors.items())[:SHOWN]]
    return lines if len(tensors) <= SHOWN else [*lines, f"... and {len(tensors) - SHOWN} more that {text}"]
