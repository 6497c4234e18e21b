"""How much of each source is trained on: caps, shares and repeats, drawn by each sample's own hash.

A sample's place is that of its source and its id, so what is added moves no other. Only where a cap is reached, one
that comes before others takes the place of the last.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videollava.data.prepare.outlines import Numbers, Outlines, Places, below
from videollava.params import Portion

__all__ = ["copies_of", "table_of"]

DRAWS = 2  # of 64 bits: a sample's place for the cap, and another for the share


def copies_of(
    outlines: Outlines,
    rows: Numbers,
    portions: Mapping[str, Portion],
    ids: Callable[[str], Iterable[str]],
) -> Iterator[tuple[Numbers, NDArray[np.uint16]]]:
    """Of the sources that are not taken as they are: samples among `rows`, and how often each is trained on.

    ids: of a source's records, in their order.
    """
    for name, portion in portions.items():
        if name not in outlines.sources or not (portion.most or portion.weight != 1.0):
            continue
        own = np.flatnonzero(outlines.source == outlines.sources.index(name))
        wanted = rows[outlines.source[rows] == outlines.sources.index(name)]
        draws = _draw(name, ids(name), len(own))[wanted - own[:1]]
        for split in np.unique(outlines.split[wanted]):
            of_split = outlines.split[wanted] == split
            yield wanted[of_split], _copies(portion, draws[of_split])


def _draw(name: str, ids: Iterable[str], count: int) -> Places:
    draws = bytearray()
    for text in ids:
        draws += hashlib.sha256(f"{name}\0{text}".encode()).digest()[: 8 * DRAWS]
    return np.frombuffer(draws, ">u8").astype(np.uint64).reshape(count, DRAWS)


def _copies(portion: Portion, draws: Places) -> NDArray[np.uint16]:
    whole = int(portion.weight)
    copies = np.full(len(draws), whole, np.uint16)
    copies += below(draws[:, 1], portion.weight - whole)
    if portion.most:
        copies[np.argsort(draws[:, 0], kind="stable")[portion.most :]] = 0
    return copies


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
