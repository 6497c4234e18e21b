"""Which attempt works in a place: the later one wins, the earlier one is told at its next save, and ends.

An attempt of the launcher's is fenced within its checkout (launch/fence.py). A place may be used from several: what
holds there is a small file beside the checkpoints. Who removes looks at what is there, then at who holds, then removes:
an attempt holds before it writes, so whoever sees a newer attempt's file sees its name too.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from typing import Any

from videollava.errors import InputError
from videollava.train.launch.fence import ATTEMPT, Superseded
from videollava.train.launch.meeting import Together

__all__ = ["HOLDER", "Outrun", "attempt_name", "check_holder", "claim", "greet"]

HOLDER = "holder.json"
_named: list[str] = []  # this process's


class Outrun(Superseded, InputError):
    """Another run works in this place. Not tried again by itself: two would drive each other out for ever."""

    def __init__(self, where: str, host: str, since: float) -> None:
        began = time.strftime("%Y-%m-%d %H:%M", time.localtime(since))
        RuntimeError.__init__(
            self,
            f"{where}: another run of this stage, on {host}, is at work there since {began}: this one writes nothing "
            "more. Let that one go on, or end it and start this one again",
        )


def attempt_name(together: Together | None = None) -> str:
    """The same on all ranks, for as long as they live, and no other attempt's.

    together: all ranks, which call this at the same point; without it a process speaks for itself, where none did so.
    """
    launched = os.environ.get(ATTEMPT, "")
    if launched:
        return launched
    if not _named:
        own = uuid.uuid4().hex[:12]
        _named.append(together.hear(own) if together else own)
    return _named[0]


def claim(attempt: str) -> str:
    """What is written to hold."""
    return json.dumps({"attempt": attempt, "host": socket.gethostname(), "since": int(time.time())})


def check_holder(held: str, attempt: str, where: str) -> None:
    """Outrun where another attempt holds; held: what is written there, "" where nothing is."""
    other = _read(held)
    if other and other.get("attempt") != attempt:
        raise Outrun(where, str(other.get("host")), float(other.get("since", 0)))


def greet(before: str, where: str) -> None:
    """Say that somebody else was here: they may be still."""
    other = _read(before)
    if other and other.get("host") != socket.gethostname():
        print(
            f"{where}: a run on {other.get('host')} was at work here; if it still is, it ends at its next checkpoint",
            flush=True,
        )


def _read(held: str) -> dict[str, Any]:
    """Nothing where it is no claim: a torn one was written by nobody who holds."""
    try:
        found = json.loads(held) if held else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
