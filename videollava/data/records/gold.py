"""What a record says for a test of one's own: its split, the answers that count as right, the choices it gives."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from videollava.data.records.keys import nearest
from videollava.data.records.rejected import RecordError

__all__ = ["LETTERS", "SPLITS", "as_split", "read_answers", "read_choices", "read_split"]

SPLITS = ("train", "validation", "test")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_SPLIT = re.compile(
    r"(?:mini)?(train|validation|valid|val|dev|test|eval)(?:ing|mini|dev|std|uation|set|_?\d+)?"
)
_NAMES = {"train": "train", "test": "test", "eval": "test"}


def as_split(name: str) -> str:
    """The split that a name such as `val2014`, `dev` or `Testing` says: train, validation, test; "" for another."""
    found = _SPLIT.fullmatch(name.strip().lower())
    return _NAMES.get(found[1], "validation") if found else ""


def read_split(raw: Any, place: str) -> str:
    """The split of an item's field; "" where it has none, or a word of another kind.

    Raises RecordError where it is like a split's name and none: `tset` must not be trained on.
    """
    if raw is None or raw == "":
        return ""
    if not isinstance(raw, str):
        raise RecordError("malformed record", f"{place}: field split: must be text, not {type(raw).__name__}")
    meant = "" if (split := as_split(raw)) else nearest(raw, SPLITS)
    if meant:
        raise RecordError("unknown split", f"{place}: field split: {raw!r}; is {meant!r} meant? write it so")
    return split


def read_answers(raw: Any, place: str) -> tuple[str, ...]:
    """Accepted answers: a text, a list of texts, or VQA's objects with an `answer`. Repeats stay: they weigh."""
    values = raw if isinstance(raw, list | tuple) else [] if raw is None or raw == "" else [raw]
    texts = [value.get("answer") if isinstance(value, Mapping) else value for value in values]
    return tuple(_text(text, f"{place}: field answers") for text in texts)


def read_choices(raw: Any, place: str) -> tuple[str, ...]:
    """Choices in order: a list of texts, or an object of letters and texts."""
    if isinstance(raw, Mapping):
        raw = list(raw.values())
    if raw is None or raw == "":
        return ()
    if not isinstance(raw, list | tuple) or len(raw) > len(LETTERS):
        raise RecordError(
            "malformed record", f"{place}: field choices: must be a list of texts, {len(LETTERS)} at most"
        )
    return tuple(_text(text, f"{place}: field choices") for text in raw)


def _text(value: Any, place: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise RecordError("malformed record", f"{place}: must hold texts, not {type(value).__name__}")
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RecordError(
            "invalid text", f"{place}: half a surrogate pair; save it as UTF-8 again"
        ) from error
    return text
