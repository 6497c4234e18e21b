"""How a launch failed: what ranks reported, which of them were killed, and which of it all came first.

A rank that is killed takes the others along: their broken connections are reported sooner than its death is seen. So
it is not the first by the clock that counts, but the first of the kind that is a cause.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
import traceback
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from videollava.ends import AGAIN, BUDGET, Ended
from videollava.errors import InputError
from videollava.scrub import scrub
from videollava.train.launch.fence import Superseded

__all__ = [
    "CONNECTION",
    "Failure",
    "causes",
    "first_failure",
    "read_ended",
    "report",
    "write_ended",
    "write_failure",
]

CONNECTION = re.compile(
    r"connection (was )?(closed|reset|refused)|closed by peer|broken pipe|socket|gloo|nccl|timed out|store",
    re.I,
)
USAGE_ERROR = 2
FAILED = 1
# Of ranks that ended on purpose, or for another one.
ENDS = (AGAIN, BUDGET, -signal.SIGTERM, -signal.SIGABRT)
MEANINGS = {
    signal.SIGKILL: "killed (SIGKILL): by hand, or for memory (`dmesg` tells): lower tokens_per_pack or workers",
    signal.SIGBUS: "killed (SIGBUS): /dev/shm is full, as a rule: enlarge it (docker: --shm-size), or lower workers",
    signal.SIGTERM: "ended (SIGTERM)",
}


@dataclass(frozen=True)
class Failure:
    """One rank's end. status: its exit status, negative for a signal. text: one sentence; trace: where it was."""

    rank: int
    host: str
    time: float
    status: int
    text: str = ""
    trace: str = ""
    connection: bool = False  # a connection to another rank broke: most likely the other is the cause

    @property
    def exit_status(self) -> int:
        """Of the stage."""
        return 128 - self.status if self.status < 0 else self.status

    @property
    def name(self) -> str:
        return f"rank {self.rank} (on {self.host})"

    def sentence(self) -> str:
        """What happened, with the rank's name."""
        if self.text:
            return self.text if self.status == USAGE_ERROR else f"{self.name} failed: {self.text}"
        if self.status >= 0:
            return f"{self.name} ended with status {self.status}"
        number = signal.Signals(-self.status)
        return f"{self.name} was {MEANINGS.get(number, f'killed ({number.name})')}"


def report(rank: int, error: Exception) -> Failure:
    """A rank's own account of the exception that ends it."""
    user = isinstance(error, InputError)
    text = str(error) if user or isinstance(error, Superseded) else f"{type(error).__name__}: {error}"
    trace = "" if user else "".join(traceback.format_exception(error))
    broken = not user and isinstance(error, (RuntimeError, OSError)) and bool(CONNECTION.search(str(error)))
    status = USAGE_ERROR if user else FAILED
    return Failure(rank, socket.gethostname(), time.time(), status, scrub(text), scrub(trace), broken)


def write_failure(folder: Path, failure: Failure) -> None:
    """Into the folder of the attempt. What a rank said of itself is not replaced by what was seen of it."""
    file = folder / f"failed-{failure.rank:05d}.json"
    if file.exists():
        return
    aside = file.with_suffix(f".{os.getpid()}.tmp")
    aside.write_text(json.dumps(asdict(failure)))
    aside.replace(file)


def write_ended(folder: Path, rank: int, ended: Ended) -> None:
    """Into the folder of the attempt: this rank ended on purpose."""
    file = folder / f"ended-{rank:05d}.json"
    aside = file.with_suffix(f".{os.getpid()}.tmp")
    aside.write_text(json.dumps({"status": ended.status, "sentence": ended.sentence, "steps": ended.steps}))
    aside.replace(file)


def read_ended(folder: Path) -> Ended | None:
    """How the attempt ended on purpose, by its first rank that says so; None where none does, or where a rank failed:
    that the others ended for.
    """
    if any(failure.status not in ENDS and not failure.connection for failure in causes(folder)):
        return None
    for file in sorted(folder.glob("ended-*.json")):
        return Ended(**json.loads(file.read_text()))
    return None


def causes(folder: Path) -> list[Failure]:
    """Failures of the attempt in this folder, the likeliest cause first."""
    found = []
    for file in folder.glob("failed-*.json"):
        found.append(Failure(**json.loads(file.read_text())))
    return sorted(found, key=lambda failure: (_weight(failure), failure.time))


def first_failure(folder: Path) -> Failure | None:
    """The likeliest cause, None where no rank is known to have failed."""
    return next(iter(causes(folder)), None)


def _weight(failure: Failure) -> int:
    if failure.status < 0 and -failure.status not in _follows():
        return 0
    if failure.text and not failure.connection:
        return 1
    return 2 if failure.status < 0 else 3


def _follows() -> Iterable[int]:
    """Signals that end a rank because another one failed: the agent's, and NCCL's watchdog's."""
    return (signal.SIGTERM, signal.SIGABRT)
