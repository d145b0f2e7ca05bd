"""The cache in memory: one for all folds, within the budget and what the machine has left."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from data_loader.cache import MemoryCache, memory
from data_loader.cache.image_cache import SPARE_BYTES
from data_loader.cache.memory import available_memory
from tests.data_loader.cache.cached_photos import ARRAY_BYTES, assert_right, cached, count_reads, resized
from utils import distributed
from utils.errors import ConfigError

GIB = 2**30


def test_the_sides_of_any_fold_are_there_already(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    reads = count_reads(monkeypatch)
    for held_out in (slice(0, 5), slice(5, 10)):
        validation = paths[held_out]
        train = [path for path in paths if path not in validation]
        requests = [(train, resized()), (validation, resized())]
        for images, (some, _) in zip(MemoryCache(1).prepare(requests), requests, strict=True):
            assert_right(images, some)
    assert sorted(reads) == [path.name for path in paths]


def test_earlier_arrays_go_where_the_budget_is_tight(
    paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = count_reads(monkeypatch)
    first = cached(paths, folder, where="memory", budget_bytes=2 * ARRAY_BYTES - 129)
    other = resized(interpolation=0)
    cached(paths, folder, other, "memory", 2 * ARRAY_BYTES - 129)
    assert_right(first, paths)  # who has it keeps it
    cached(paths, folder, where="memory", budget_bytes=2 * ARRAY_BYTES - 129)
    assert len(reads) == 60


def test_memory_is_bounded_by_the_budget_and_by_what_the_machine_has(
    paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = count_reads(monkeypatch)
    with pytest.raises(ConfigError, match=r"cache_budget_gib = .*18\.9 KiB.*raise it"):
        cached(paths, folder, where="memory", budget_bytes=ARRAY_BYTES - 1)
    monkeypatch.setattr(memory, "available_memory", lambda: SPARE_BYTES + ARRAY_BYTES - 1)
    with pytest.raises(ConfigError, match=r"data_loader\.args\.cache: .*18\.9 KiB.*memory left.*\"disk\""):
        cached(paths, folder, where="memory")
    assert reads == []
    monkeypatch.setattr(memory, "available_memory", lambda: SPARE_BYTES + ARRAY_BYTES)
    assert_right(cached(paths, folder, where="memory", budget_bytes=ARRAY_BYTES), paths)


def test_budget_and_memory_are_divided_by_the_processes_of_a_machine(
    paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "local_world_size", lambda: 4)
    with pytest.raises(ConfigError, match=r"cache_budget_gib = .* for 4 processes"):
        cached(paths, folder, where="memory", budget_bytes=4 * ARRAY_BYTES - 1)
    monkeypatch.setattr(memory, "available_memory", lambda: SPARE_BYTES + 4 * ARRAY_BYTES - 1)
    with pytest.raises(ConfigError, match="memory left"):
        cached(paths, folder, where="memory", budget_bytes=4 * ARRAY_BYTES)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("", {}, 8 * GIB),
        ("0::/a/b\n", {}, 8 * GIB),
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/b/memory.current": "1"}, 8 * GIB),
        ("0::/a/b\n", {"a/b/memory.max": f"{5 * GIB}", "a/b/memory.current": f"{2 * GIB}"}, 3 * GIB),
        (
            "0::/a/b\n",
            {
                "a/b/memory.max": f"{5 * GIB}",
                "a/b/memory.current": f"{2 * GIB}",
                "a/b/memory.stat": f"anon 7\ninactive_file {GIB}\n",
                "a/memory.max": f"{9 * GIB}",
                "a/memory.current": f"{8 * GIB}",
            },
            GIB,
        ),
        ("0::/../x\n", {"memory.max": f"{GIB}", "memory.current": f"{2 * GIB}"}, 0),
    ],
)
def test_available_memory_is_the_least_of_machine_and_control_groups(
    tmp_path: Path, groups: str, files: dict[str, str], expected: int
) -> None:
    write(tmp_path / "proc/meminfo", f"MemTotal: 99 kB\nMemAvailable:   {8 * GIB // 1024} kB\n")
    write(tmp_path / "proc/self/cgroup", groups)
    for name, text in files.items():
        write(tmp_path / "sys/fs/cgroup" / name, text)
    assert available_memory(tmp_path) == expected


def test_available_memory_of_this_machine_is_plausible() -> None:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < available_memory() < total
