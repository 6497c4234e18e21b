"""What DVC's output says of a stage: what became of it, and what kind of failure it was."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

__all__ = ["Outcome", "Reading"]

Outcome = Literal["ran", "restored", "unchanged"]
TAIL = 30
LOCKED = re.compile(r"Unable to acquire lock|is busy, it is being blocked by")
# What the same try meets again: the disk, rights, a program or package that is not there.
LASTING = re.compile(
    r"No space left on device|Disk quota exceeded|Read-only file system|Permission ?denied|Operation not permitted"
    r"|command not found|No module named|cannot execute|Exec format error|MemoryError|Out of memory",
    re.IGNORECASE,
)
USAGE_ERROR = 2  # what `videollava` exits with on a user's mistake


class Reading:
    """Takes DVC's lines, passes them on to `say` and remembers what matters.

    outcome: what became of the stage. tail: the last lines. inner: the exit status of the stage's own command, None
    where it did not fail. locked: another DVC was in the way. begun: a stage's command runs, or ran. error: the last
    thing DVC complained of.
    """

    def __init__(self, stage: str, say: Callable[[str], None]) -> None:
        self.outcome: Outcome = "unchanged"
        self.tail: list[str] = []
        self.inner: int | None = None
        self.locked = False
        self.begun = False
        self.error = "no reason given"
        self._stage = stage
        self._say = say

    def take(self, line: str) -> None:
        """One line of output."""
        self.begun = self.begun or line.startswith("Running stage '")
        if line.startswith(f"Running stage '{self._stage}'"):
            self.outcome = "ran"
        elif line.startswith(f"Stage '{self._stage}' is cached"):
            self.outcome = "restored"
        elif line.startswith("ERROR:"):
            self.error = line.removeprefix("ERROR:").strip()
            self.locked = self.locked or bool(LOCKED.search(line))
            if found := re.search(r"exited with (-?\d+)$", line):
                self.inner = int(found[1])
        self.tail.append(line)
        del self.tail[:-TAIL]
        self._say(line)

    @property
    def lasting(self) -> bool:
        """Whether another try would end the same: everything but a command that failed of what may pass."""
        passing = self.inner is not None and 0 < self.inner < 126 and self.inner != USAGE_ERROR
        return not passing or any(LASTING.search(line) for line in self.tail)
