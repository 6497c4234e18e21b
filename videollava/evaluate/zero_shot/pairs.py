"""One thing as several kinds of medium, with its caption: text to each kind, and each kind to each other.

Each encoder was trained with texts alone: never one kind with another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videollava.data.load.shards import Shards
from videollava.data.media.pixels import stack
from videollava.embedding.encoders import Encoders, Vectors, embed, similarity
from videollava.embedding.zero_shot.pairs import Pairs
from videollava.embedding.zero_shot.sets import ACROSS
from videollava.evaluate.statistics import bootstrap
from videollava.evaluate.zero_shot.figures import Figures, Row, measure_retrieval, rows_of_retrieval

__all__ = ["cross", "measure_pairs"]

SAMPLES, LEVEL = 2000, 0.95


def measure_pairs(
    encoders: Encoders, pairs: Pairs, prepared: Path, batch: int = 32, say: Callable[[str], None] = print
) -> dict[str, tuple[Figures, list[Row]]]:
    """Figures and a row a query of NAME.KIND (text to the kind and back), and of NAME.across (each kind to each other).

    Kinds without an encoder are told, and left out. InputError where none has one.
    """
    shards = Shards(prepared)
    if not set(pairs.media) & set(encoders.towers):
        encoders.tower(next(iter(pairs.media)))
    found: dict[str, tuple[Figures, list[Row]]] = {}
    vectors: dict[str, Vectors] = {}
    for kind, media in pairs.media.items():
        if kind not in encoders.towers:
            say(f"{pairs.name}: no encoder of {kind} (align.towers): it is left out")
            continue
        numbers = list(media.values())
        vectors[kind] = _encode(encoders, kind, numbers, shards, batch)
        captions = list(media)
        texts = embed(encoders, texts=captions, batch=batch)
        owners = list(range(len(captions)))
        figures = measure_retrieval(texts, vectors[kind], owners)
        figures = {"task": "retrieval", "modality": kind, **figures}
        sums = [pairs.sums[number] for number in numbers]
        rows = rows_of_retrieval(
            *(texts, vectors[kind], owners, captions, captions),
            *(numbers, sums, f"text → {kind}"),
        )
        found[f"{pairs.name}.{kind}"] = figures, rows
    if len(vectors) > 1:
        found[f"{pairs.name}.{ACROSS}"] = cross(pairs, vectors)
    return found


def cross(pairs: Pairs, vectors: Mapping[str, Vectors]) -> tuple[Figures, list[Row]]:
    """From each kind to each other: R@1 of the medium with the same caption, by pair of kinds with 95 % intervals.

    vectors: by kind (N, D), in the order of its captions. Of equal similarities all others come before the right one.
    """
    rows: list[Row] = []
    directions: dict[str, Any] = {}
    for one, other in permutations(vectors, 2):
        gallery = {caption: place for place, caption in enumerate(pairs.media[other])}
        asked = [place for place, caption in enumerate(pairs.media[one]) if caption in gallery]
        captions = [list(pairs.media[one])[place] for place in asked]
        if len(captions) < 2:
            continue
        right = np.array([gallery[caption] for caption in captions])
        scores = similarity(vectors[one][asked], vectors[other])
        ranks = (scores >= scores[np.arange(len(right)), right][:, None]).sum(1)
        directions[f"{one} → {other}"] = {**_figures(ranks), "chance_r1": 100 / len(gallery)}
        rows += _rows(pairs, (one, other), captions, scores, ranks)
    whole = [row["correct"] for row in rows]
    groups = [row["question"] for row in rows]
    interval = bootstrap([100.0 * hit for hit in whole], groups, samples=SAMPLES, level=LEVEL)
    figures: Figures = {
        "task": "across",
        "headline": "r1",
        "r1": 100 * float(np.mean(whole)),
        "media": len(set(groups)),
        "n": len(rows),
        "chance": float(np.mean([one["chance_r1"] for one in directions.values()])),
        "directions": directions,
        "intervals": {"r1": [interval.low, interval.high]},
    }
    return figures, rows


def _figures(ranks: NDArray[np.int64]) -> Figures:
    hits = bootstrap((100.0 * (ranks == 1)).tolist(), None, samples=SAMPLES, level=LEVEL)
    shares = {f"r{k}": 100 * float((ranks <= k).mean()) for k in (1, 5, 10)}
    return {"queries": len(ranks), **shares, "interval_r1": [hits.low, hits.high]}


def _rows(
    pairs: Pairs, kinds: tuple[str, str], captions: list[str], scores: Vectors, ranks: NDArray[np.int64]
) -> list[Row]:
    one, other = kinds
    there = list(pairs.media[other])
    nearest = scores.argmax(1)
    return [
        {
            "question_id": f"{one}-{other}-{number}",
            "kind": f"{one} → {other}",
            "question": caption,
            "answer": caption,
            "prediction": there[nearest[number]],
            "correct": bool(ranks[number] == 1),
            "media": [pairs.media[one][caption]],
            "media_sums": [pairs.sums[pairs.media[one][caption]]],
        }
        for number, caption in enumerate(captions)
    ]


def _encode(encoders: Encoders, kind: str, numbers: list[int], shards: Shards, batch: int) -> Vectors:
    parts = []
    for start in range(0, len(numbers), batch):
        some = numbers[start : start + batch]
        pixels = [encoders.read(shards.read(number), kind, f"medium {number}") for number in some]
        parts.append(encoders.encode(kind, stack(pixels)))
    return np.concatenate(parts)
