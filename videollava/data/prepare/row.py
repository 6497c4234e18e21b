"""A record in the making of the index: its split and its media by number, with its text or without."""

from __future__ import annotations

from dataclasses import dataclass, replace

from videollava.data.records.record import Record

__all__ = ["Outline", "Row"]


@dataclass(frozen=True, slots=True)
class Row:
    """A record of a split, its media found; `held_out`: it goes to the split's validation part."""

    split: str
    record: Record
    media: tuple[int, ...]
    held_out: bool = False

    @property
    def source(self) -> str:
        """Of the record."""
        return self.record.source

    @property
    def id(self) -> str:
        """Of the record."""
        return self.record.id

    def hold_out(self) -> Row:
        """The same, for the validation part."""
        return replace(self, held_out=True)


@dataclass(frozen=True, slots=True)
class Outline:
    """A record without its text: what is enough to draw by."""

    split: str
    source: str
    id: str
    media: tuple[int, ...]
