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

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from videollava.data.prepare.outlines import PARTS, Mask, Numbers, Outlines, Places, below
from videollava.params import Portion

__all__ = ["SPLITS", "HeldOut", "draw_held_out"]

ONE_IN = 50  # samples of a split, at most
BOUNDED = ("pretrain", "finetune")  # splits that a number of samples is wanted of
SPLITS = (*BOUNDED, "align")
DRAWN, FULL = 1, 2  # of a group: it is held out; its share is held out already
AT_ONCE = 1 << 16  # groups that are looked at with the room there is


@dataclass(frozen=True)
class HeldOut:
    """What was drawn: which media, and of records without media their places in the draw."""

    media: Mask
    texts: Places = field(default_factory=lambda: np.zeros(0, np.uint64))

    def holds(self, rows: Outlines) -> Mask:
        """Which records, of training splits, are held out of them."""
        shown = rows.media.count(self.media) > 0
        asked = rows.is_text & np.isin(rows.asked, self.texts)
        return rows.is_in(SPLITS) & (shown | asked)


def draw_held_out(
    rows: Outlines,
    places: Places,
    most: int,
    portions: Mapping[str, Portion] | None = None,
    roots: Numbers | None = None,
) -> HeldOut:
    """Draw what sources and records name, then up to `most` samples of each stage, and not more than one in ONE_IN.

    places: of each medium, the first 64 bits of its sha256. roots: of each, one that it looks like.
    """
    rows = rows.take(np.flatnonzero(rows.is_in(SPLITS)))
    whole = np.array([rows.is_in([split]).sum() for split in SPLITS])
    room = whole // ONE_IN
    room[: len(BOUNDED)] = np.minimum(room[: len(BOUNDED)], most)
    groups = _group(rows, places, portions or {}, roots)
    named = groups.states & DRAWN > 0
    room = np.maximum(0, room - groups.counts[named].sum(axis=0))
    drawn = named.copy()
    drawn[list(_fill(room, groups))] = True
    media = drawn[groups.of_media] if len(places) else np.zeros(0, bool)
    return HeldOut(media, np.unique(groups.places[drawn & groups.is_text]))


@dataclass(frozen=True)
class _Groups:
    """Records that go together: about the same media, or media that some record shows side by side, or that ask the
    same without media. A row a group: its place, its records by split (of SPLITS), of DRAWN and FULL.

    of_media: of each medium, its group, which goes by that of its media which comes first in the draw.
    """

    places: Places
    is_text: Mask
    counts: Numbers
    states: NDArray[np.uint8]
    of_media: Numbers


def _group(rows: Outlines, places: Places, portions: Mapping[str, Portion], roots: Numbers | None) -> _Groups:
    of_media = _components(rows, len(places), roots)
    asked = np.unique(rows.asked[rows.is_text])
    media = int(of_media.max(initial=-1)) + 1
    where = np.concatenate([np.full(media, np.iinfo(np.uint64).max), asked])
    np.minimum.at(where, of_media, places)
    of_records = media + np.searchsorted(asked, rows.asked)
    with_media = ~rows.is_text
    of_records[with_media] = of_media[rows.media.values[rows.media.offsets[:-1][with_media]]]
    counts = np.zeros((len(where), len(SPLITS)), np.int64)
    for column, split in enumerate(SPLITS):
        counts[:, column] = np.bincount(of_records[rows.is_in([split])], minlength=len(where))
    states = np.zeros(len(where), np.uint8)
    shown, texts = rows.media.rows(), np.flatnonzero(rows.is_text)
    values = rows.media.values
    np.bitwise_or.at(states, of_media[values], _states(rows, shown, places[values], portions))
    np.bitwise_or.at(states, of_records[texts], _states(rows, texts, rows.asked[texts], portions))
    return _Groups(where, np.arange(len(where)) >= media, counts, states, of_media)


def _states(
    rows: Outlines, records: Numbers, places: Places, portions: Mapping[str, Portion]
) -> NDArray[np.uint8]:
    """What each of these records says of the place beside it, a medium's or its own: DRAWN and FULL."""
    said = rows.part[records] == PARTS.index("validation")
    states = np.where(said, DRAWN, 0).astype(np.uint8)
    for number, name in enumerate(rows.sources):
        share = portions[name].valid if name in portions else "field"
        if not isinstance(share, str):
            own = rows.source[records] == number
            states[own] = FULL | np.where(below(places[own], share), DRAWN, 0)
    return states


def _components(rows: Outlines, count: int, roots: Numbers | None) -> Numbers:
    """Of each medium the number of its group: those that records or roots join."""
    several = rows.take(np.flatnonzero(rows.media.lengths > 1)).media
    others = several.values.astype(np.int64)
    ones = np.repeat(others[several.offsets[:-1]], several.lengths)
    if roots is not None:
        ones, others = np.append(ones, roots), np.append(others, np.arange(count))
    firsts = np.arange(count)
    while (apart := firsts[ones] != firsts[others]).any():
        ones, others = ones[apart], others[apart]
        low, high = np.minimum(firsts[ones], firsts[others]), np.maximum(firsts[ones], firsts[others])
        np.minimum.at(firsts, high, low)
        while (firsts[firsts] != firsts).any():
            firsts = firsts[firsts]
    return np.unique(firsts, return_inverse=True)[1]


def _fill(room: Numbers, groups: _Groups) -> Iterator[int]:
    """Groups that are drawn, as far as there is room, by their places. One that does not fit is passed over: it may be
    a medium that thousands ask about.
    """
    bounded = len(BOUNDED)
    free = np.flatnonzero((groups.states == 0) & (groups.counts[:, :bounded].sum(axis=1) > 0))
    free = free[np.lexsort((groups.is_text[free], groups.places[free]))]
    for begin in range(0, len(free), AT_ONCE):
        some = free[begin : begin + AT_ONCE]
        for group in some[(groups.counts[some] <= room).all(axis=1)].tolist():
            left = room - groups.counts[group]
            if (left >= 0).all():
                room = left
                yield group
            if not room[:bounded].any():
                return
