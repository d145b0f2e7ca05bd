"""The pool of threads: what was not begun is dropped where the work ends early."""

from __future__ import annotations

import time

import pytest

from utils.threads import thread_pool


def test_an_error_drops_what_was_not_begun_and_waits_for_the_rest() -> None:
    begun: list[int] = []
    ended: list[int] = []

    def work(number: int) -> None:
        begun.append(number)
        time.sleep(0.05)
        ended.append(number)

    def consume() -> None:
        with thread_pool() as pool:
            for _ in pool.map(work, range(10_000)):
                raise ValueError("as asked")

    with pytest.raises(ValueError, match="as asked"):
        consume()
    assert len(begun) < 10_000
    assert sorted(begun) == sorted(ended)
