"""All records of an index in the making without their texts: columns, a row a record. Enough to draw by."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["PARTS", "Lists", "Mask", "Numbers", "Outlines", "Places", "below", "media_of", "read_outlines"]

PARTS = ("", "train", "validation", "test")
WHOLE = 1 << 64

Mask = NDArray[np.bool_]
Numbers = NDArray[np.int64]
Places = NDArray[np.uint64]


@dataclass(frozen=True)
class Lists:
    """A list a row: those of row i are values[offsets[i] : offsets[i + 1]]."""

    offsets: Numbers
    values: NDArray[np.int32]

    @property
    def lengths(self) -> Numbers:
        """Of each row's list."""
        return np.diff(self.offsets)

    def rows(self) -> Numbers:
        """Of each value, its row."""
        return np.repeat(np.arange(len(self.offsets) - 1), self.lengths)

    def count(self, marked: Mask) -> Numbers:
        """Of each row, how many of its values are marked; `marked` is by value."""
        return self.sum(marked[self.values])

    def sum(self, of_values: NDArray[Any]) -> NDArray[Any]:
        """Of each row, the sum of what its values have (integers; uint64 wraps around)."""
        kind = np.uint64 if of_values.dtype == np.uint64 else np.int64
        sums = np.zeros(len(of_values) + 1, kind)
        np.cumsum(of_values, out=sums[1:])
        whole: NDArray[Any] = sums[self.offsets[1:]] - sums[self.offsets[:-1]]
        return whole

    def take(self, rows: Numbers) -> Lists:
        """The lists of these rows."""
        lengths = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        inside = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        return Lists(offsets, self.values[np.repeat(self.offsets[rows], lengths) + inside])


@dataclass(frozen=True)
class Outlines:
    """`source`, `split`: of each record its number in `sources` and in `splits`.

    part: what the record says of itself, its number in PARTS. asked: of one without media, the place of what is asked
    (64 bits of its hash), else 0. media: numbers.
    """

    sources: tuple[str, ...]
    source: NDArray[np.int32]
    splits: tuple[str, ...]
    split: NDArray[np.int32]
    part: NDArray[np.int8]
    asked: Places
    media: Lists

    def __len__(self) -> int:
        return len(self.split)

    @property
    def is_text(self) -> Mask:
        """Which have no media."""
        return self.media.lengths == 0

    def is_in(self, splits: Iterable[str]) -> Mask:
        """Which are of one of these splits."""
        wanted = set(splits)
        return np.array([name in wanted for name in self.splits], bool)[self.split]

    def take(self, rows: Numbers) -> Outlines:
        """Of these records alone."""
        columns = (self.split[rows], self.part[rows], self.asked[rows], self.media.take(rows))
        return Outlines(self.sources, self.source[rows], self.splits, *columns)


def below(places: Places, share: float) -> Mask:
    """Which places, of the 2 ** 64 there are, lie in this first share of them."""
    bound = math.ceil(share * WHOLE)  # exact, where a comparison with a float would round the places
    return places <= np.uint64(bound - 1) if bound else np.zeros(places.shape, bool)


def media_of(batch: Any) -> Lists:
    """The media of a batch of records, by their numbers in its source."""
    column = batch.column("media")
    # Not `to_numpy`, which imports pandas, in each worker.
    offsets = np.from_dlpack(column.offsets).astype(np.int64)
    values: Any = np.from_dlpack(column.flatten())
    return Lists(offsets - offsets[0], values)


def _places_of(texts: Any) -> Places:
    """Sixteen hex digits as numbers, 0 of an empty text; an Arrow array."""
    import pyarrow.compute as pc

    said = pc.fill_null(pc.binary_length(texts), 0).to_numpy() > 0
    places = np.zeros(len(texts), np.uint64)
    digits = "".join(texts.filter(said).to_pylist()) if said.any() else ""
    places[said] = np.frombuffer(bytes.fromhex(digits), ">u8")
    return places


def read_outlines(names: Iterable[str], batches: Iterable[tuple[int, Any, Lists]]) -> Outlines:
    """From batches of records: the number of their source, the batch (split, part, asked), its media by number."""
    splits: dict[str, int] = {}
    parts = {name: number for number, name in enumerate(PARTS)}
    columns: list[tuple[NDArray[Any], ...]] = []
    for number, batch, media in batches:
        source = np.full(batch.num_rows, number, np.int32)
        split, part = _codes(batch.column("split"), splits), _codes(batch.column("part"), parts)
        asked = _places_of(batch.column("asked"))
        columns.append((source, split, part.astype(np.int8), asked, media.lengths, media.values))
    empty = tuple(np.zeros(0, kind) for kind in (np.int32, np.int32, np.int8, np.uint64, np.int64, np.int32))
    whole: Any = [np.concatenate(column) for column in zip(empty, *columns, strict=True)]
    lists = Lists(np.concatenate([[0], np.cumsum(whole[4])]), whole[5])
    return Outlines(tuple(names), whole[0], tuple(splits), whole[1], whole[2], whole[3], lists)


def _codes(column: Any, known: dict[str, int]) -> NDArray[np.int32]:
    """Of each text its number among those known; new ones are added."""
    encoded = column.dictionary_encode()
    numbers = [known.setdefault(text or "", len(known)) for text in encoded.dictionary.to_pylist()]
    return np.array(numbers, np.int32)[encoded.indices.to_numpy()]
