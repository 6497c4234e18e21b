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

from videollava.errors import InputError

__all__ = ["KS", "Ranks", "rank_all", "summarise"]

KS = (1, 5, 10)
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


def rank_all(similarities: NDArray[np.floating], owners: Sequence[int]) -> Ranks:
    """Ranks of a table of similarities (T texts, M media); owners: of each text the number of its medium."""
    owner = np.asarray(owners, np.int64)
    texts, media = similarities.shape
    if len(owner) != texts or not texts:
        raise InputError(f"{len(owner)} owners for {texts} texts: give each text its medium")
    if not np.array_equal(np.unique(owner), np.arange(media)):
        raise InputError(f"of {media} media some have no caption, or captions name media that are not there")
    if not np.isfinite(similarities).all():
        raise InputError("similarities that are no numbers: the model gives NaN or infinite vectors")
    own = similarities[np.arange(texts), owner]
    forward = (similarities >= own[:, None]).sum(1)
    order = np.argsort(owner, kind="stable")
    starts = np.searchsorted(owner[order], np.arange(media))
    grouped = np.maximum.reduceat(similarities[order], starts, axis=0)  # (M captions' media, M media)
    best = np.diagonal(grouped)
    backward = (grouped >= best[None]).sum(0)
    above = similarities >= best[None]
    mine = owner[:, None] == np.arange(media)[None]
    first = 1 + (above & ~mine).sum(0)
    return Ranks(forward, backward, first)


def summarise(ranks: Numbers) -> dict[str, float]:
    """r1, r5, r10 (percent), median_rank (of an even number the mean of the two in the middle) and mean_rank."""
    shares = {f"r{k}": 100 * float((ranks <= k).mean()) for k in KS}
    return {**shares, "median_rank": float(np.median(ranks)), "mean_rank": float(ranks.mean())}
