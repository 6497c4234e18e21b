"""What is no record, and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from videollava.errors import InputError

__all__ = ["Notes", "RecordError", "Rejected"]

# What was done to records that are kept, or was left out of them, and how often.
Notes = Counter[str]


class RecordError(InputError):
    """A record that can't be used; `reason` is the short name under which it is counted."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True)
class Rejected:
    """An entry of a source that is not a record, and why."""

    source: str
    file: str
    record: str
    reason: str
    detail: str
