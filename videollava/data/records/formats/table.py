"""Formats whose file is a list of items, and which of them a file is in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from videollava.data.records.formats.format import ItemFormat
from videollava.data.records.formats.llava import LLAVA
from videollava.data.records.formats.messages import MESSAGES
from videollava.data.records.formats.plain import PLAIN
from videollava.data.records.formats.valley import VALLEY
from videollava.data.records.formats.video_chatgpt import VIDEO_CHATGPT
from videollava.data.records.keys import hint
from videollava.errors import InputError

__all__ = ["AUTO", "ITEM_FORMATS", "LOOKED_AT", "guess_format"]

AUTO = "auto"
LOOKED_AT = 50  # items that a guess is made from

# The more particular first: of equals it is taken.
ITEM_FORMATS: dict[str, ItemFormat] = {
    form.name: form for form in (VALLEY, VIDEO_CHATGPT, MESSAGES, LLAVA, PLAIN)
}


def guess_format(items: Iterable[object], file: str) -> tuple[ItemFormat, str]:
    """The format that most of some items look like, and a sentence about that; InputError where none do.

    items: those that a file begins with.
    """
    found = [item for item in items if isinstance(item, dict)]
    fits = Counter(name for item in found for name, form in ITEM_FORMATS.items() if form.fits(item))
    best = max(ITEM_FORMATS, key=lambda name: fits[name])
    if not fits[best]:
        keys = list(found[0])[:8] if found else []
        known = tuple({key for form in ITEM_FORMATS.values() for key in form.keys})
        raise InputError(
            f"{file}: its records are in no format that is known: "
            f"{f'the first has the fields {keys}{hint(keys, known)}' if found else 'none of the first is an object'}; "
            f"formats: {'; '.join(f'{form.name} ({form.about})' for form in ITEM_FORMATS.values())}"
        )
    told = f"{file}: format {best}, as {fits[best]} of its first {len(found)} records say"
    return ITEM_FORMATS[best], told
