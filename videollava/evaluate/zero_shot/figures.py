"""The figures of zero-shot retrieval and classification, with intervals; and a row a query, as predictions are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videollava.embedding.classification import (
    average_precisions,
    class_figures,
    class_ranks,
    draw_average_precisions,
    mark_classes,
)
from videollava.embedding.encoders import Vectors, similarity
from videollava.embedding.retrieval import KS, rank_all, retrieval_figures
from videollava.evaluate.statistics import bootstrap

__all__ = [
    "Figures",
    "Row",
    "measure_classes",
    "measure_retrieval",
    "rows_of_classes",
    "rows_of_retrieval",
]

SAMPLES = 2000  # draws of an interval; of mAP, which is no mean, a tenth of them
LEVEL = 0.95
BLOCK = 1 << 24  # similarities held at once
Figures = dict[str, Any]
Row = dict[str, Any]


def measure_retrieval(texts: Vectors, media: Vectors, owners: Sequence[int]) -> Figures:
    """Both directions of texts (T, D) and media (M, D), with intervals; owners: of each text the number of its medium.

    Intervals are by medium: its captions are drawn together, the gallery stays whole.
    """
    ranks = rank_all(texts, media, owners)
    figures: Figures = {"headline": "text_to_media_r1", "texts": len(owners), "media": len(media)}
    figures["chance_r1"] = 100 / len(media)
    intervals: Figures = {}
    for name, found in ranks.directions.items():
        groups = owners if name == "text_to_media" else None
        for k in KS:
            intervals[f"{name}_r{k}"] = _interval(100.0 * (found <= k), groups)
        intervals[f"{name}_mean_rank"] = _interval(found, groups)
    return {**figures, **retrieval_figures(ranks), "intervals": intervals}


def measure_classes(scores: Vectors, labels: Sequence[Sequence[int]], multi: bool = False) -> Figures:
    """Top-1 and top-5 of media (N, C) with one class each, or mAP where `multi`; with intervals, by medium."""
    found = class_figures(scores, labels, multi)
    headline = next(iter(found))
    figures: Figures = {"headline": headline, **found, "media": len(scores), "classes": scores.shape[1]}
    if multi:
        relevant = mark_classes(scores, labels)
        figures["classes_with_media"] = int(relevant.any(0).sum())
        return {**figures, "intervals": {headline: _interval_of_map(scores, relevant)}}
    ranks = class_ranks(scores, [said[0] for said in labels])
    intervals = {f"top{k}": _interval(100.0 * (ranks <= k), None) for k in (1, 5)}
    return {**figures, "chance_top1": 100 / scores.shape[1], "intervals": intervals}


def _interval_of_map(scores: Vectors, relevant: NDArray[np.bool_]) -> list[float]:
    weights = np.random.default_rng(0).multinomial(
        len(scores), np.full(len(scores), 1 / len(scores)), SAMPLES // 10
    )
    drawn = 100 * np.nanmean(draw_average_precisions(scores, relevant, weights.astype(np.float64)), axis=1)
    low, high = np.quantile(drawn, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return [float(low), float(high)]


def _interval(values: NDArray[Any], groups: Sequence[int] | None) -> list[float]:
    found = bootstrap(values.tolist(), groups, samples=SAMPLES, level=LEVEL)
    return [found.low, found.high]


def rows_of_retrieval(
    texts: Vectors,
    media: Vectors,
    owners: Sequence[int],
    captions: Sequence[str],
    names: Sequence[str],
    places: Sequence[int | str],
    sums: Sequence[str],
    kind: str,
) -> list[Row]:
    """Text to media, a row a caption: what it found first. names, places, sums: of each medium what it is called in a
    row, its number or path, and its SHA-256. Of equal similarities the right one comes last, as in the ranks.
    """
    rows: list[Row] = []
    step = max(1, BLOCK // max(1, len(media)))
    for start in range(0, len(texts), step):
        scores = similarity(texts[start : start + step], media)
        for number, row in enumerate(scores, start):
            owner = owners[number]
            first = int(row.argmax())
            hit = int((row >= row[owner]).sum()) == 1
            rows.append(
                {
                    "question_id": str(number),
                    "kind": kind,
                    "question": captions[number],
                    "answer": names[owner],
                    "prediction": names[first],
                    "correct": hit,
                    "media": [places[owner]],
                    "media_sums": [sums[owner]],
                }
            )
    return rows


def rows_of_classes(
    scores: Vectors,
    labels: Sequence[Sequence[int]],
    classes: Sequence[str],
    places: Sequence[str],
    sums: Sequence[str],
    kind: str,
) -> list[Row]:
    """A row a medium: its class, and the nearest one. Where some have several: its points are the average precision of
    its own classes among all, of a hundred; mAP is no mean over media, and two models are compared by these.
    """
    if any(len(said) != 1 for said in labels):
        return _rows_of_labels(scores, labels, classes, places, sums, kind)
    ranks = class_ranks(scores, [said[0] for said in labels])
    return [
        {
            "question_id": str(number),
            "kind": kind,
            "question": "which class?",
            "answer": classes[labels[number][0]],
            "prediction": classes[int(row.argmax())],
            "correct": bool(ranks[number] == 1),
            "media": [places[number]],
            "media_sums": [sums[number]],
        }
        for number, row in enumerate(scores)
    ]


def _rows_of_labels(
    scores: Vectors,
    labels: Sequence[Sequence[int]],
    classes: Sequence[str],
    places: Sequence[str],
    sums: Sequence[str],
    kind: str,
) -> list[Row]:
    points = 100 * average_precisions(scores.T, mark_classes(scores, labels).T)
    return [
        {
            "question_id": str(number),
            "kind": kind,
            "question": "which classes?",
            "answer": "; ".join(classes[one] for one in labels[number]),
            "prediction": classes[int(row.argmax())],
            "correct": int(row.argmax()) in labels[number],
            "score": float(points[number]),
            "media": [places[number]],
            "media_sums": [sums[number]],
        }
        for number, row in enumerate(scores)
    ]
