"""Keys of objects that people write, and those that they meant."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

__all__ = ["hint", "nearest"]

CLOSE = 0.75  # of difflib's ratio: "vidoe" is 0.8 of "video", "id" 0.5 of "idea"
LONGEST = 40  # characters of a key that is compared


def nearest(key: object, known: Collection[str]) -> str:
    """The known key that another one is a slip of; "" where it is none, or known itself."""
    if not isinstance(key, str) or key in known or len(key) > LONGEST:
        return ""
    low = key.strip().lower().replace("-", "_")
    if low in known:
        return low
    found = difflib.get_close_matches(low, known, n=1, cutoff=CLOSE)
    return found[0] if found else ""


def hint(keys: Iterable[object], known: Collection[str]) -> str:
    """`; is "vidoe" meant for "video"?`, of the first key that is like a known one; "" where none is."""
    for key in keys:
        if meant := nearest(key, known):
            return f"; is {key!r} meant for {meant!r}?"
    return ""
