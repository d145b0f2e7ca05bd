"""One attribute: its classes, how a raw value becomes one of them, and what JSON may say of it."""

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
from utils.errors import DataError, KeyPath, Problem


@with_config(ConfigDict(extra="forbid", strict=True))
class AttributeSpec(TypedDict, total=False):
    """An attribute as JSON has it: `classes`, or the `bins` of a number; the rest is optional and goes with `bins`.

    bins: rising edges, a value v is in class i when bins[i-1] <= v < bins[i];
    training_bins: other edges for training, the same in number (compared one to one) or a refinement of `bins`;
    training_to_scoring: for each training bin its scoring class, where the edges alone do not say it;
    limits: [lowest, highest] value that is believed.
    """

    classes: list[str]
    bins: list[float]
    training_bins: list[float]
    training_to_scoring: list[int]
    limits: list[float]


@dataclass(frozen=True)
class Attribute:
    """One attribute: names of the scored classes, and the (perhaps finer) classes that a model is trained on."""

    name: str
    class_names: tuple[str, ...]
    training_class_names: tuple[str, ...]
    training_to_scoring: tuple[int, ...]
    bins: tuple[float, ...] | None = None
    training_bins: tuple[float, ...] | None = None
    limits: tuple[float, float] | None = None

    def number(self, raw: Any) -> float:
        """The raw value of a binned attribute as a number. Raises DataError if it is none, or is beyond the limits."""
        try:
            value = float(raw)
        except (TypeError, ValueError):
            value = math.nan
        if isinstance(raw, bool) or not math.isfinite(value):
            raise DataError(f"{self.name} = {raw!r} is not a number")
        if self.limits and not self.limits[0] <= value <= self.limits[1]:
            raise DataError(f"{self.name} = {raw!r} is not within {self.limits[0]:g} to {self.limits[1]:g}")
        return value

    def scoring_class(self, raw: Any) -> int:
        """The class that is scored, or -1 if `raw` is unknown. Raises DataError for a value that is no class."""
        return self._class(raw, self.class_names, self.bins)

    def training_class(self, raw: Any) -> int:
        """The class that the model is trained on, or -1 if `raw` is unknown."""
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
    """The attribute that `spec` describes; adds what is wrong to `problems`, and gives None where none can be made."""
    key_path = ("attributes", name)
    if ("classes" in spec) == ("bins" in spec):
        problems.append(Problem(key_path, 'must have either "classes" or "bins"'))
        return None
    if "classes" in spec:
        for key in ("training_bins", "training_to_scoring", "limits"):
            if key in spec:
                problems.append(Problem((*key_path, key), 'goes with "bins", not with "classes"'))
        classes = tuple(spec["classes"])
        if len(classes) < 2 or len(set(classes)) != len(classes):
            wrong = f"= {list(classes)} must name at least two classes, each once"
            problems.append(Problem((*key_path, "classes"), wrong))
        elif any(not name or name != name.strip() for name in classes):
            wrong = f"= {list(classes)} must not be empty or have spaces around: no value would fit"
            problems.append(Problem((*key_path, "classes"), wrong))
        return Attribute(name, classes, classes, tuple(range(len(classes))))
    bins, training_bins = spec["bins"], spec.get("training_bins", spec["bins"])
    limits = spec.get("limits")
    if limits is not None and not (len(limits) == 2 and limits[0] < limits[1]):
        problems.append(Problem((*key_path, "limits"), f"= {limits} must be [lowest, highest]"))
        limits = None
    if not (
        _rises((*key_path, "bins"), bins, problems) and _rises((*key_path, "training_bins"), training_bins, problems)
    ):
        return None
    for key, edges in {"bins": bins, "training_bins": training_bins}.items():
        if limits and key in spec and not limits[0] < edges[0] <= edges[-1] <= limits[1]:
            wrong = f"= {list(edges)} must lie within limits = {limits}, or some class has no value"
            problems.append(Problem((*key_path, key), wrong))
    mapping = _training_to_scoring(key_path, bins, training_bins, spec.get("training_to_scoring"), problems)
    return Attribute(
        name,
        _bin_names(bins),
        _bin_names(training_bins),
        mapping,
        tuple(bins),
        tuple(training_bins),
        (limits[0], limits[1]) if limits else None,
    )


def _training_to_scoring(
    key_path: KeyPath,
    bins: Sequence[float],
    training_bins: Sequence[float],
    given: list[int] | None,
    problems: list[Problem],
) -> tuple[int, ...]:
    classes = range(len(bins) + 1)
    if given is not None:
        if len(given) != len(training_bins) + 1 or set(given) != set(classes) or given != sorted(given):
            wrong = (
                f"= {given} must give each of the {len(training_bins) + 1} training bins a scoring class of 0 to "
                f"{len(bins)}, rising, each class at least once"
            )
            problems.append(Problem((*key_path, "training_to_scoring"), wrong))
        return tuple(given)
    if len(training_bins) == len(bins):
        return tuple(classes)
    missing = [edge for edge in bins if edge not in training_bins]
    if missing:
        wrong = (
            f"= {list(training_bins)} do not map to bins = {list(bins)}: they lack the edge {missing[0]:g}; add it, or "
            "say the mapping with training_to_scoring"
        )
        problems.append(Problem((*key_path, "training_bins"), wrong))
    return tuple(bisect.bisect_right(bins, edge) for edge in (-math.inf, *training_bins))


def _bin_names(bins: Sequence[float]) -> tuple[str, ...]:
    """[30, 60] -> "<30", "30-59", ">=60" (edges that are not whole numbers: "30-60")."""
    whole = all(float(edge).is_integer() for edge in bins)
    inner = [f"{low:g}-{high - 1 if whole else high:g}" for low, high in itertools.pairwise(bins)]
    return (f"<{bins[0]:g}", *inner, f">={bins[-1]:g}")


def _rises(key_path: KeyPath, bins: Sequence[float], problems: list[Problem]) -> bool:
    good = len(bins) > 0 and all(map(math.isfinite, bins)) and all(low < high for low, high in itertools.pairwise(bins))
    if not good:
        problems.append(Problem(key_path, f"= {bins} must hold at least one edge, and the edges must rise"))
    return good
