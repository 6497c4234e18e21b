"""A record whose media are found, and as a row of records.arrow."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from videollava.data.records.record import Record

__all__ = ["Row", "record_row"]


@dataclass(frozen=True, slots=True)
class Row:
    """A record of a split, and its media by number."""

    split: str
    record: Record
    media: tuple[int, ...]


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
