"""Zero-shot classification: a class is the mean of its name in many sentences, a medium's class the nearest.

As CLIP and OpenCLIP: each sentence's vector is normalised, the mean of a class' sentences normalised again. mAP as in
AudioSet's evaluations (sklearn's average_precision_score by class, then the mean).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from videollava.embedding.encoders import Encoders, Vectors, embed
from videollava.errors import InputError

__all__ = [
    "average_precisions",
    "class_figures",
    "class_ranks",
    "class_vectors",
    "draw_average_precisions",
    "mark_classes",
]

Floats = NDArray[np.float64]


def class_vectors(encoders: Encoders, classes: Sequence[str], templates: Sequence[str]) -> Vectors:
    """One normalised vector a class (C, D). templates: sentences with {} for the class' name."""
    if wrong := [template for template in templates if "{}" not in template]:
        raise InputError(f"template {wrong[0]!r}: has no {{}} for the class' name")
    means = [
        embed(encoders, texts=[template.replace("{}", name) for template in templates]).mean(0)
        for name in classes
    ]
    found = np.stack(means)
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float32)


def class_figures(scores: Vectors, labels: Sequence[Sequence[int]], multi: bool = False) -> dict[str, float]:
    """top1 and top5 of media (N, C) with one class each, or map where `multi`; in percent.

    InputError where a similarity is no number.
    """
    if not np.isfinite(scores).all():
        raise InputError("the model gives vectors that are no numbers (NaN or infinite)")
    if multi:
        relevant = mark_classes(scores, labels)
        return {"map": 100 * float(np.nanmean(average_precisions(scores, relevant)))}
    ranks = class_ranks(scores, [said[0] for said in labels])
    return {f"top{k}": 100 * float((ranks <= k).mean()) for k in (1, 5)}


def mark_classes(scores: Vectors, labels: Sequence[Sequence[int]]) -> NDArray[np.bool_]:
    """(N, C): which classes each medium has."""
    relevant = np.zeros(scores.shape, bool)
    for row, said in enumerate(labels):
        relevant[row, list(said)] = True
    return relevant


def class_ranks(scores: Vectors, labels: Sequence[int]) -> NDArray[np.int64]:
    """At which place the right class comes (N): scores (N, C). Classes as near as it come before it."""
    right = np.asarray(labels, np.int64)
    return (scores >= scores[np.arange(len(right)), right][:, None]).sum(1)


def average_precisions(scores: Vectors, relevant: NDArray[np.bool_]) -> Floats:
    """Average precision of each class (C), scores and relevant (N, C); NaN for a class that no medium has.

    The sum over thresholds of precision times the gain of recall; media of one score pass a threshold together.
    """
    return draw_average_precisions(scores, relevant, np.ones((1, len(scores))))[0]


def draw_average_precisions(scores: Vectors, relevant: NDArray[np.bool_], weights: Floats) -> Floats:
    """The same for draws of the media: weights (S, N), how often each medium is in a draw -> (S, C)."""
    if scores.shape != relevant.shape:
        raise InputError(
            f"scores {scores.shape} and labels {relevant.shape} are not of the same media and classes"
        )
    found = np.full((len(weights), scores.shape[1]), np.nan)
    for number in range(scores.shape[1]):
        order = np.argsort(-scores[:, number], kind="stable")
        ordered, right = scores[order, number], relevant[order, number]
        ends = np.searchsorted(-ordered, -ordered, side="right") - 1  # the last of equal scores
        drawn = weights[:, order]
        hits = np.cumsum(drawn * right, axis=1)
        seen = np.cumsum(drawn, axis=1)
        places = np.flatnonzero(right)
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = hits[:, ends[places]] / seen[:, ends[places]]
            gains = np.where(drawn[:, places] > 0, drawn[:, places] * precision, 0).sum(1)
            found[:, number] = gains / hits[:, -1]
    return found
