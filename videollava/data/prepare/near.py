"""Media that look alike: whose words (media.look) differ in few bits.

Of two words that differ in at most `near` bits, one of near + 1 pieces of 64 bits is equal, and of the rest again
one of as many. A table sorted by such two pieces finds them without comparing all with all: (near + 1) ** 2 tables,
one at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Looks"]

AT_ONCE = 1 << 16  # looks that are read from text at a time

Words = NDArray[np.uint64]  # a row a medium: of a clip its middle, first and last frame, of a picture the one
Numbers = NDArray[np.int64]


class Looks:
    """The looks of media by their number; pictures are compared with pictures, clips with clips."""

    def __init__(self, looks: Any, near: int) -> None:
        """looks: hexadecimal text of each, "" where there is none; an Arrow array or a sequence."""
        self._count, self._near = len(looks), near
        self._groups = _grouped(looks) if near else []

    def roots(self) -> Numbers:
        """Of each medium, the first that it looks like, or that this one looks like, and so on.

        A medium that looks like none before it is its own. What comes after changes no root.
        """
        roots = np.arange(self._count)
        for numbers, words in self._groups:
            distinct, place = _distinct(words)
            first = np.arange(len(distinct))
            for asked, found in _alike_before(distinct, self._near):
                np.minimum.at(first, asked, found)
            while np.any(first[first] != first):
                first = first[first]
            begins = np.full(len(distinct), self._count)
            np.minimum.at(begins, place, numbers)
            roots[numbers] = begins[first[place]]
        return roots

    def like(self, marked: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which media look like one of those that are marked, or are one."""
        found = marked.copy()
        for numbers, words in self._groups:
            known = words[marked[numbers]]
            if len(known):
                distinct, place = _distinct(words)
                hit = np.zeros(len(distinct), bool)
                for asked, _ in _alike(distinct, np.unique(known, axis=0), self._near):
                    hit[asked] = True
                found[numbers] |= hit[place]
        return found


def _grouped(looks: Any) -> list[tuple[Numbers, Words]]:
    """Numbers and words of those that have one look, and of those that have as many frames."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = looks if isinstance(looks, pa.ChunkedArray) else pa.chunked_array([looks], pa.string())
    lengths = pc.binary_length(texts).to_numpy()
    groups = []
    for length in np.unique(lengths[lengths > 0]):
        numbers = np.flatnonzero(lengths == length)
        chosen = texts.filter(pa.array(lengths == length))
        words = [_words(chosen.slice(begin, AT_ONCE)) for begin in range(0, len(chosen), AT_ONCE)]
        groups.append((numbers, np.concatenate(words)))
    return groups


def _words(looks: Any) -> Words:
    data = bytes.fromhex("".join(looks.to_pylist()))
    return np.frombuffer(data, ">u8").astype(np.uint64).reshape(len(looks), -1)


def _distinct(words: Words) -> tuple[Words, Numbers]:
    """Different looks in the order in which they come first, and which of them each medium has."""
    rows = words[:, 0] if words.shape[1] == 1 else words  # rows of one word sort far faster as numbers
    found, begins, place = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(begins)
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    return found.reshape(-1, words.shape[1])[order], ranks[place.reshape(-1)]


def _alike(asked: Words, known: Words, near: int) -> Iterator[tuple[Numbers, Numbers]]:
    """Pairs of rows that differ in at most `near` bits: of each row asked, the first one known, by table."""
    for mask in _masks(near):
        order, keys, looks = _sorted(known, mask)
        names, wanted, words = _sorted(asked, mask)
        begin = np.searchsorted(keys, wanted, "left")
        end = np.searchsorted(keys, wanted, "right")
        for rows, found in _near_ones(words, looks, begin, end, near):
            yield names[rows], order[found]


def _alike_before(words: Words, near: int) -> Iterator[tuple[Numbers, Numbers]]:
    """As `_alike` among the rows themselves: of each row the first that comes before it."""
    end = np.arange(len(words))
    for mask in _masks(near):
        order, keys, looks = _sorted(words, mask)
        begin = np.maximum.accumulate(np.where(np.append(True, keys[1:] != keys[:-1]), end, 0))
        for rows, found in _near_ones(looks, looks, begin, end, near):
            yield order[rows], order[found]


def _near_ones(
    asked: Words, known: Words, begin: Numbers, end: Numbers, near: int
) -> Iterator[tuple[Numbers, Numbers]]:
    """Of each row asked, the first of known[begin:end] that is near."""
    rows = np.flatnonzero(begin < end)
    while rows.size:
        found = begin[rows]
        same = (np.bitwise_count(asked[rows] ^ known[found]) <= near).all(axis=1)
        yield rows[same], found[same]
        rows = rows[~same]
        begin[rows] += 1
        rows = rows[begin[rows] < end[rows]]


def _sorted(words: Words, mask: np.uint64) -> tuple[Numbers, Words, Words]:
    """Rows by what the mask leaves of their first word, equal ones in their order; that; and the rows so."""
    keys = words[:, 0] & mask
    order = np.argsort(keys, kind="stable")
    return order, keys[order], words[order]


def _masks(near: int) -> Iterator[np.uint64]:
    for piece in _pieces(range(64), near + 1):
        rest = [bit for bit in range(64) if bit not in piece]
        for other in _pieces(rest, near + 1):
            yield np.uint64(sum(1 << bit for bit in (*piece, *other)))


def _pieces(bits: Sequence[int], count: int) -> list[Any]:
    ends = [len(bits) * number // count for number in range(count + 1)]
    return [bits[begin:end] for begin, end in pairwise(ends)]
