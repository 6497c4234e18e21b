"""How sure a figure is, and whether two versions differ: bootstrap intervals and paired tests, seeded.

All work on one value for each question (as in a score's `per_question`); questions are what is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videollava.errors import InputError

__all__ = [
    "Comparison",
    "Interval",
    "bootstrap",
    "bootstrap_means",
    "compare",
    "mcnemar",
    "paired_bootstrap",
]

SAMPLES = 10_000
LEVEL = 0.95
FEW = 64  # distinct rows up to which draws are counts of rows and not rows
BLOCK = 1 << 22  # drawn rows held at once
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A figure with its bootstrap interval (percentiles)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Two versions on the questions that both answered: B minus A, its interval, and the chance of no
    difference.

    `p` is that of the paired bootstrap; `mcnemar` the exact test, None where values are not right or wrong
    alone. `gained` and `lost` are the questions on which B is better and worse.
    """

    n: int
    a: float
    b: float
    difference: float
    low: float
    high: float
    p: float
    mcnemar: float | None
    gained: int
    lost: int


def bootstrap(
    values: Sequence[float], *, samples: int = SAMPLES, level: float = LEVEL, seed: int = 0
) -> Interval:
    """The mean of `values` with its interval."""
    column = _columns(values)
    return bootstrap_means(column, lambda means: means[:, 0], samples=samples, level=level, seed=seed)


def bootstrap_means(
    rows: Sequence[Sequence[float]] | Floats,
    figure: Callable[[Floats], Floats],
    *,
    samples: int = SAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """A figure made of means, such as a ratio or F1, with its interval.

    `rows` has one row a question; `figure` takes means of its columns, (samples, columns), and gives
    (samples,). Example: `bootstrap_means(pairs, lambda m: 100 * m[:, 1] / m[:, 0])` for LLaVA-Bench's
    ratio.
    """
    table = np.asarray(rows, dtype=np.float64)
    if table.ndim != 2 or not len(table):
        raise InputError("bootstrap: no values")
    with np.errstate(divide="ignore", invalid="ignore"):
        value = figure(table.mean(axis=0, keepdims=True))[0]
        drawn = figure(_draw(table, samples, np.random.default_rng(seed)))
    low, high = np.nanquantile(drawn, ((1 - level) / 2, (1 + level) / 2)) if samples else (value, value)
    return Interval(float(value), float(low), float(high))


def paired_bootstrap(
    a: Sequence[float],
    b: Sequence[float],
    *,
    samples: int = SAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> tuple[Interval, float]:
    """Mean of b - a with its interval, and the two-sided p of no difference: the share of draws, centred on
    no difference, that are at least as far off as what was seen.
    """
    if len(a) != len(b):
        raise InputError(f"paired bootstrap: {len(a)} values against {len(b)}")
    differences = _columns(np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64))
    drawn = _draw(differences, samples, np.random.default_rng(seed))[:, 0]
    seen = float(differences.mean())
    low, high = np.quantile(drawn, ((1 - level) / 2, (1 + level) / 2))
    far = np.abs(drawn - seen) >= abs(seen) - 1e-12
    p = (1 + int(far.sum())) / (1 + samples)
    return Interval(seen, float(low), float(high)), min(1.0, p)


def mcnemar(gained: int, lost: int) -> float:
    """The exact two-sided p of McNemar's test: how likely so uneven a split of the changed questions is by
    chance.
    """
    n, fewer = gained + lost, min(gained, lost)
    if not n:
        return 1.0
    logs = [math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(fewer + 1)]
    tail = math.fsum(math.exp(log - n * math.log(2)) for log in logs)
    return min(1.0, 2 * tail)


def compare(
    a: Mapping[str, Any],
    b: Mapping[str, Any],
    *,
    samples: int = SAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Comparison:
    """Two versions by their `per_question`, on the ids that both have with a value."""
    shared = [key for key in a if a[key] is not None and b.get(key) is not None]
    if not shared:
        raise InputError("the two versions answered no question in common")
    left, right = [float(a[key]) for key in shared], [float(b[key]) for key in shared]
    interval, p = paired_bootstrap(left, right, samples=samples, level=level, seed=seed)
    gained = sum(y > x for x, y in zip(left, right, strict=True))
    lost = sum(y < x for x, y in zip(left, right, strict=True))
    right_or_wrong = len({*left, *right}) <= 2
    return Comparison(
        n=len(shared),
        a=math.fsum(left) / len(shared),
        b=math.fsum(right) / len(shared),
        difference=interval.value,
        low=interval.low,
        high=interval.high,
        p=p,
        mcnemar=mcnemar(gained, lost) if right_or_wrong else None,
        gained=gained,
        lost=lost,
    )


def _columns(values: Sequence[float] | Floats) -> Floats:
    return np.asarray(values, dtype=np.float64).reshape(-1, 1)


def _draw(table: Floats, samples: int, rng: np.random.Generator) -> Floats:
    """Means of `samples` draws of as many rows as there are, with replacement: (samples, columns)."""
    n = len(table)
    distinct, counts = np.unique(table, axis=0, return_counts=True)
    if len(distinct) <= FEW:
        drawn = rng.multinomial(n, counts / n, size=samples)
        return drawn @ distinct / n
    means = np.empty((samples, table.shape[1]))
    step = max(1, BLOCK // n)
    for start in range(0, samples, step):
        stop = min(samples, start + step)
        means[start:stop] = table[rng.integers(n, size=(stop - start, n))].mean(axis=1)
    return means
