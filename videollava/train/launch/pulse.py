"""What a rank is at, since when: it costs a clock's reading where it changes, and a small file a second.

The launcher reads the files (watch.py). In a process that no launcher started all of it does nothing.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from videollava.train.launch.fence import is_held

__all__ = [
    "ANSWERING",
    "CHECKPOINT",
    "COMPUTING",
    "DATA",
    "FEATURES",
    "LONG",
    "OTHERS",
    "RESULT",
    "RESUMING",
    "STARTING",
    "Pulse",
    "at_step",
    "beat",
    "during",
]

STARTING = "starting"
RESUMING = "reading a checkpoint"
FEATURES = "encoding features"
DATA = "waiting for data"
COMPUTING = "computing"
OTHERS = "waiting for the other ranks"
CHECKPOINT = "writing a checkpoint"
RESULT = "writing the result"
ANSWERING = "answering questions"
# Long work that says nothing on the way: while the process computes, reads or writes it goes on.
LONG = (STARTING, RESUMING, CHECKPOINT, RESULT)
INTERVAL = 1.0
SUPERSEDED = 73  # exit status


class Pulse:
    """This rank's; a context in which a thread writes it to `folder`/rank-<n>.json."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.file = folder / f"rank-{rank:05d}.json"
        self.about = {"rank": rank, "host": socket.gethostname(), "pid": os.getpid()}
        self.step, self.moves, self.phase = 0, 0, STARTING
        self.spent: dict[str, float] = {}
        self._since = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def enter(self, phase: str) -> str:
        """It is at `phase` from now on; what it was at."""
        now = time.monotonic()
        before = self.phase
        self.spent[before] = self.spent.get(before, 0.0) + now - self._since
        self.phase, self._since = phase, now
        self.moves += 1
        return before

    def __enter__(self) -> Pulse:
        global _pulse
        self._write(0)
        self._thread.start()
        _pulse = self
        return self

    def __exit__(self, *_: object) -> None:
        global _pulse
        _pulse = None
        self._stop.set()
        self._thread.join()
        self.file.unlink(missing_ok=True)  # one that is done is not waited for

    def _run(self) -> None:
        beats = 0
        while not self._stop.wait(INTERVAL):
            beats += 1
            self._write(beats)
            held = True
            with suppress(OSError):
                held = is_held()
            if not held:
                with suppress(OSError):  # what reads its words may be gone
                    print(
                        "a newer attempt at this stage is at work: this one ends", file=sys.stderr, flush=True
                    )
                os._exit(SUPERSEDED)

    def _write(self, beats: int) -> None:
        told: dict[str, Any] = {"step": self.step, "moves": self.moves, "phase": self.phase, "beats": beats}
        aside = self.file.with_suffix(".tmp")
        # Where the disk is full or gone, the launcher sees a rank that says nothing.
        with suppress(OSError):
            aside.write_text(json.dumps({**self.about, **told, "spent": dict(self.spent), "work": _work()}))
            aside.replace(self.file)


_pulse: Pulse | None = None


@contextmanager
def during(phase: str) -> Iterator[None]:
    """Inside, this rank is at `phase`."""
    if _pulse is None:
        yield
        return
    before = _pulse.enter(phase)
    try:
        yield
    finally:
        if _pulse is not None:
            _pulse.enter(before)


def at_step(step: int) -> None:
    """This rank begins `step`."""
    if _pulse is not None:
        _pulse.step = step
        _pulse.moves += 1


def beat() -> None:
    """A part of something long is done."""
    if _pulse is not None:
        _pulse.moves += 1


def _work() -> list[float]:
    """Seconds of CPU, and bytes read and written (where the system tells) of this process."""
    spent = os.times()
    size = 0
    with suppress(OSError), open("/proc/self/io") as file:
        size = sum(int(line.split()[1]) for line in file if line.startswith(("rchar", "wchar")))
    return [round(spent.user + spent.system, 2), size]
