"""Which samples are held out: measured while training goes on, and in no training split.

Media are drawn, not records: all records about one medium are held out together, from `align` too, and so are all
records that share media with them and all media that look like them. Records without media are drawn by what they
ask. A source that names a share (index.sources.NAME.valid) has it held out, and what a record says is its validation
part is; of the others a number is drawn (index.held_out).

A medium's place in the draw is its content's hash: neither the order of the records nor the number of workers
matters, and records that are added leave the others where they are: one that was held out goes back to training only
where new ones come before it and the bound is reached.
"""

from __future__ import annotations

import heapq
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from videollava.data.prepare.row import Outline
from videollava.params import Portion

__all__ = ["SPLITS", "HeldOut", "draw_held_out"]

ONE_IN = 50  # samples of a split, at most
BOUNDED = ("pretrain", "finetune")  # splits that a number of samples is wanted of
SPLITS = (*BOUNDED, "align")
WHOLE = 1 << 64  # places there are
DRAWN, FULL = 1, 2  # of a group: it is held out; its share is held out already


@dataclass(frozen=True)
class HeldOut:
    """What was drawn: media by number, records without media by their place in the draw."""

    media: frozenset[int] = frozenset()
    texts: frozenset[int] = frozenset()

    def holds(self, row: Outline) -> bool:
        """Whether a record of a training split is held out of it."""
        if row.split not in SPLITS:
            return False
        return row.media[0] in self.media if row.media else _place_of(row) in self.texts


def draw_held_out(
    rows: Iterable[Outline],
    hashes: Sequence[str],
    most: int,
    portions: Mapping[str, Portion] | None = None,
    roots: Iterable[int] = (),
) -> HeldOut:
    """Draw what sources and records name, then up to `most` samples of each stage, and not more than one in ONE_IN.

    hashes: sha256 of each medium, in hexadecimal, by its number. roots: of each, one that it looks like.
    """
    groups = _Groups(hashes, portions or {})
    for row in rows:
        if row.split in SPLITS:
            groups.add(row)
    for number, root in enumerate(roots):
        groups.join(number, root)
    room = {split: groups.totals[split] // ONE_IN for split in SPLITS}
    room.update({split: min(most, room[split]) for split in BOUNDED})
    drawn: set[int] = set()
    texts: set[int] = set()
    for group in groups.in_order():
        # One that does not fit is passed over: it may be a medium that thousands ask about.
        fits = all(group.counts[split] <= room[split] for split in SPLITS)
        if group.state & DRAWN or (fits and any(group.counts[split] for split in BOUNDED)):
            room = {split: max(0, room[split] - group.counts[split]) for split in SPLITS}
            if group.first is None:
                texts.add(group.place)
            else:
                drawn.add(group.first)
    return HeldOut(groups.media_of(drawn), frozenset(texts))


@dataclass(frozen=True, slots=True)
class _Group:
    """`first` of its media (None: records without any), its records by split; `state`: of DRAWN and FULL."""

    place: int
    first: int | None
    counts: Mapping[str, int]
    state: int


class _Groups:
    """Records that go together: about the same media, or media that some record shows side by side.

    A group goes by that of its media which comes first in the draw.
    """

    def __init__(self, hashes: Sequence[str], portions: Mapping[str, Portion]) -> None:
        self.totals: Counter[str] = Counter()
        self._shares = {name: portion.valid for name, portion in portions.items()}
        self._places = [int(text[:16], 16) for text in hashes]
        self._first = array("q", range(len(hashes)))  # of each medium, one of its group that comes before it
        self._counts = {split: array("q", bytes(8 * len(hashes))) for split in SPLITS}
        self._states = bytearray(len(hashes))
        self._texts: dict[int, Counter[str]] = {}
        self._text_states: dict[int, int] = {}

    def add(self, row: Outline) -> None:
        """One more record."""
        self.totals[row.split] += 1
        if not row.media:
            place = _place_of(row)
            self._texts.setdefault(place, Counter()).update([row.split])
            self._text_states[place] = self._text_states.get(place, 0) | self._state(row, place)
            return
        self._counts[row.split][row.media[0]] += 1
        for number in row.media:
            self._states[number] |= self._state(row, self._places[number])
            self.join(row.media[0], number)

    def in_order(self) -> Iterator[_Group]:
        """Groups that are held out by name, then those that may be drawn; each in their order."""
        for number in range(len(self._first)):
            first = self._find(number)
            for counts in self._counts.values() if first != number else ():
                counts[first] += counts[number]
                counts[number] = 0
            self._states[first] |= self._states[number]
        firsts = [number for number, first in enumerate(self._first) if number == first]
        firsts.sort(key=self._places.__getitem__)
        texts = sorted(self._texts)
        for is_named in (True, False):
            # One at a time: there may be a million.
            for group in heapq.merge(self._of_media(firsts), self._of_texts(texts), key=_by_place):
                if group.state & DRAWN if is_named else not group.state:
                    yield group

    def media_of(self, firsts: Collection[int]) -> frozenset[int]:
        """All media of these groups."""
        return frozenset(number for number in range(len(self._first)) if self._find(number) in firsts)

    def join(self, one: int, other: int) -> None:
        """These two media go together."""
        if one == other:
            return
        first, second = sorted((self._find(one), self._find(other)), key=self._places.__getitem__)
        self._first[second] = first

    def _state(self, row: Outline, place: int) -> int:
        share = self._shares.get(row.source, "field")
        if share == "field":
            return DRAWN if row.part == "validation" else 0
        return FULL | (DRAWN if place < share * WHOLE else 0)

    def _of_media(self, firsts: Iterable[int]) -> Iterator[_Group]:
        for number in firsts:
            counts = {split: counts[number] for split, counts in self._counts.items()}
            yield _Group(self._places[number], number, counts, self._states[number])

    def _of_texts(self, places: Iterable[int]) -> Iterator[_Group]:
        for place in places:
            yield _Group(place, None, self._texts[place], self._text_states[place])

    def _find(self, number: int) -> int:
        while self._first[number] != number:
            self._first[number] = number = self._first[self._first[number]]
        return number


def _by_place(group: _Group) -> int:
    return group.place


def _place_of(row: Outline) -> int:
    """The place of a record without media in the draw, as a medium's is by its sha256."""
    return int(row.asked, 16)
