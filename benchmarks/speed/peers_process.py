"""A separate process for the peers, without the settings of this project's processes (utils/allocator.py)."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

_END = ""

Measure = Callable[[], Any]
"""Does its work once and returns what was measured."""


class PeersProcess:
    """Contenders that are made and measured in one other process, from functions that can be pickled.

    The `with` block ends the process. `contenders`: by name, functions that measure there and return the result, or
    raise the error. `missing`: why a peer is missing, for those that are not installed.

    makers: by name, functions that make a contender
    """

    def __init__(self, makers: Mapping[str, Callable[[], Measure]]) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would have this process's settings
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, dict(makers)))
        self._process.start()
        theirs.close()
        self.missing: dict[str, str] = self._answer()
        self.contenders = {name: self._measure(name) for name in makers if name not in self.missing}

    def _measure(self, name: str) -> Measure:
        def measure() -> Any:
            self._connection.send(name)
            return self._answer()

        return measure

    def _answer(self) -> Any:
        try:
            answer = self._connection.recv()
        except EOFError:
            raise RuntimeError("the peers' process has died") from None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def __enter__(self) -> PeersProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(OSError):  # it has died
            self._connection.send(_END)  # to close the connection is not enough: forked workers have it open too
        self._process.join()
        self._connection.close()


def _serve(connection: Connection, makers: Mapping[str, Callable[[], Measure]]) -> None:
    """What runs in the other process, until it is told to end."""
    multiprocessing.set_start_method("fork", force=True)  # as people's workers are started; here it would be "spawn"
    contenders: dict[str, Measure] = {}
    missing: dict[str, str] = {}
    try:
        for name, make in makers.items():
            try:
                contenders[name] = make()
            except ImportError as error:
                missing[name] = f"not installed ({error})"
        connection.send(missing)
    except Exception as error:
        connection.send(error)
        return
    while True:
        try:
            name = connection.recv()
        except EOFError:
            return
        if name == _END:
            return
        try:
            connection.send(contenders[name]())
        except Exception as error:
            connection.send(error)
