"""Prepared images: what the deterministic prefix of the transforms makes of each file, kept in a memory-mapped array.

An array, (N, H, W, 3) uint8, belongs to a cache key (the prefix's transforms, and the versions of the libraries that
decide pixels) and to a set of files. It records each row's file: path, size and time of change. An array is whole or
absent, and it never changes: where a file has changed, another array is built, with the unchanged rows copied."""

from data_loader.cache.arrays import CachedImages
from data_loader.cache.image_cache import (
    DEFAULT_CACHE_BUDGET_GIB,
    IMAGE_CACHE_FOLDER,
    DiskCache,
    ImageCache,
    MemoryCache,
)

__all__ = [
    "DEFAULT_CACHE_BUDGET_GIB",
    "IMAGE_CACHE_FOLDER",
    "CachedImages",
    "DiskCache",
    "ImageCache",
    "MemoryCache",
]
