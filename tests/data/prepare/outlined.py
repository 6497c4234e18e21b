"""Records without texts, for tests: written as rows, given as the columns that the index draws by."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from videollava.data.prepare.outlines import PARTS, Lists, Outlines


@dataclass(frozen=True)
class One:
    """A record of a split and a source."""

    split: str
    media: tuple[int, ...]
    asked: int = 0
    part: str = ""
    source: str = "s"


def row(split: str, *media: int, asks: str = "", part: str = "", source: str = "s") -> One:
    digest = hashlib.sha256(asks.encode()).hexdigest()[:16]
    return One(split, media, 0 if media else int(digest, 16), part, source)


def outlined(rows: list[One]) -> Outlines:
    """As columns."""
    sources = tuple(dict.fromkeys(one.source for one in rows))
    splits = tuple(dict.fromkeys(one.split for one in rows))
    lengths = np.array([len(one.media) for one in rows], np.int64)
    values = np.array([number for one in rows for number in one.media], np.int32)
    return Outlines(
        sources,
        np.array([sources.index(one.source) for one in rows], np.int32),
        splits,
        np.array([splits.index(one.split) for one in rows], np.int32),
        np.array([PARTS.index(one.part) for one in rows], np.int8),
        np.array([one.asked for one in rows], np.uint64),
        Lists(np.append(0, np.cumsum(lengths)), values),
    )
