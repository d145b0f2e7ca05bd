"""A list of preparation steps applied to a picture, and the report of what was not found."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from data_loader.preparation.networks import PictureNetwork

Found = list[np.ndarray | None]
"""What each step of a preparation found in a picture; None: nothing."""


class PreparationStep(ABC):
    """One step of a preparation; its subclasses are dataclasses whose fields are its settings.

    A step has two halves: `find` looks at the picture and may take a network and a second; `apply` changes the picture
    by what was found, which takes a millisecond. What was found is small and may be kept.
    Several threads may call a step at the same time.

    fallback: what `apply` does where nothing was found, for reports
    network: that `find` asks
    """

    fallback: ClassVar[str]
    network: PictureNetwork

    @abstractmethod
    def find(self, image: np.ndarray) -> np.ndarray | None:
        """What the step looks for in an image (H, W, 3) uint8, as a small array; None where it is not found.

        Raises ConfigError where a package or the weights of a network cannot be used."""

    @abstractmethod
    def apply(self, image: np.ndarray, found: np.ndarray | None) -> np.ndarray:
        """The prepared image (h, w, 3) uint8, a new array.

        found: what `find` returned for the same image"""

    @property
    @abstractmethod
    def network_name(self) -> str:
        """The file of the network, or what else the config calls it."""

    def to_config(self) -> dict[str, Any]:
        """Plain data: the step as a config names it, with every setting, and the network."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        settings = {name: str(value) if isinstance(value, Path) else value for name, value in fields.items()}
        return {"type": type(self).__name__, "args": settings, "network": self.network.key}

    @property
    def key(self) -> dict[str, Any]:
        """Plain data: steps with equal keys prepare a picture alike. Paths of files are not part of it."""
        config = self.to_config()
        return {**config, "args": {name: value for name, value in config["args"].items() if name != "weights_file"}}

    def __deepcopy__(self, memo: dict[int, Any]) -> PreparationStep:
        return self  # a copy would load its network again


class Preparation:
    """Steps that are applied to a picture in order.

    steps: may be none, and then a picture is returned as it is
    """

    def __init__(self, steps: Sequence[PreparationStep]) -> None:
        self.steps = list(steps)

    @property
    def key(self) -> list[dict[str, Any]]:
        """Plain data: preparations with equal keys prepare a picture alike."""
        return [step.key for step in self.steps]

    def to_config(self) -> list[dict[str, Any]]:
        """Plain data, for the checkpoint; `saved_preparation` in build.py is the inverse."""
        return [step.to_config() for step in self.steps]

    def find(self, image: np.ndarray) -> Found:
        """By step, what it finds in the image that the steps before it make."""
        found: Found = []
        for number, step in enumerate(self.steps):
            found.append(step.find(image))
            if number + 1 < len(self.steps):
                image = step.apply(image, found[-1])
        return found

    def apply(self, image: np.ndarray, found: Found) -> np.ndarray:
        """The prepared image (h, w, 3) uint8.

        found: what `find` returned for the same image"""
        for step, each in zip(self.steps, found, strict=True):
            image = step.apply(image, each)
        return image

    def fallbacks(self, found: Sequence[object | None]) -> list[str]:
        """What was not found in a picture and done instead, a line for each such step.

        found: by step, None where nothing was found"""
        pairs = zip(self.steps, found, strict=True)
        return [f"{type(step).__name__}: {step.fallback}" for step, each in pairs if each is None]

    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, list[str]]:
        """The prepared image (h, w, 3) uint8 and its fallbacks."""
        found = self.find(image)
        return self.apply(image, found), self.fallbacks(found)


def fallback_report(fallbacks: Iterable[tuple[str, Sequence[str]]], listed: int = 10) -> list[str]:
    """Lines that count the fallbacks of many pictures and list the first pictures of each.

    fallbacks: of each picture its name and what `Preparation.fallbacks` returned; pictures without any count too
    listed: how many names a line holds"""
    names: dict[str, list[str]] = {}
    total = 0
    for name, texts in fallbacks:
        total += 1
        for text in texts:
            names.setdefault(text, []).append(name)
    lines = []
    for text, each in sorted(names.items()):
        more = f" and {len(each) - listed:,} more" if len(each) > listed else ""
        share = len(each) / total
        lines.append(f"{text}: {len(each):,} of {total:,} pictures ({share:.1%}): {', '.join(each[:listed])}{more}")
    return lines or [f"all {total:,} pictures were prepared without a fallback"]
