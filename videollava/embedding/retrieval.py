"""Retrieval by similarity: at which rank the right one comes, and R@k, median and mean over ranks.

As CLIP4Clip's and LanguageBind's scripts count (`compute_metrics`, `tensor_text_to_video_metrics`,
`tensor_video_to_text_sim`), but for ties: those scripts place equal similarities by chance of sorting (or count them
twice), here every other one that is as similar comes before the right one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from videollava.embedding.encoders import Vectors, similarity
from videollava.errors import InputError

__all__ = ["KS", "Ranks", "rank_all", "retrieval_figures", "summarise"]

KS = (1, 5, 10)
BLOCK = 1 << 24
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Ranks:
    """Ranks from 1.

    text_to_media (T): each caption is a query, the gallery is all media.
    media_to_text (M): each medium is a query, the gallery is the media's captions, those of one medium together by
    the most similar (M candidates): the scripts' way with several captions.
    media_to_caption (M): the gallery is every caption by itself, the rank that of the first right one (the way of
    audio retrieval, as LAION's CLAP). With one caption a medium it is the same.
    """

    text_to_media: Numbers
    media_to_text: Numbers
    media_to_caption: Numbers

    @property
    def directions(self) -> dict[str, Numbers]:
        """By name those that tell something of their own."""
        found = {"text_to_media": self.text_to_media, "media_to_text": self.media_to_text}
        several = len(self.text_to_media) > len(self.media_to_text)
        return {**found, "media_to_caption": self.media_to_caption} if several else found


def rank_all(texts: Vectors, media: Vectors, owners: Sequence[int], block: int = BLOCK) -> Ranks:
    """Ranks of texts (T, D) and media (M, D), normalised; owners: of each text the number of its medium.

    block: similarities held at once.
    """
    owner = np.asarray(owners, np.int64)
    count = len(media)
    if len(owner) != len(texts) or not len(texts):
        raise InputError(f"{len(owner)} owners for {len(texts)} texts: give each text its medium")
    if not np.array_equal(np.unique(owner), np.arange(count)):
        raise InputError(f"of {count} media some have no caption, or captions name media that are not there")
    if not (np.isfinite(texts).all() and np.isfinite(media).all()):
        raise InputError("the model gives vectors that are no numbers (NaN or infinite)")
    order = np.argsort(owner, kind="stable")
    cuts = _cuts(owner[order], max(1, block // count))
    forward, best = np.empty(len(owner), np.int64), np.full(count, -np.inf, np.float32)
    for rows in cuts:
        table = similarity(texts[order[rows]], media)
        own = table[np.arange(len(table)), owner[order[rows]]]
        forward[order[rows]] = (table >= own[:, None]).sum(1)
        np.maximum.at(best, owner[order[rows]], own)
    backward, first = np.zeros(count, np.int64), np.ones(count, np.int64)
    for rows in cuts:
        mine = owner[order[rows]]
        table = similarity(texts[order[rows]], media)
        above = table >= best
        starts = np.flatnonzero(np.r_[True, mine[1:] != mine[:-1]])
        backward += np.logical_or.reduceat(above, starts, axis=0).sum(0)
        above[np.arange(len(mine)), mine] = False
        first += above.sum(0)
    return Ranks(forward, backward, first)


def _cuts(owner: Numbers, most: int) -> list[slice]:
    """Slices of about `most` rows that keep the captions of a medium together; owner is sorted."""
    ends = np.flatnonzero(np.r_[owner[1:] != owner[:-1], True]) + 1
    cuts, start, last = [], 0, 0
    for end in ends.tolist():
        if end - start > most and last > start:
            cuts.append(slice(start, last))
            start = last
        last = end
    return [*cuts, slice(start, last)]


def summarise(ranks: Numbers) -> dict[str, float]:
    """r1, r5, r10 (percent), median_rank (of an even number the mean of the two in the middle) and mean_rank."""
    shares = {f"r{k}": 100 * float((ranks <= k).mean()) for k in KS}
    return {**shares, "median_rank": float(np.median(ranks)), "mean_rank": float(ranks.mean())}


def retrieval_figures(ranks: Ranks) -> dict[str, float]:
    """`summarise` of each direction, by direction_figure (text_to_media_r1)."""
    named = ranks.directions.items()
    return {f"{name}_{key}": value for name, found in named for key, value in summarise(found).items()}
