"""Processes that work on a stream of items, in order and with bounded memory; one may crash."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.util import Finalize
from types import TracebackType
from typing import TypeVar

from videollava.errors import InputError

__all__ = ["Pool"]

Item = TypeVar("Item")
Result = TypeVar("Result")

PATIENCE = 5.0  # seconds for an idle worker to end by itself


class Pool:
    """`workers` processes. With one or none, work that may not crash is done in this process.

    What may crash or hang (`crashed`, `seconds`) is never done here, but in one process at least.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._crew: _Crew | None = None
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
        if self._crew is not None and self._owner == os.getpid():
            self._crew.close()
            self._crew = None

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
        except _Died:
            # Its neighbours may have taken the memory: it is tried once more, when nothing else is worked on.
            wait_for([other for _, other in waiting])
        try:
            return self._submit(function, item).result()
        except _Died as error:
            if crashed is None:
                raise InputError(
                    f"a worker process died ({error}); is there memory for {self.workers} workers?"
                ) from error
            return crashed(item)

    def _submit(self, function: Callable[[Item], Result], item: Item) -> Future[Result]:
        if self._owner != os.getpid():  # a fork has the workers' handles, but not the threads that serve them
            self._crew, self._owner = None, os.getpid()
        if self._crew is None:
            self._crew = _Crew(self.workers)
        return self._crew.submit(function, item)


class _Died(Exception):
    """A worker ended before it answered; the text is how."""


class _Crew:
    """Threads of this process, each of which gives its items to a worker process, one at a time, over a pipe.

    Workers share no queue and no lock, so that one which is killed leaves none of them held and nobody waiting: those
    of `ProcessPoolExecutor` do, and it can wait forever where a worker dies while another item is handed in.
    """

    def __init__(self, size: int) -> None:
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="pool")
        self._idle: list[_Worker] = []
        self._busy: list[_Worker] = []
        self._closed = False
        # Called before this process, as it ends, waits for its children.
        Finalize(self, _dismiss, args=(self._idle,), exitpriority=10)

    def submit(self, function: Callable[[Item], Result], item: Item) -> Future[Result]:
        return self._threads.submit(self._give, function, item)

    def close(self) -> None:
        """What waits is not begun, what is worked on is ended."""
        self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in list(self._busy):
            worker.kill()
        self._threads.shutdown(wait=True)
        _dismiss(self._idle)

    def _give(self, function: Callable[[Item], Result], item: Item) -> Result:
        try:
            worker = self._idle.pop()
        except IndexError:
            worker = _Worker()
        self._busy.append(worker)
        if self._closed:  # while this one was started
            worker.kill()
        try:
            answer = worker.ask(pickle.dumps((function, item)))
        finally:
            self._busy.remove(worker)
            if worker.usable:
                self._idle.append(worker)
        done, found = pickle.loads(answer)
        if not done:
            raise found
        return found


class _Worker:
    """A process that does what it is asked until its pipe is closed.

    Spawned, not forked: the caller may hold threads (progress bars, Prefect), and a lock that is held at a fork stays
    locked in the child.
    """

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        with _STARTING:
            self._pipe, far = context.Pipe()
            self._process = context.Process(target=_work, args=(far,))
            self._process.start()
            far.close()
        self.usable = True

    def ask(self, question: bytes) -> bytes:
        """Its answer; _Died where it ends before."""
        self.usable = False
        try:
            self._pipe.send_bytes(question)
            # The pipe alone does not tell: a fork of either process may hold its far end open.
            wait([self._pipe, self._process.sentinel])
            answer = self._pipe.recv_bytes() if self._pipe.poll() else b""
        except (EOFError, OSError):
            answer = b""
        if not answer:
            self.kill()
            self.end()
            raise _Died(f"exit status {self._process.exitcode}")
        self.usable = True
        return answer

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> None:
        self._pipe.close()
        self._process.join(PATIENCE)
        if self._process.is_alive():  # a thread that a library left behind keeps it
            self.kill()
            self._process.join()


def _dismiss(idle: list[_Worker]) -> None:
    while idle:
        idle.pop().end()


# Starting a process holds locks of `multiprocessing`: a fork waits for its end, as the child would find them locked.
_STARTING = threading.RLock()
os.register_at_fork(
    before=_STARTING.acquire, after_in_parent=_STARTING.release, after_in_child=_STARTING.release
)


def _work(pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the caller decides
    _end_with_parent()
    while True:
        try:
            question = pipe.recv_bytes()
        except EOFError:
            return
        pipe.send_bytes(_answer(question))


def _answer(question: bytes) -> bytes:
    try:
        function, item = pickle.loads(question)
        return pickle.dumps((True, function(item)))
    except BaseException as error:
        return _pickle_error(error)


def _pickle_error(error: BaseException) -> bytes:
    if not isinstance(error, InputError):
        error.add_note(f"In a worker process:\n{traceback.format_exc()}")
    try:
        pickled = pickle.dumps((False, error))
        pickle.loads(pickled)
    except Exception:  # of a class that cannot be sent
        return pickle.dumps((False, RuntimeError("".join(traceback.format_exception(error)))))
    return pickled


def _within(seconds: int, function: Callable[[Item], Result], item: Item) -> Result:
    """The alarm ends the process, whatever library it is in."""
    signal.alarm(seconds)
    try:
        return function(item)
    finally:
        signal.alarm(0)


def _end_with_parent() -> None:
    # A worker whose parent was killed (kill -9) amid an item would go on with it, however long it takes.
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_wait, args=(parent,), daemon=True).start()


def _wait(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)
