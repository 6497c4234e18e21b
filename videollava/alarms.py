"""Alarms of work under way: what somebody should look at while there is time, passed to whoever listens.

A stage calls `alarm` and goes on at once; the command that runs it listens, and has it sent to people. In a process
where nobody listens nothing happens: what an alarm says has been printed and journalled where it arose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["alarm", "heard_by"]

_listeners: list[Callable[[str], None]] = []


def alarm(text: str) -> None:
    """Pass one sentence on."""
    for listener in list(_listeners):
        listener(text)


@contextmanager
def heard_by(listener: Callable[[str], None]) -> Iterator[None]:
    """Inside, `listener` gets every alarm of this process; it must not wait for anything, nor raise."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
