"""What asking for an object gives, wherever it lies, and the failure that another attempt may mend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = ["TIMEOUT", "TRANSIENT", "Answer", "Body", "Seen", "Span", "TransientError"]

TIMEOUT = 60.0  # seconds without a byte

# Answers that another attempt may change; others are the user's to mend.
TRANSIENT = {408, 425, 429, 500, 502, 503, 504}


class Body(Protocol):
    """What replies have in common."""

    def readinto(self, buffer: memoryview, /) -> int: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of an object from `start` to before `end` (-1: its end)."""

    start: int = 0
    end: int = -1

    @property
    def is_whole(self) -> bool:
        """Whether that is all of it, whatever its size."""
        return self.start == 0 and self.end < 0

    @property
    def header(self) -> str:
        """As http asks for it."""
        return f"bytes={self.start}-{self.end - 1 if self.end >= 0 else ''}"


@dataclass(frozen=True, slots=True)
class Seen:
    """An object as it is listed: name and address, bytes (-1: not said), version and sha256 ("": not said)."""

    name: str
    size: int
    version: str = ""
    sha256: str = ""
    url: str = ""


@dataclass(frozen=True)
class Answer:
    """An open reply: its bytes start at `start` of an object of `total` bytes (-1: not said).

    `version` identifies the object's content (an ETag, or a date), "" where the server doesn't.
    """

    body: Body
    start: int
    total: int
    version: str


class TransientError(Exception):
    """Worth another attempt, after `pause` seconds where the server said so."""

    def __init__(self, reason: str, pause: float = 0.0) -> None:
        super().__init__(reason)
        self.pause = pause
