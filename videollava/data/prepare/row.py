"""A record in the making of the index: its split and its media by number, with its text or without."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from videollava.data.records.record import Record

__all__ = ["Outline", "Row", "record_row"]


@dataclass(frozen=True, slots=True)
class Row:
    """A record of a split, its media found.

    into: the split of the index that it is written to, `copies` times.
    """

    split: str
    record: Record
    media: tuple[int, ...]
    into: str = ""
    copies: int = 1

    @property
    def source(self) -> str:
        """Of the record."""
        return self.record.source

    @property
    def id(self) -> str:
        """Of the record."""
        return self.record.id


@dataclass(frozen=True, slots=True)
class Outline:
    """A record without its text: what is enough to draw by.

    part: what the record says of itself (train, validation, test, or ""). asked: of one without media, sixteen hex
    digits of what is asked.
    """

    split: str
    source: str
    id: str
    media: tuple[int, ...]
    part: str = ""
    asked: str = ""


def record_row(row: Row) -> Mapping[str, Any]:
    """As a row of records.arrow."""
    record = row.record
    said = [[turn.role, turn.text] for turn in record.turns]
    return {
        "id": record.id,
        "split": row.split,
        "kind": record.kind,
        "conversations": json.dumps(said, ensure_ascii=False),
        "part": record.split,
        "asked": "" if row.media else _digest_asked(record),
        "answers": list(record.answers),
        "choices": list(record.choices),
        "media": list(row.media),
    }


def _digest_asked(record: Record) -> str:
    """Of all human turns, whatever their case and white space."""
    asked = " ".join(" ".join(turn.text for turn in record.turns if turn.role == "human").lower().split())
    return hashlib.sha256(asked.encode()).hexdigest()[:16]
