"""One attribute: its classes, and how a raw value becomes one of them."""

from __future__ import annotations

import bisect
import itertools
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from pydantic import ConfigDict, with_config

from base.batch import UNKNOWN
from utils.errors import DataError, Problem


@with_config(ConfigDict(extra="forbid", strict=True))
class AttributeSpec(TypedDict, total=False):
    """An attribute as JSON has it: `classes`, or the `bins` of a number; the rest is optional, for `bins` only.

    classes: the names
    bins: rising edges, a value v is in class i when bins[i-1] <= v < bins[i]
    training_bins: other edges for training, the same in number (compared one to one) or a refinement of `bins`
    training_to_scoring: for each training bin its scoring class, where the edges do not determine it
    limits: [lowest, highest] value that is accepted
    """

    classes: list[str]
    bins: list[float]
    training_bins: list[float]
    training_to_scoring: list[int]
    limits: list[float]


@dataclass(frozen=True)
class ScoredClass:
    """A raw value of which only the scored class is known, as of an answer: no number of an attribute with bins."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Attribute:
    """One attribute: its scored classes, and the classes (finer ones, perhaps) that a model is trained on."""

    name: str
    class_names: tuple[str, ...]
    training_class_names: tuple[str, ...]
    training_to_scoring: tuple[int, ...]
    bins: tuple[float, ...] | None = None
    training_bins: tuple[float, ...] | None = None
    limits: tuple[float, float] | None = None

    def number(self, raw: Any) -> float:
        """The raw value of a binned attribute as a number; NaN of a ScoredClass. Raises DataError if it is none, or is
        beyond the limits."""
        if isinstance(raw, ScoredClass):
            return math.nan
        try:
            value = float(raw)
        except (TypeError, ValueError):
            value = math.nan
        if isinstance(raw, bool) or not math.isfinite(value):
            limits = f" within {self.limits[0]:g} to {self.limits[1]:g}" if self.limits else ""
            raise DataError(f"{self.name} = {raw!r} is not a number{limits}; correct it, or leave it empty")
        if self.limits and not self.limits[0] <= value <= self.limits[1]:
            raise DataError(f"{self.name} = {raw!r} is not within {self.limits[0]:g} to {self.limits[1]:g}")
        return value

    def scoring_class(self, raw: Any) -> int:
        """The class that is scored, or -1 if `raw` is unknown. Raises DataError for a value that is no class."""
        if isinstance(raw, ScoredClass):
            return self._class(raw, self.class_names, None)
        return self._class(raw, self.class_names, self.bins)

    def training_class(self, raw: Any) -> int:
        """The class that the model is trained on, or -1 if `raw` is unknown, or is a ScoredClass that several training
        classes are scored as."""
        if isinstance(raw, ScoredClass):
            scored = self.scoring_class(raw)
            found = [number for number, each in enumerate(self.training_to_scoring) if each == scored]
            return found[0] if len(found) == 1 else UNKNOWN
        return self._class(raw, self.training_class_names, self.training_bins)

    def _class(self, raw: Any, names: tuple[str, ...], bins: tuple[float, ...] | None) -> int:
        if is_unknown(raw):
            return UNKNOWN
        if bins is not None:
            return bisect.bisect_right(bins, self.number(raw))
        composed = [unicodedata.normalize("NFC", name) for name in names]
        try:
            return composed.index(unicodedata.normalize("NFC", str(raw).strip()))
        except ValueError:
            raise DataError(f"{self.name} = {raw!r} is not one of {', '.join(names)}") from None


def is_unknown(raw: Any) -> bool:
    """True for None, NaN and an empty text: the value is not known."""
    return raw is None or (isinstance(raw, float) and math.isnan(raw)) or (isinstance(raw, str) and not raw.strip())


def attribute_from(name: str, spec: AttributeSpec, problems: list[Problem]) -> Attribute | None:
    """The attribute of a spec; adds what is wrong to `problems`, and returns None where none can be made."""

    def report(text: str, *keys: str) -> None:
        problems.append(Problem(("attributes", name, *keys), text))

    if ("classes" in spec) == ("bins" in spec):
        report('must have either "classes" or "bins"')
        return None
    if "classes" in spec:
        for key in ("training_bins", "training_to_scoring", "limits"):
            if key in spec:
                report('is for "bins", not for "classes"', key)
        classes = tuple(spec["classes"])
        if len(classes) < 2 or len(set(classes)) != len(classes) or any(not n or n != n.strip() for n in classes):
            report(f"= {[*classes]} must be two or more names, each once, not empty, without spaces around", "classes")
        return Attribute(name, classes, classes, tuple(range(len(classes))))
    before, limits = len(problems), spec.get("limits")
    if limits is not None and not (len(limits) == 2 and limits[0] < limits[1]):
        report(f"= {limits} must be [lowest, highest]", "limits")
        limits = None
    bins, training_bins = spec["bins"], spec.get("training_bins", spec["bins"])
    for key, edges in {"bins": bins, "training_bins": training_bins}.items():
        rise = all(low < high for low, high in itertools.pairwise(edges))
        if not edges or not rise or not all(map(math.isfinite, edges)):
            report(f"= {edges} must have at least one edge, and the edges must rise", key)
            break
        if limits and key in spec and not limits[0] < edges[0] <= edges[-1] <= limits[1]:
            report(f"= {edges} must be within limits = {limits}, or some class has no value", key)
    if len(problems) > before:
        return None
    mapping = spec.get("training_to_scoring")
    if mapping is not None:
        every = [*range(len(bins) + 1)]
        if len(mapping) != len(training_bins) + 1 or mapping != sorted(mapping) or sorted({*mapping}) != every:
            wrong = f"= {mapping} must give each of the {len(training_bins) + 1} training bins a scoring class of 0 to "
            report(f"{wrong}{len(bins)}, rising, each class at least once", "training_to_scoring")
    elif len(training_bins) == len(bins):
        mapping = [*range(len(bins) + 1)]
    else:
        if missing := [edge for edge in bins if edge not in training_bins]:
            wrong = f"= {training_bins} do not map to bins = {bins}: they lack the edge {missing[0]:g}"
            report(f"{wrong}; add it, or set training_to_scoring", "training_bins")
        mapping = [bisect.bisect_right(bins, edge) for edge in (-math.inf, *training_bins)]
    return Attribute(
        name, _bin_names(bins), _bin_names(training_bins), tuple(mapping), tuple(bins), tuple(training_bins),
        (limits[0], limits[1]) if limits else None,
    )  # fmt: skip


def _bin_names(bins: Sequence[float]) -> tuple[str, ...]:
    """[30, 60] -> "<30", "30-59", ">=60" (edges that are not whole numbers: "30-60")."""
    whole = all(float(edge).is_integer() for edge in bins)
    inner = [f"{low:g}-{high - 1 if whole else high:g}" for low, high in itertools.pairwise(bins)]
    return (f"<{bins[0]:g}", *inner, f">={bins[-1]:g}")
