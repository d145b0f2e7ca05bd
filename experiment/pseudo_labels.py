"""What a run tells of the pseudo-labels that it trains on: where they come from, and whom they may flatter."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from data_loader.records.sources import PseudoLabels
from parse_config import ConfigParser

logger = logging.getLogger(__name__)


def provenance_of_pseudo_labels(config: ConfigParser) -> list[dict[str, Any]]:
    """Of each source of pseudo-labels the file, its sha256 and the models behind it. Raises DataError."""
    return [source.provenance() for source in config.shared("data") if isinstance(source, PseudoLabels)]


def warn_of_leaks(provenances: Sequence[Mapping[str, Any]], validation_digest: str) -> None:
    """Warns of pseudo-labels by models that may have trained on people who validate here: what they have learnt of
    these comes back through the pseudo-labels, and the validation scores flatter.

    validation_digest: of the people and images that validate here"""
    for found in provenances:
        models = found["models"]
        if not models:
            flatter = "if they have trained on people who validate here, the validation scores flatter"
            logger.warning("%s: no <answers>.csv.json beside it says which models made it; %s", found["path"], flatter)
        others = [model for model in models if model.get("validation_digest") != validation_digest]
        if others:
            names = ", ".join(dict.fromkeys(str(model.get("run")) for model in others))
            logger.warning(
                "%s: %d of the %d models that made it (%s) were validated on other images, and may have trained on "
                "people who validate here: the validation scores flatter. Models of this very split (and fold) do not",
                found["path"], len(others), len(models), names,
            )  # fmt: skip
