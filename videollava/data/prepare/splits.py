"""Which part of the data each record goes to: trained on, held out, asked in a test, or left out.

The test of a source (index.sources.NAME.test) is drawn by the hash of its media, salted: a medium is a test's or not
by its content, wherever it comes from and whatever else there is. Media that look alike go by the first of them in
the source's own order, in which a later look at the source comes after all earlier ones. So new media move no old
one: what was asked in a test is asked, and what was trained on is not asked. Records without media go by the hash
of what they ask.

Nothing is trained on that a test asks about: a record whose medium is in a test of any source, or looks like one that
is, or that asks the same without media, is left out of training, and counted. That is so also where it was trained on
before: a new test medium takes its like out of training, not into the test.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from videollava.data.prepare.held_out import SPLITS, draw_held_out
from videollava.data.prepare.joined import LEFT_OUT, Joined, Part
from videollava.data.prepare.mixture import Samples
from videollava.data.prepare.near import Looks
from videollava.data.prepare.row import Outline, Row
from videollava.data.prepare.tables import TEST, valid_part
from videollava.errors import InputError
from videollava.params import Index, Portion

__all__ = ["Cut", "cut_splits"]

SALT = "videollava test\0"
WHOLE = 1 << 64
TRAINED, VALID, TESTED, NEAR, THINNED = range(5)


@dataclass
class Cut:
    """Of each record of `Joined.rows`, in order, where it goes; and by source, how many are not in training, and why.

    near: samples that are left out since a test asks about their media, or media like them. thinned: those that
    weight and cap leave out. unheeded: those that say they are a test's where a share is drawn instead.
    """

    roles: bytearray
    copies: array[int]
    near: Counter[str] = field(default_factory=Counter)
    thinned: Counter[str] = field(default_factory=Counter)
    unheeded: Counter[str] = field(default_factory=Counter)

    def take(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows that go anywhere, each to its split."""
        for row, role, copies in zip(rows, self.roles, self.copies, strict=True):
            if role == TESTED:
                yield replace(row, into=f"{TEST}{row.source}")
            elif role == VALID:
                yield replace(row, into=valid_part(row.split))
            elif role == TRAINED:
                yield replace(row, into=row.split, copies=copies)

    @property
    def taken(self) -> int:
        """How many rows `take` gives."""
        return len(self.roles) - sum(self.roles.count(role) for role in (NEAR, THINNED))


def cut_splits(joined: Joined, chosen: Index) -> Cut:
    """Decide for every record. InputError where a source is named that there is none of, or has a test already."""
    _check_names(joined, chosen)
    cut = Cut(bytearray(joined.records), array("H", [1]) * joined.records)
    looks = joined.looks() if chosen.near else [""] * len(joined.hashes)
    tested, texts = _draw_tests(joined, chosen, cut)
    alike = Looks(looks, chosen.near)
    _leave_out(joined, chosen, alike.like(tested), texts, cut)
    left = (row for number, row in enumerate(joined.outlines()) if cut.roles[number] == TRAINED)
    roots = alike.roots().tolist() if chosen.near else ()
    held_out = draw_held_out(left, joined.hashes, chosen.held_out, chosen.sources, roots)
    for number, row in enumerate(joined.outlines()):
        if cut.roles[number] == TRAINED and held_out.holds(row):
            cut.roles[number] = VALID
    return cut


def _check_names(joined: Joined, chosen: Index) -> None:
    known = [part.name for part in joined.parts]
    for name in chosen.sources:
        if name not in known:
            raise InputError(
                f"params.yaml: index.sources.{name}: there is no such source; there are: {', '.join(known)}"
            )


def _draw_tests(joined: Joined, chosen: Index, cut: Cut) -> tuple[NDArray[np.bool_], set[str]]:
    """Mark the records that are asked; which media they show, and what those without media ask."""
    asked_of = _questions(joined)
    given = {split for part in joined.parts for split in _splits_of(part) if split not in SPLITS}
    shares = {part.name: chosen.sources.get(part.name, Portion()).test for part in joined.parts}
    drawn = {
        part.name: _draw_media(joined, part, share, chosen.near)
        for part in joined.parts
        if not isinstance(share := shares[part.name], str)
    }
    tested = bytearray(len(joined.hashes))
    texts: set[str] = set()
    for number, row in enumerate(joined.outlines()):
        share = shares[row.source]
        if row.split in SPLITS:
            said = row.part == "test"
            if isinstance(share, str):
                is_asked = said
            else:
                is_asked = _is_drawn(row, share, drawn[row.source])
                cut.unheeded[row.source] += said and not is_asked
            if not is_asked:
                continue
            if f"{TEST}{row.source}" in given:
                raise InputError(
                    f"params.yaml: index.sources.{row.source}.test: there is a test {row.source} already, which the "
                    "format brings; leave it out, or rename the source"
                )
            # Of captions and questions about one medium, the questions are asked.
            cut.roles[number] = TESTED if row.split == asked_of[row.source] else NEAR
        for medium in row.media:
            tested[medium] = 1
        if not row.media:
            texts.add(row.asked)
    return np.frombuffer(tested, np.bool_), texts


def _questions(joined: Joined) -> Mapping[str, str]:
    """By source, the split whose records are asked in its test."""
    return {
        part.name: next(
            (split for split in ("finetune", "pretrain", "align") if split in _splits_of(part)), ""
        )
        for part in joined.parts
    }


def _splits_of(part: Part) -> set[str]:
    return set(part.records.column("split").unique().to_pylist())


def _draw_media(joined: Joined, part: Part, share: float, near: int) -> bytearray:
    """Which media (by their number) this source's test asks about. A medium that is forgotten still leads its like."""
    hashes, looks = (part.media.column(name).to_pylist() for name in ("sha256", "look"))
    drawn = bytearray(len(joined.hashes))
    for number, root in zip(part.numbers, Looks(looks, near).roots().tolist(), strict=True):
        if number != LEFT_OUT:
            drawn[number] = _place(hashes[root]) < share * WHOLE
    return drawn


def _is_drawn(row: Outline, share: float, drawn: bytearray) -> bool:
    """Of a record with several media, one that is drawn draws the others with it."""
    if row.media:
        return any(drawn[medium] for medium in row.media)
    return _place(row.asked) < share * WHOLE


def _place(content: str) -> int:
    return int(hashlib.sha256((SALT + content).encode()).hexdigest()[:16], 16)


def _leave_out(joined: Joined, chosen: Index, tested: NDArray[np.bool_], texts: set[str], cut: Cut) -> None:
    """Take out of training what a test asks about, and then what weights and caps leave out."""
    samples = Samples(chosen.sources)
    marked = tested.tobytes()
    for number, row in enumerate(joined.outlines()):
        if row.split not in SPLITS or cut.roles[number] == TESTED:
            continue
        same = any(marked[medium] for medium in row.media) if row.media else row.asked in texts
        if same:
            cut.roles[number] = NEAR
            cut.near[row.source] += 1
        else:
            samples.add(number, row)
    for number, copies, source in samples.copies():
        cut.copies[number] = copies
        if not copies:
            cut.roles[number] = THINNED
            cut.thinned[source] += 1
