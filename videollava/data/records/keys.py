"""Keys of objects that people write, and those that they meant."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator

__all__ = ["KeyWatch", "hint", "nearest"]

CLOSE = 0.75  # of difflib's ratio: "vidoe" is 0.8 of "video", "id" 0.5 of "idea"
LONGEST = 40  # characters of a key that is compared
MOST_SHAPES = 4096  # different sets of keys that are kept


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


class KeyWatch:
    """The keys of a file's items, of which some may be slips of those that its format reads."""

    def __init__(self, known: Collection[str]) -> None:
        self._known = known
        self._shapes: Counter[tuple[object, ...]] = Counter()

    def see(self, item: dict[object, object]) -> None:
        """Count the keys of one more item."""
        shape = tuple(item)
        if shape in self._shapes or len(self._shapes) < MOST_SHAPES:
            self._shapes[shape] += 1

    def slips(self) -> Iterator[tuple[str, int]]:
        """`field 'vidoe' is not read; is 'video' meant?`, and of how many items."""
        counts: Counter[object] = Counter()
        for shape, count in self._shapes.items():
            for key in shape:
                counts[key] += count
        for key, count in counts.items():
            if meant := nearest(key, self._known):
                yield f"field {key!r} is not read; is {meant!r} meant?", count
