"""Where prepared images come from: their files each time, or a cache."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_loader.file_stamps import Stamp
from data_loader.image_cache import CachedImages, cache_images
from data_loader.images import DecodedImages, Images
from data_loader.records.records import Record
from data_loader.transforms import DeterministicPrefix, Pipeline
from utils import distributed
from utils.errors import ConfigError, StorageFullError

logger = logging.getLogger(__name__)

IMAGE_CACHE_FOLDER = "image_cache"
"""In a config's save_dir: what all its runs have prepared."""

DEFAULT_CACHE_BUDGET_GIB = 16
GIB = 2**30


@dataclass(frozen=True)
class ImageStore:
    """A loader's settings of `cache`: see AttributeDataLoader. What is to lie on a device is kept on disk too."""

    cache: Literal["none", "memory", "disk", "device"]
    folder: Path | None
    budget_gib: float
    show_progress: bool = False

    def images(
        self, sides: Sequence[tuple[Sequence[Record], Pipeline]], seen: Mapping[str, Stamp] | None = None
    ) -> list[Images]:
        """Of each side of a split, the records' images after the pipeline's fixed steps; seen: see `cache_images`."""
        wanted = [([record.path for record in records], pipeline.prefix) for records, pipeline in sides]
        if self.cache == "none":
            return [DecodedImages(paths, steps) for paths, steps in wanted]
        return [*self._cached(wanted, seen)]

    def views(self, records: Sequence[Record], pipelines: Sequence[Pipeline]) -> list[CachedImages] | None:
        """For each of the pipelines, which leave nothing to chance, its images; None where they are not to be kept, or
        cannot: an answer is not to fail for that. Images that are looked at once are not kept in memory."""
        if self.cache not in ("disk", "device") or not records:
            return None
        try:
            paths = [record.path for record in records]
            return self._cached([(paths, pipeline.prefix) for pipeline in pipelines])
        except (ConfigError, StorageFullError) as error:
            logger.warning("%s. The images are decoded anew", error)
            return None

    def _cached(
        self, wanted: Sequence[tuple[Sequence[Path], DeterministicPrefix]], seen: Mapping[str, Stamp] | None = None
    ) -> list[CachedImages]:
        where: Literal["memory", "disk"] = "memory" if self.cache == "memory" else "disk"
        budget_bytes = int(self.budget_gib * GIB)
        if where == "memory":  # which each process of a machine fills for itself, at the same time
            budget_bytes //= distributed.local_world_size()
        return cache_images(wanted, where, self.folder, budget_bytes, self.show_progress, seen)
