"""Prepared images, kept: what the deterministic prefix of the transforms makes of each file, in a memory-mapped array.

An array, (N, H, W, 3) uint8, belongs to a cache key (the prefix's transforms, and the versions of all that decides
pixels) and to a set of files. It knows which row is of which file, as that was: path, size and time of change. It is
there as a whole or not at all, and it is never changed: where a file has changed, another array is built."""

from data_loader.cache.disk import IMAGE_CACHE_FOLDER, DiskCache
from data_loader.cache.image_cache import DEFAULT_CACHE_BUDGET_GIB, ImageCache
from data_loader.cache.memory import MemoryCache
from data_loader.cache.prepared_array import CachedImages

__all__ = [
    "DEFAULT_CACHE_BUDGET_GIB",
    "IMAGE_CACHE_FOLDER",
    "CachedImages",
    "DiskCache",
    "ImageCache",
    "MemoryCache",
]
