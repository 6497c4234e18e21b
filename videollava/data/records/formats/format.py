"""What a format of annotations is: how its items are known, and how one becomes an item of LLaVA's format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from videollava.data.archives.listing import Member
from videollava.data.records.record import Record
from videollava.data.records.rejected import Notes, Rejected
from videollava.params import Source

__all__ = ["Catalogue", "Context", "Entry", "Item", "ItemFormat", "SourceReader"]

Catalogue = Mapping[str, Member]
Entry = tuple[str, Record] | Rejected
Item = Mapping[str, Any]
# Reads a whole source: (its section, its folder, members of its archives by name, what to note).
SourceReader = Callable[[Source, Path, Catalogue, Notes], Iterator[Entry]]


def _nothing_known(path: str) -> bool:
    return False


@dataclass(frozen=True)
class Context:
    """What a conversion may know and say: `present` tells whether a medium of this path is there."""

    present: Callable[[str], bool] = _nothing_known
    notes: Notes = field(default_factory=Notes)


@dataclass(frozen=True)
class ItemFormat:
    """A format whose file is a list of items, one a record.

    about: one line on what it is.
    fits: whether an item looks like one of it.
    as_llava: the item in LLaVA's format (item, place in the file, context); RecordError where it can't be.
    keys: the ones it reads, to tell what a slip was meant for.
    """

    name: str
    about: str
    fits: Callable[[Item], bool]
    as_llava: Callable[[Item, str, Context], Item]
    keys: tuple[str, ...]
