"""Contenders that may not fit on a card together: measured in turn where they do, and else alone, or told as missing.

What does not fit beside the others leaves the card, so that they go on, and is built anew when they are done."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from benchmarks.measuring import Contender, Values


@dataclass
class Entrant:
    """What is built once, and measured in one or more ways.

    contenders: by name; counts: further measurements, one each, taken at the end; close: called once, when nothing more
    is measured, whatever came before."""

    contenders: dict[str, Contender]
    counts: dict[str, Contender] = field(default_factory=dict)
    close: Callable[[], None] = lambda: None


@dataclass
class Fitted:
    """values: of every contender that could be measured, one a round; counts: by name; alone: the entrants that were
    measured by themselves, after the others; missing: those that could not be, and why."""

    values: dict[str, Values] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)
    alone: list[str] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)


def interleaved_where_they_fit(builders: Mapping[str, Callable[[], Entrant]], rounds: int) -> Fitted:
    """As measuring.interleaved, for what `builders` build, one after the other: each is built and run once, which warms
    up; then come the rounds. Raises what they raise but for want of memory on the card."""
    fitted = Fitted()
    without_room = _measure(builders, rounds, fitted)
    for name, reason in without_room.items():
        alone = _measure({name: builders[name]}, rounds, fitted) if len(builders) > 1 else {name: reason}
        if alone:
            fitted.missing |= alone
        else:
            fitted.alone.append(name)
    return fitted


def _measure(builders: Mapping[str, Callable[[], Entrant]], rounds: int, fitted: Fitted) -> dict[str, str]:
    """Adds to `fitted` what could be measured together; returns what could not, and why."""
    entrants: dict[str, Entrant] = {}
    values: dict[str, dict[str, Values]] = {}
    counts: dict[str, dict[str, float]] = {}
    without_room: dict[str, str] = {}

    def leave(*names: str) -> None:
        for name in names:
            if name in entrants:
                entrants.pop(name).close()
        _free()

    def try_it(name: str, work: Callable[[str], None]) -> None:
        reason = None
        try:
            work(name)
        except Exception as error:
            reason = out_of_memory(error)
            if reason is None:
                raise
        if reason is not None:  # only now, as the error holds on to all that the calls held
            without_room[name] = reason
            leave(name)

    def build(name: str) -> None:
        entrants[name] = builders[name]()
        values[name] = {contender: [] for contender in entrants[name].contenders}
        for measure in entrants[name].contenders.values():
            measure()

    def run_round(name: str) -> None:
        for contender, measure in entrants[name].contenders.items():
            values[name][contender].append(measure())

    def count(name: str) -> None:
        counts[name] = {what: measure() for what, measure in entrants[name].counts.items()}

    try:
        for work in (build, *[run_round] * rounds, count):
            for name in builders:
                if name not in without_room:
                    try_it(name, work)
        for name in entrants:
            fitted.values |= values[name]
            fitted.counts |= counts[name]
    finally:
        leave(*entrants)
    return without_room


def out_of_memory(error: BaseException) -> str | None:
    """What to tell of an error that means that the card's memory is full, also where the compiler has wrapped it; None
    for any other. Its text is not told whole: it names processes and files of the machine."""
    seen: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in seen:
        seen.append(link)
        text = str(link)
        if isinstance(link, torch.OutOfMemoryError) or re.search("out of memory|ALLOC_FAILED", text, re.IGNORECASE):
            wanted = re.search(r"Tried to allocate ([\d.]+ \w?i?B)", text)
            return f"out of memory, of which it wanted {wanted[1]} more" if wanted else "out of memory"
        link = link.__cause__ or link.__context__
    return None


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
