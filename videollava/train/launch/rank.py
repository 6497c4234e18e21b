"""What each rank does around a stage's body: its lines carry its name, its pulse is written, its failure reported.

In a process that no launcher of ours started (one rank, or torchrun by hand) nothing of it happens.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from videollava.ends import Ended
from videollava.environment import RANKS
from videollava.train.launch.failures import report, write_ended, write_failure
from videollava.train.launch.fence import ATTEMPT
from videollava.train.launch.pulse import Pulse

__all__ = ["NamedLines", "as_rank", "is_rank"]


def is_rank(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a launcher, ours or another, started this process as one of its ranks."""
    return "RANK" in environment


@contextmanager
def as_rank() -> Iterator[None]:
    """Around the body of a stage. What ends it goes to the launcher, which tells it once for all ranks."""
    if not is_rank() or RANKS not in os.environ:
        yield
        return
    rank, folder = int(os.environ["RANK"]), Path(os.environ[RANKS]) / os.environ[ATTEMPT]
    _name_lines(rank)
    with Pulse(folder, rank):
        try:
            yield
        except Ended as ended:
            write_ended(folder, rank, ended)
            sys.stdout.flush()
            os._exit(ended.status)
        except Exception as error:
            failure = report(rank, error)
            write_failure(folder, failure)
            sys.stdout.flush()
            # Not sys.exit: a process group that lost a rank, or a loader's thread, may hold the interpreter up.
            os._exit(failure.status)


class NamedLines:
    """A text stream that writes whole lines, at once, with a name before each: ranks share one output."""

    def __init__(self, stream: Any, name: str) -> None:
        self._stream, self._name, self._rest = stream, name, ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        if lines:
            self._stream.write("".join(f"{self._name}{line}\n" for line in lines))
            self._stream.flush()
        return len(text)

    def flush(self) -> None:
        """Lines are written as they end; what has no end waits for it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _name_lines(rank: int) -> None:
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if rank or not stream.isatty():  # rank 0 draws its bar
            setattr(sys, name, NamedLines(stream, f"[rank {rank}] " if rank else ""))
