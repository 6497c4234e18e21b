"""Processes that work on a stream of items, in order and with bounded memory; one may crash."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from types import TracebackType
from typing import TypeVar

from videollava.errors import InputError

__all__ = ["Pool"]

Item = TypeVar("Item")
Result = TypeVar("Result")


class Pool:
    """`workers` processes. With one or none, work that may not crash is done in this process.

    What may crash or hang (`crashed`, `seconds`) is never done here, but in one process at least.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._executor: ProcessPoolExecutor | None = None
        self._owner = os.getpid()

    @property
    def workers(self) -> int:
        """How many items are worked on at a time."""
        return max(1, self._workers)

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def stream(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        crashed: Callable[[Item], Result] | None = None,
        window: int = 16,
        seconds: int = 0,
    ) -> Iterator[Result]:
        """`function` of each item, in the order of the items; at most `window` items wait at a time.

        `crashed` gives the result of an item whose worker died of it, or took over `seconds` (0: as long as it
        takes); without it, that is an InputError.
        """
        if self._workers <= 1 and crashed is None and not seconds:
            yield from map(function, items)
            return
        if seconds:
            function = partial(_within, seconds, function)
        waiting: deque[tuple[Item, Future[Result]]] = deque()
        for item in items:
            waiting.append((item, self._submit(function, item)))
            if len(waiting) >= window:
                yield self._take(function, waiting, crashed)
        while waiting:
            yield self._take(function, waiting, crashed)

    def _take(
        self,
        function: Callable[[Item], Result],
        waiting: deque[tuple[Item, Future[Result]]],
        crashed: Callable[[Item], Result] | None,
    ) -> Result:
        item, future = waiting.popleft()
        try:
            return future.result()
        except BrokenProcessPool:
            # Any of those that wait may be to blame: this one is tried alone, the others after it.
            result = self._alone(function, item, crashed)
            others = [(other, self._submit(function, other)) for other, _ in waiting]
            waiting.clear()
            waiting.extend(others)
            return result

    def _alone(
        self, function: Callable[[Item], Result], item: Item, crashed: Callable[[Item], Result] | None
    ) -> Result:
        self._close()
        try:
            return self._submit(function, item).result()
        except BrokenProcessPool as error:
            self._close()
            if crashed is None:
                raise InputError(
                    f"a worker process died ({error}); is there memory for {max(1, self._workers)} workers?"
                ) from error
            return crashed(item)

    def _submit(self, function: Callable[[Item], Result], item: Item) -> Future[Result]:
        if self._owner != os.getpid():  # a fork has the workers' handles, but not the threads that serve them
            self._executor, self._owner = None, os.getpid()
        if self._executor is None:
            # Spawned, not forked: the caller may hold threads (progress bars, Prefect), and a lock that is
            # held at a fork stays locked in the child.
            self._executor = ProcessPoolExecutor(
                max(1, self._workers),
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_end_with_parent,
            )
        try:
            return self._executor.submit(function, item)
        except BrokenProcessPool as error:
            broken: Future[Result] = Future()
            broken.set_exception(error)
            return broken

    def _close(self) -> None:
        if self._executor is not None and self._owner == os.getpid():
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None


def _within(seconds: int, function: Callable[[Item], Result], item: Item) -> Result:
    """The alarm ends the process, whatever library it is in."""
    signal.alarm(seconds)
    try:
        return function(item)
    finally:
        signal.alarm(0)


def _end_with_parent() -> None:
    # A worker whose parent was killed (kill -9) would wait for work forever.
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_wait, args=(parent,), daemon=True).start()


def _wait(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)
