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
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from videollava.data.prepare.held_out import SPLITS, draw_held_out
from videollava.data.prepare.joined import LEFT_OUT, Joined, Part
from videollava.data.prepare.mixture import copies_of
from videollava.data.prepare.near import Looks
from videollava.data.prepare.outlines import PARTS, Mask, Numbers, Outlines, Places, below
from videollava.data.prepare.tables import TEST
from videollava.errors import InputError
from videollava.params import Index, Portion

__all__ = ["NEAR", "TESTED", "THINNED", "TRAINED", "VALID", "Cut", "cut_splits"]

SALT = "videollava test\0"
TRAINED, VALID, TESTED, NEAR, THINNED = range(5)


@dataclass
class Cut:
    """Of each record, in the order of `Joined.outlines`, where it goes; by source, how many are not in training, and
    why.

    near: samples that are left out since a test asks about their media, or media like them. thinned: those that
    weight and cap leave out. unheeded: those that say they are a test's where a share is drawn instead.
    """

    roles: NDArray[np.uint8]
    copies: NDArray[np.uint16]
    is_asked: Mask
    near: Counter[str] = field(default_factory=Counter)
    thinned: Counter[str] = field(default_factory=Counter)
    unheeded: Counter[str] = field(default_factory=Counter)

    @property
    def is_taken(self) -> Mask:
        """Which records go anywhere. `is_asked`: which of them to a test."""
        return (self.roles != NEAR) & (self.roles != THINNED)


def cut_splits(joined: Joined, chosen: Index) -> Cut:
    """Decide for every record. InputError where a source is named that there is none of, or has a test already."""
    _check_names(joined, chosen)
    rows = joined.outlines
    given = ~rows.is_in(SPLITS)
    cut = Cut(np.zeros(len(rows), np.uint8), np.ones(len(rows), np.uint16), given)
    asked = _draw_tests(joined, chosen, cut) | given
    alike = Looks(joined.looks() if chosen.near else [""] * len(joined.kinds), chosen.near)
    _leave_out(joined, chosen, alike, asked, cut)
    left = np.flatnonzero((cut.roles == TRAINED) & ~given)
    roots = alike.roots() if chosen.near else None
    held_out = draw_held_out(rows.take(left), joined.places, chosen.held_out, chosen.sources, roots)
    cut.roles[left[held_out.holds(rows.take(left))]] = VALID
    cut.is_asked = given | (cut.roles == TESTED)
    return cut


def _check_names(joined: Joined, chosen: Index) -> None:
    known = [part.name for part in joined.parts]
    for name in chosen.sources:
        if name not in known:
            raise InputError(
                f"params.yaml: index.sources.{name}: there is no such source; there are: {', '.join(known)}"
            )


def _draw_tests(joined: Joined, chosen: Index, cut: Cut) -> Mask:
    """Mark the records that are asked in a source's own test; which these are, and those about the same media."""
    rows = joined.outlines
    said = (rows.part == PARTS.index("test")) & rows.is_in(SPLITS)
    asked = said.copy()
    for number, part in enumerate(joined.parts):
        share = chosen.sources.get(part.name, Portion()).test
        own = np.flatnonzero((rows.source == number) & rows.is_in(SPLITS))
        if not isinstance(share, str):
            asked[own] = _is_drawn(rows.take(own), share, _draw_media(joined, part, share, chosen.near))
            cut.unheeded[part.name] += int((said[own] & ~asked[own]).sum())
        if not asked[own].any():
            continue
        _check_given(joined, part)
        # Of captions and questions about one medium, the questions are asked.
        questions = rows.is_in([_questions(part)])[own]
        cut.roles[own[asked[own]]] = np.where(questions, TESTED, NEAR)[asked[own]]
    return asked


def _check_given(joined: Joined, part: Part) -> None:
    if any(f"{TEST}{part.name}" in other.splits for other in joined.parts):
        raise InputError(
            f"params.yaml: index.sources.{part.name}.test: there is a test {part.name} already, which the "
            "format brings; leave it out, or rename the source"
        )


def _questions(part: Part) -> str:
    """The split whose records are asked in its test."""
    return next((split for split in ("finetune", "pretrain", "align") if split in part.splits), "")


def _draw_media(joined: Joined, part: Part, share: float, near: int) -> Mask:
    """Which media (by their number) this source's test asks about. A medium that is forgotten still leads its like."""
    roots = Looks(part.looks(), near).roots()
    leading, place = np.unique(roots, return_inverse=True)
    hashes = part.hashes()[leading]
    drawn = below(_places(row.tobytes().hex() for row in hashes), share)[place]
    found = np.zeros(len(joined.kinds), bool)
    kept = part.numbers != LEFT_OUT
    found[part.numbers[kept]] = drawn[kept]
    return found


def _is_drawn(rows: Outlines, share: float, drawn: Mask) -> Mask:
    """Of a record with several media, one that is drawn draws the others with it."""
    asked, place = np.unique(rows.asked, return_inverse=True)
    texts = below(_places(f"{number:016x}" for number in asked.tolist()), share)[place]
    return np.where(rows.is_text, texts, rows.media.count(drawn) > 0)


def _places(contents: Iterable[str]) -> Places:
    return np.array([_place(content) for content in contents], np.uint64)


def _place(content: str) -> int:
    return int(hashlib.sha256((SALT + content).encode()).hexdigest()[:16], 16)


def _leave_out(joined: Joined, chosen: Index, alike: Looks, asked: Mask, cut: Cut) -> None:
    """Take out of training what a test asks about, and then what weights and caps leave out."""
    rows = joined.outlines
    tested = np.zeros(len(joined.kinds), bool)
    tested[rows.take(np.flatnonzero(asked)).media.values] = True
    texts = np.unique(rows.asked[asked & rows.is_text])
    same = (rows.media.count(alike.like(tested)) > 0) | (rows.is_text & np.isin(rows.asked, texts))
    learned = rows.is_in(SPLITS) & (cut.roles != TESTED)
    cut.roles[same & learned] = NEAR
    _tally(cut.near, rows, np.flatnonzero(same & learned))
    left = np.flatnonzero(learned & ~same)
    parts = {part.name: part for part in joined.parts}
    for samples, copies in copies_of(rows, left, chosen.sources, lambda name: parts[name].ids()):
        cut.copies[samples] = copies
        cut.roles[samples[copies == 0]] = THINNED
        _tally(cut.thinned, rows, samples[copies == 0])


def _tally(counts: Counter[str], rows: Outlines, found: Numbers) -> None:
    """Count these records by source."""
    for number, count in enumerate(np.bincount(rows.source[found]).tolist()):
        counts.update({rows.sources[number]: count} if count else {})
