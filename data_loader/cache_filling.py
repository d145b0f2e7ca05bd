"""Making what a cache lacks: what is missing, whether there is room, and the images themselves, by threads."""

from __future__ import annotations

import copy
import hashlib
import logging
import threading
import zlib
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from data_loader.cache_file import DiskStore
from data_loader.cache_room import Room, fits_beside, locked, present_room, room_in_memory, room_on_disk, shown_bytes
from data_loader.file_stamps import Stamp, stamps_of
from data_loader.pixel_store import HEADER_BYTES, PixelStore
from data_loader.records.image_check import number_of_cores
from data_loader.transforms import DeterministicPrefix
from utils.images.decoding import read_rgb
from utils.signals import StopSignals

logger = logging.getLogger(__name__)

_SAMPLE = 8
"""From so many images the size of all is reckoned, where it depends on the image."""

_IN_MEMORY: dict[str, PixelStore] = {}
"""By recipe, what this process holds: for the other side of the split, and for the next fold."""

_SAVED_BYTES = 256 * 2**20
"""After so many bytes, what was made is saved: a process that is killed loses no more."""


class Filling:
    """One call of `cache_images`: paths by key; steps, what is asked of them, and stores by recipe (what a result
    depends on, as JSON)."""

    def __init__(self, show_progress: bool, seen: Mapping[str, Stamp]) -> None:
        self.paths: dict[str, Path] = {}
        self.stamps: dict[str, Stamp] = {}
        self._seen = seen
        self.steps: dict[str, DeterministicPrefix] = {}
        self.asked: dict[str, dict[str, None]] = {}  # keys, in order
        self.stores: Mapping[str, PixelStore] = {}
        self._show_progress = show_progress

    def ask(self, recipe: str, steps: DeterministicPrefix, paths: Mapping[str, Path]) -> None:
        """Wants what the steps make of the images."""
        self.stamps |= {key: self._seen[key] for key in paths if key in self._seen}
        self.stamps |= stamps_of(paths.keys() - self.stamps.keys())
        self.paths |= paths
        self.steps[recipe] = steps
        self.asked.setdefault(recipe, {}).update(dict.fromkeys(paths))

    def in_memory(self, budget_bytes: int) -> None:
        """What earlier calls have made is used; where it takes the room it is given up, and all is made anew."""
        for recipe in self.steps.keys() - _IN_MEMORY.keys():
            _IN_MEMORY[recipe] = PixelStore()
        self.stores = {recipe: _IN_MEMORY[recipe] for recipe in self.steps}
        missing = self._missing()
        if self.stamps and not missing:
            logger.info("image cache in memory: all %s images are there", f"{len(self.stamps):,}")
            return
        with StopSignals() as stop:
            needed = self._needed_bytes(missing)
            if _held_bytes() and needed > budget_bytes - _held_bytes():
                logger.info("image cache in memory: %s of earlier images are given up", shown_bytes(_held_bytes()))
                for store in _IN_MEMORY.values():
                    store.close()  # who uses its images has a map of them
                _IN_MEMORY.clear()
                _IN_MEMORY.update((recipe, PixelStore()) for recipe in self.steps)
                self.stores = dict(_IN_MEMORY)
                missing = self._missing()
                needed = self._needed_bytes(missing)
            logger.info("image cache in memory: %s more images, %s", f"{len(missing):,}", shown_bytes(needed))
            room = room_in_memory(budget_bytes, _held_bytes())
            room.check(needed)
            self._build(missing, room, stop)

    def on_disk(self, folder: Path, budget_bytes: int) -> None:
        """Raises OSError for what the folder does not allow."""
        stores = {recipe: DiskStore(folder, _digest(recipe), recipe) for recipe in self.steps}
        self.stores = stores
        if all(store.load_whole() for store in stores.values()) and not self._missing():
            logger.info("image cache in %s: all %s images are there", folder, f"{len(self.stamps):,}")
            return
        folder.mkdir(parents=True, exist_ok=True)
        with StopSignals() as stop, locked(folder, stop):
            try:
                for store in stores.values():
                    store.load()
                self._complete(stores, folder, budget_bytes, stop)
            except BaseException:
                for store in stores.values():
                    store.leave()
                raise

    def _complete(self, stores: dict[str, DiskStore], folder: Path, budget_bytes: int, stop: StopSignals) -> None:
        missing = self._missing()
        needed = self._needed_bytes(missing)
        self._tidy(stores, folder, is_tight=needed > present_room(folder, budget_bytes).num_bytes)
        if (now_missing := self._missing()) != missing:  # there was no room to tidy in
            missing, needed = now_missing, self._needed_bytes(now_missing)
        there = sum(
            store.rows[key].nbytes
            for recipe, store in stores.items()
            for key in self.asked[recipe]
            if store.has(key, self.stamps[key])
        )
        logger.info(
            "image cache in %s: %s images, %s; %s of it are there already",
            folder,
            f"{len(self.stamps):,}",
            shown_bytes(there + needed),
            shown_bytes(there),
        )
        room = room_on_disk(folder, budget_bytes, needed, {_digest(recipe) for recipe in stores})
        if needed > room.num_bytes and self._forget_others(stores, folder, needed - room.num_bytes):
            missing, room = self._missing(), present_room(folder, budget_bytes)
            needed = self._needed_bytes(missing)
        room.check(needed)
        self._build(missing, room, stop)

    def _forget_others(self, stores: dict[str, DiskStore], folder: Path, wanted_bytes: int) -> bool:
        """Leaves out the images of files that are not asked for, such as another data set's, if nobody uses them and
        that makes so much room; returns whether it was done."""
        found = []
        for recipe, store in stores.items():
            kept = {key: row for key, row in store.rows.items() if key in self.asked[recipe]}
            kept_bytes = sum(row.nbytes for row in kept.values())
            other_bytes = store.end - HEADER_BYTES - kept_bytes
            if other_bytes and not store.used_elsewhere():
                found.append((store, kept if fits_beside(folder, kept_bytes) else {}, other_bytes))
        if wanted_bytes > (freed := sum(other_bytes for _, _, other_bytes in found)):
            return False
        for store, kept, _ in found:
            store.rewrite(kept)
        logger.info("image cache in %s: %s of other images make room", folder, shown_bytes(freed))
        return True

    def _tidy(self, stores: dict[str, DiskStore], folder: Path, is_tight: bool) -> None:
        """Leaves out the images of files that are gone or have changed, where they are many or room is wanted."""
        for store in stores.values():
            kept = store.live_rows(self.stamps)
            kept_bytes = sum(row.nbytes for row in kept.values())
            lost_bytes = store.end - HEADER_BYTES - kept_bytes
            if lost_bytes and (is_tight or lost_bytes > kept_bytes) and not store.used_elsewhere():
                logger.info(
                    "image cache in %s: %s of files that are gone or have changed are removed",
                    folder,
                    shown_bytes(lost_bytes),
                )
                store.rewrite(kept if fits_beside(folder, kept_bytes) else {})

    def _missing(self) -> dict[str, list[str]]:
        """By the key of an image, the recipes that have not made it."""
        found: dict[str, list[str]] = {}
        for recipe, keys in self.asked.items():
            for key in self.stores[recipe].lacking(keys, self.stamps):
                found.setdefault(key, []).append(recipe)
        return found

    def _needed_bytes(self, missing: Mapping[str, list[str]]) -> int:
        """What the missing images will take; reckoned from a few of them where it depends on the image."""
        total = 0
        for recipe, steps in self.steps.items():
            paths = [self.paths[key] for key, recipes in missing.items() if recipe in recipes]
            if steps.image_hw:
                total += len(paths) * steps.image_hw[0] * steps.image_hw[1] * 3
            elif paths:
                sample = paths[:: -(-len(paths) // _SAMPLE)]
                sizes = [steps(read_rgb(path), str(path)).nbytes for path in sample]
                total += sum(sizes) * len(paths) // len(sizes)
        return total

    def _build(self, missing: Mapping[str, list[str]], room: Room, stop: StopSignals) -> None:
        """Makes the missing images, and saves them now and then. Where it fails, the caller has the stores leave."""
        added = saved = 0
        bar = tqdm(
            total=len(missing), desc="caching images", leave=False, disable=None if self._show_progress else True
        )
        pool = ThreadPoolExecutor(max_workers=number_of_cores())
        try:
            for made in self._made(pool, missing):
                for key, recipe, image, checksum in made:
                    added += image.nbytes
                    room.check(added)  # what was reckoned may have been too little
                    self.stores[recipe].add(key, self.stamps[key], image, checksum)
                if added - saved > _SAVED_BYTES:
                    self._save()
                    saved = added
                bar.update()
                stop.raise_if_requested()
            if missing or not all(store.is_saved() for store in self.stores.values()):
                self._save()
            stop.raise_if_requested()
        finally:
            pool.shutdown(cancel_futures=True)
            bar.close()

    def _save(self) -> None:
        for store in self.stores.values():
            store.save()

    def _made(self, pool: ThreadPoolExecutor, missing: Mapping[str, list[str]]) -> Iterator[list[_Made]]:
        """In order; only a few more are made than were asked for, since memory holds them."""
        own = threading.local()

        def make(key: str, recipes: list[str]) -> list[_Made]:
            if not hasattr(own, "steps"):
                own.steps = {recipe: _copy_of(steps) for recipe, steps in self.steps.items()}
            name = str(self.paths[key])
            decoded = read_rgb(self.paths[key])
            made = []
            for recipe in recipes:
                image = np.ascontiguousarray(own.steps[recipe](decoded.copy() if len(recipes) > 1 else decoded, name))
                made.append(_Made(key, recipe, image, zlib.crc32(image.data)))
            return made

        waiting: deque[Future[list[_Made]]] = deque()
        for key, recipes in missing.items():
            waiting.append(pool.submit(make, key, recipes))
            if len(waiting) > 4 * number_of_cores():
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _held_bytes() -> int:
    return sum(store.end - HEADER_BYTES for store in _IN_MEMORY.values())


def _copy_of(steps: DeterministicPrefix) -> DeterministicPrefix:
    """For one thread: transforms keep what they work with. They share their generators, of which these draw nothing."""
    shared = [each for step in steps.transforms for each in (step.random_generator, step.py_random)]
    return copy.deepcopy(steps, {id(each): each for each in shared})


class _Made(NamedTuple):
    key: str
    recipe: str
    image: np.ndarray
    checksum: int


def _digest(recipe: str) -> str:
    return hashlib.sha256(recipe.encode()).hexdigest()[:16]
