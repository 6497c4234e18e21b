"""How much of each source is trained on: caps, shares and repeats, drawn by each sample's own hash.

A sample's place is that of its source and its id, so what is added moves no other. Only where a cap is reached, one
that comes before others takes the place of the last.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Mapping
from typing import Any

from videollava.data.prepare.row import Outline
from videollava.params import Portion

__all__ = ["Samples", "table_of"]

WHOLE = 1 << 64


class Samples:
    """The samples of sources that are not taken as they are, by source and split."""

    def __init__(self, portions: Mapping[str, Portion]) -> None:
        self._portions = {
            name: portion for name, portion in portions.items() if portion.most or portion.weight != 1.0
        }
        self._rows: dict[tuple[str, str], tuple[array[int], array[int], array[int]]] = {}

    def add(self, number: int, row: Outline) -> None:
        """One more: the `number` of its row in the whole."""
        if row.source in self._portions:
            rows, caps, shares = self._rows.setdefault(
                (row.source, row.split), (array("q"), array("Q"), array("Q"))
            )
            digest = hashlib.sha256(f"{row.source}\0{row.id}".encode()).digest()
            rows.append(number)
            caps.append(int.from_bytes(digest[:8], "big"))
            shares.append(int.from_bytes(digest[8:16], "big"))

    def copies(self) -> Iterator[tuple[int, int, str]]:
        """Of each sample its row's number, how often it is trained on, and its source."""
        for (source, _), (rows, caps, shares) in self._rows.items():
            portion = self._portions[source]
            order = sorted(range(len(rows)), key=caps.__getitem__) if portion.most else range(len(rows))
            for place, index in enumerate(order):
                kept = not portion.most or place < portion.most
                yield rows[index], _times(portion.weight, shares[index]) if kept else 0, source


def _times(weight: float, place: int) -> int:
    whole = int(weight)
    return whole + (place < (weight - whole) * WHOLE)


def table_of(mixture: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """By split and source: samples, tokens, and the share of the split's tokens; as a table for the terminal."""
    rows = [("split", "source", "samples", "tokens", "share")]
    for split, sources in mixture.items():
        whole = sum(counts["tokens"] for counts in sources.values())
        for source, counts in sources.items():
            share = f"{100 * counts['tokens'] / max(1, whole):.1f}%"
            rows.append((split, source, f"{counts['records']:,}", f"{counts['tokens']:,}", share))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = (
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)
