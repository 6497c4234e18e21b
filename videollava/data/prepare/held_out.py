"""Which samples are held out: measured while training goes on, and in no training split.

Media are drawn, not records: all records about one medium are held out together, from `align` too, and so are all
records that share media with them. Records without media are drawn by themselves. A medium's place in the draw is its
content's hash, a text's its source's and its own name: neither the order of the records nor the number of workers
matters, and records that are added leave the others where they are: one that was held out goes back to training only
where new ones come before it and the bound is reached.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from videollava.data.prepare.row import Outline, Row

__all__ = ["HeldOut", "draw_held_out"]

ONE_IN = 50  # samples of a split, at most
BOUNDED = ("pretrain", "finetune")  # splits that a number of samples is wanted of
SPLITS = (*BOUNDED, "align")


@dataclass(frozen=True)
class HeldOut:
    """What was drawn: media by number, records without media by their place in the draw."""

    media: frozenset[int] = frozenset()
    texts: frozenset[int] = frozenset()

    def holds(self, row: Row | Outline) -> bool:
        """Whether a record of a training split is held out of it."""
        if row.split not in SPLITS:
            return False
        return row.media[0] in self.media if row.media else _place_of(row) in self.texts


def draw_held_out(rows: Iterable[Row | Outline], hashes: Sequence[str], most: int) -> HeldOut:
    """Draw up to `most` samples of each stage, and not more than one in ONE_IN of any split.

    hashes: sha256 of each medium, in hexadecimal, by its number.
    """
    if most <= 0:
        return HeldOut()
    groups = _Groups(hashes)
    for row in rows:
        if row.split in SPLITS:
            groups.add(row)
    room = {split: groups.totals[split] // ONE_IN for split in SPLITS}
    room.update({split: min(most, room[split]) for split in BOUNDED})
    drawn: set[int] = set()
    texts: set[int] = set()
    for place, first, counts in groups.in_order():
        # One that does not fit is passed over: it may be a medium that thousands ask about.
        fits = all(counts[split] <= room[split] for split in SPLITS)
        if fits and any(counts[split] for split in BOUNDED):
            room = {split: room[split] - counts[split] for split in SPLITS}
            if first is None:
                texts.add(place)
            else:
                drawn.add(first)
    return HeldOut(groups.media_of(drawn), frozenset(texts))


class _Groups:
    """Records that go together: about the same media, or media that some record shows side by side.

    A group goes by that of its media which comes first in the draw.
    """

    def __init__(self, hashes: Sequence[str]) -> None:
        self.totals: Counter[str] = Counter()
        self._places = [int(text[:16], 16) for text in hashes]
        self._first = array("q", range(len(hashes)))  # of each medium, one of its group that comes before it
        self._counts = {split: array("q", bytes(8 * len(hashes))) for split in SPLITS}
        self._texts: dict[int, Counter[str]] = {}

    def add(self, row: Row | Outline) -> None:
        """One more record."""
        self.totals[row.split] += 1
        if not row.media:
            self._texts.setdefault(_place_of(row), Counter()).update([row.split])
            return
        self._counts[row.split][row.media[0]] += 1
        for number in row.media[1:]:
            self._join(row.media[0], number)

    def in_order(self) -> Iterator[tuple[int, int | None, Mapping[str, int]]]:
        """Place, first medium (None: a record without media) and records by split of each group, as drawn."""
        for number in range(len(self._first)):
            first = self._find(number)
            for counts in self._counts.values() if first != number else ():
                counts[first] += counts[number]
                counts[number] = 0
        firsts: list[tuple[int, int | None]] = [
            (self._places[n], n) for n, f in enumerate(self._first) if n == f
        ]
        for place, group in sorted([*firsts, *((place, None) for place in self._texts)], key=_by_place):
            if group is None:
                yield place, None, self._texts[place]
            else:
                yield place, group, {split: counts[group] for split, counts in self._counts.items()}

    def media_of(self, firsts: Collection[int]) -> frozenset[int]:
        """All media of these groups."""
        return frozenset(number for number in range(len(self._first)) if self._find(number) in firsts)

    def _find(self, number: int) -> int:
        while self._first[number] != number:
            self._first[number] = number = self._first[self._first[number]]
        return number

    def _join(self, one: int, other: int) -> None:
        first, second = sorted((self._find(one), self._find(other)), key=self._places.__getitem__)
        self._first[second] = first


def _by_place(group: tuple[int, int | None]) -> int:
    return group[0]


def _place_of(row: Row | Outline) -> int:
    """The place of a record without media in the draw, as a medium's is by its sha256."""
    name = f"{row.source}\0{row.id}"
    return int(hashlib.sha256(name.encode()).hexdigest()[:16], 16)
