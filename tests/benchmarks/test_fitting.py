"""Contenders on a card that holds only so many: who is measured beside whom, and what is told of the others."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import pytest
import torch

from benchmarks import fitting
from benchmarks.fitting import Entrant, interleaved_where_they_fit, out_of_memory


@pytest.fixture
def _nothing_to_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Card here has no garbage, and it takes a third of a second to look for."""
    monkeypatch.setattr(fitting, "_free", lambda: None)


class Card:
    """Each entrant takes its size until it is closed, and `extra` beside it from its second measurement on."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.held: dict[str, int] = {}
        self.order: list[str] = []

    def take(self, name: str, size: int) -> None:
        if sum(self.held.values()) - self.held.get(name, 0) + size > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. Process 9 has it all")
        self.held[name] = size

    def entrant(self, name: str, size: int, extra: int = 0) -> Callable[[], Entrant]:
        def build() -> Entrant:
            self.take(name, size)
            runs: list[str] = []

            def measure() -> float:
                runs.append(name)
                self.order.append(name)
                self.take(name, size + (extra if len(runs) > 1 else 0))
                return float(len(runs))

            def close() -> None:
                del self.held[name]

            return Entrant({name: measure}, {f"count of {name}": lambda: 0.5}, close)

        return build


@pytest.mark.usefixtures("_nothing_to_free")
def test_what_fits_takes_turns() -> None:
    card = Card(10)
    fitted = interleaved_where_they_fit({"a": card.entrant("a", 4), "b": card.entrant("b", 5)}, 2)
    assert "".join(card.order) == "ababab"
    assert fitted.values == {"a": [2.0, 3.0], "b": [2.0, 3.0]}  # the first run warms up
    assert fitted.counts == {"count of a": 0.5, "count of b": 0.5}
    assert (fitted.alone, fitted.missing, card.held) == ([], {}, {})


@pytest.mark.usefixtures("_nothing_to_free")
def test_what_does_not_fit_beside_the_others_is_measured_after_them() -> None:
    card = Card(10)
    builders = {"a": card.entrant("a", 4), "big": card.entrant("big", 9), "c": card.entrant("c", 5)}
    fitted = interleaved_where_they_fit(builders, 2)
    assert card.order == ["a", "c", "a", "c", "a", "c", "big", "big", "big"]
    assert fitted.values.keys() == {"a", "big", "c"}
    assert fitted.values["big"] == [2.0, 3.0]
    assert (fitted.alone, fitted.missing, card.held) == (["big"], {}, {})


@pytest.mark.usefixtures("_nothing_to_free")
def test_one_that_grows_too_large_within_the_rounds_leaves_nothing_half_done() -> None:
    card = Card(10)
    builders = {"a": card.entrant("a", 4, extra=3), "b": card.entrant("b", 5)}
    fitted = interleaved_where_they_fit(builders, 2)
    assert fitted.alone == ["a"]
    assert fitted.values == {"b": [2.0, 3.0], "a": [2.0, 3.0]}
    assert card.held == {}


@pytest.mark.usefixtures("_nothing_to_free")
def test_what_fits_nowhere_is_told() -> None:
    card = Card(10)
    builders = {"a": card.entrant("a", 4), "huge": card.entrant("huge", 11), "later": card.entrant("later", 4, extra=9)}
    fitted = interleaved_where_they_fit(builders, 2)
    assert fitted.values == {"a": [2.0, 3.0]}
    reason = "out of memory, of which it wanted 20.00 MiB more"
    assert (fitted.alone, fitted.missing, card.held) == ([], {"huge": reason, "later": reason}, {})


def test_what_is_dropped_is_let_go_before_the_others_go_on() -> None:
    dropped: list[weakref.ref[torch.Tensor]] = []

    def build() -> Entrant:
        weights = torch.zeros(3)
        dropped.append(weakref.ref(weights))

        def measure() -> float:
            kept_by_the_frame = weights + 1
            raise RuntimeError(f"out of memory after {kept_by_the_frame.sum()}")

        return Entrant({"dropped": measure})

    def other() -> float:
        assert dropped[0]() is None
        return 1.0

    fitted = interleaved_where_they_fit({"dropped": build, "other": lambda: Entrant({"other": other})}, 1)
    assert fitted.values == {"other": [1.0]}
    assert fitted.missing == {"dropped": "out of memory"}


@pytest.mark.usefixtures("_nothing_to_free")
def test_another_error_is_raised_and_all_are_closed() -> None:
    card = Card(10)

    def broken() -> Entrant:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        interleaved_where_they_fit({"a": card.entrant("a", 4), "broken": broken}, 1)
    assert card.held == {}


def test_want_of_memory_is_known_in_every_wrapping() -> None:
    wrapped = RuntimeError("backend='inductor' raised: /some/file.py")
    wrapped.__cause__ = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.13 GiB. GPU 0 has ...")
    assert out_of_memory(wrapped) == "out of memory, of which it wanted 3.13 GiB more"
    assert out_of_memory(RuntimeError("InductorError: OutOfMemoryError: CUDA out of memory. /a/b")) == "out of memory"
    assert out_of_memory(RuntimeError("CUDA error: out of memory")) == "out of memory"
    assert out_of_memory(RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling")) == "out of memory"
    assert out_of_memory(RuntimeError("out of resource: shared memory")) is None
    assert out_of_memory(ValueError("memory format")) is None
