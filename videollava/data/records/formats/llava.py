"""LLaVA's own format: pretraining (558k), the 665k mix (text only too), and Video-LLaVA's train_json/*_.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from videollava.data.records.conversion import FIELDS, TURNS, conversation_of
from videollava.data.records.formats.format import Context, Item, ItemFormat
from videollava.data.records.formats.marking import mend_marks

__all__ = ["LLAVA", "first_turn"]

FIELDS_OF_ALL = tuple(field for fields in FIELDS.values() for field in fields)
GOLD = ("id", "kind", "split", "answers", "choices")


def first_turn(item: Item) -> Mapping[str, Any]:
    """The first turn of an item; empty where it has none that is an object."""
    turns = conversation_of(item)
    found = turns[0] if isinstance(turns, list) and turns else None
    return found if isinstance(found, Mapping) else {}


def _fits(item: Item) -> bool:
    return {"from", "value"} <= set(first_turn(item))


def _as_llava(item: Item, place: str, context: Context) -> Item:
    return mend_marks(item, place, context.notes)


LLAVA = ItemFormat(
    "llava",
    "LLaVA pretrain and 665k, Video-LLaVA's *_json: id, image or video (a path or a list), conversations",
    _fits,
    _as_llava,
    (*GOLD, *TURNS, *FIELDS_OF_ALL),
)
