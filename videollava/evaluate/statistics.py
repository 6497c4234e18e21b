"""How sure a figure is, and whether two versions differ: intervals and tests by medium, seeded.

All work on one value for each question (as in a score's `per_question`). Questions about one picture or clip are not
independent: what is drawn, or changes sign, is a medium with all of its questions (`groups`; without them each
question stands for itself). Where each medium has one question, the test of two versions is McNemar's exact one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from videollava.errors import InputError

__all__ = [
    "Bound",
    "Comparison",
    "Interval",
    "bootstrap",
    "bootstrap_means",
    "bound_mean",
    "compare",
    "flip_signs",
    "paired_bootstrap",
]

SAMPLES = 10_000
LEVEL = 0.95
FEW = 64  # distinct rows up to which draws are counts of rows and not rows
BLOCK = 1 << 22  # drawn rows held at once
WIDE = 200_000  # sums of signs up to which they are counted and not drawn
LOST = 1.5  # media that count as lost beside those that were: of none lost in n, 3.5 are excluded at 5% (exact: 3)
Floats = NDArray[np.float64]
Groups = Sequence[Any]


@dataclass(frozen=True)
class Interval:
    """A figure with its bootstrap interval (percentiles)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Two versions on the questions that both answered: B minus A, its interval, and `p`, how often equal models
    come as far apart (`flip_signs`).

    `gained` and `lost` are the questions on which B is better and worse, `media` what the `n` questions are about.
    """

    n: int
    media: int
    a: float
    b: float
    difference: float
    low: float
    high: float
    p: float
    gained: int
    lost: int


@dataclass(frozen=True)
class Bound:
    """A mean, what it exceeds at a level (`low`), how far below the mean that is expected of other questions
    (`reach`: what these questions can show, four times in five), and the parts to ask for other thresholds.
    """

    mean: float
    low: float
    reach: float
    error: float
    shift: float
    media: int

    def p(self, threshold: float) -> float:
        """How often a mean of `threshold` gives as much."""
        if not math.isfinite(self.error):  # one medium says nothing of others
            return 1.0
        return float(stdtr(self.media - 1, -(self.mean - self.shift - threshold) / self.error))

    def needed(self, allowed: float) -> int:
        """About how many such media would show a loss of `allowed`, four times in five where there is none."""
        if self.reach <= allowed or allowed <= 0 or not math.isfinite(self.error):
            return self.media
        often = (self.reach - self.shift) / self.error
        single = self.shift**2 / LOST
        spread = self.error**2 - single
        times = 1.0
        while self.shift / times + often * math.sqrt(spread / times + single / times**2) > allowed:
            times *= 1.05
        return math.ceil(self.media * times)


def bootstrap(
    values: Sequence[float],
    groups: Groups | None = None,
    *,
    samples: int = SAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """The mean of `values` with its interval; groups: the medium of each."""
    rows = _by_group(np.asarray(values, dtype=np.float64), groups)
    if np.ptp(rows[:, 1]) == 0:  # media of as many questions: half of the drawing
        means = rows[:, :1] / rows[0, 1]
        return bootstrap_means(means, lambda found: found[:, 0], samples=samples, level=level, seed=seed)
    return bootstrap_means(rows, _ratio, samples=samples, level=level, seed=seed)


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
    groups: Groups | None = None,
    *,
    samples: int = SAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """Mean of b - a with its interval."""
    if len(a) != len(b):
        raise InputError(f"paired bootstrap: {len(a)} values against {len(b)}")
    differences = np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64)
    return bootstrap(list(differences), groups, samples=samples, level=level, seed=seed)


def flip_signs(
    differences: Sequence[float], groups: Groups | None = None, *, samples: int = SAMPLES, seed: int = 0
) -> float:
    """The two-sided p of no difference: how often the sum is as far from 0 where each medium's sign is a coin's.

    Exact where answers are right or wrong (all multiples of one step): all signs are counted. With one question a
    medium that is McNemar's exact test (scipy's binomtest of the changed questions), else scipy's permutation_test of
    samples. Where answers earn other parts of a point, `samples` signs are drawn.
    """
    changes = np.asarray(differences, dtype=np.float64)
    sums = _by_group(changes, groups)[:, 0]
    sums = sums[np.abs(sums) > 1e-9]
    if not len(sums):
        return 1.0
    seen, step = abs(float(sums.sum())), float(np.abs(changes[np.abs(changes) > 1e-9]).min())
    whole = np.rint(sums / step).astype(np.int64)
    if np.allclose(sums / step, whole, atol=1e-6) and np.abs(whole).sum() <= WIDE:
        return _count_signs(np.abs(whole), round(seen / step))
    rng = np.random.default_rng(seed)
    far, block = 0, max(1, BLOCK // len(sums))
    for start in range(0, samples, block):
        shape = (min(block, samples - start), -(-len(sums) // 8))
        signs = np.unpackbits(rng.integers(0, 256, size=shape, dtype=np.uint8), axis=1, count=len(sums))
        drawn = 2 * (signs.astype(np.float64) @ sums) - sums.sum()
        far += int((np.abs(drawn) >= seen - 1e-9 * max(1.0, seen)).sum())
    return (1 + far) / (1 + samples)


def bound_mean(
    differences: Sequence[float],
    groups: Groups | None = None,
    strata: Groups | None = None,
    *,
    level: float = 0.05,
    full: float = 100.0,
) -> Bound:
    """The one-sided lower bound of a mean of differences, by medium; of the mean over `strata`'s means where given.

    Student's bound on the sums of media, as if LOST more media had been lost: without it few losses, or none, would
    exclude what they do not (bench/gate.py holds the level by simulation). full: what a question can lose.
    """
    values = np.asarray(differences, dtype=np.float64)
    _, stratum, sizes = np.unique(
        np.asarray(strata) if strata is not None else np.zeros(len(values)),
        return_inverse=True,
        return_counts=True,
    )
    weights = 1.0 / (len(sizes) * sizes[stratum])
    mean = float((weights * values).sum())
    means = np.bincount(stratum, values) / sizes
    medium = _numbered(groups, len(values))
    sums = np.bincount(medium, weights * values)
    rests = np.bincount(medium, weights * (values - means[stratum]))
    media = len(sums)
    whole, lost = full / media, -sums[sums < 0]
    one = (whole**2 + float((lost**2).sum())) / (whole + float(lost.sum()))
    spread = float((rests**2).sum()) * media / max(1, media - 1)
    error, shift = math.sqrt(spread + LOST * one**2), LOST * one
    if media < 2:
        return Bound(mean, -math.inf, math.inf, math.inf, shift, media)
    often, usual = (-float(stdtrit(media - 1, share)) for share in (level, 0.2))
    return Bound(mean, mean - shift - often * error, shift + (often + usual) * error, error, shift, media)


def compare(
    a: Mapping[str, Any],
    b: Mapping[str, Any],
    groups: Mapping[str, Any] | None = None,
    *,
    samples: int = SAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Comparison:
    """Two versions by their `per_question`, on the ids that both have with a value; groups: the medium by id."""
    shared = [key for key in a if a[key] is not None and b.get(key) is not None]
    if not shared:
        raise InputError("the two versions answered no question in common")
    left, right = [float(a[key]) for key in shared], [float(b[key]) for key in shared]
    media = None if groups is None else [groups[key] for key in shared]
    interval = paired_bootstrap(left, right, media, samples=samples, level=level, seed=seed)
    changes = [y - x for x, y in zip(left, right, strict=True)]
    return Comparison(
        n=len(shared),
        media=len(shared) if media is None else len(set(media)),
        a=math.fsum(left) / len(shared),
        b=math.fsum(right) / len(shared),
        difference=interval.value,
        low=interval.low,
        high=interval.high,
        p=flip_signs(changes, media, samples=samples, seed=seed),
        gained=sum(change > 0 for change in changes),
        lost=sum(change < 0 for change in changes),
    )


def _count_signs(steps: NDArray[np.int64], seen: int) -> float:
    """The share of all signs of `steps` whose sum is at least `seen` from 0: their distribution, step by step."""
    chances = np.ones(1)
    for step in steps:
        wider = np.zeros(len(chances) + 2 * step)
        wider[: len(chances)] = chances
        wider[2 * step :] += chances
        chances = wider / 2
    total = int(steps.sum())
    sums = np.arange(-total, total + 1)
    return min(1.0, float(chances[np.abs(sums) >= seen].sum()))


def _numbered(groups: Groups | None, n: int) -> NDArray[np.int64]:
    """Groups as numbers from 0; without groups each question is one."""
    if groups is None:
        return np.arange(n)
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups], dtype=np.int64)


def _by_group(values: Floats, groups: Groups | None) -> Floats:
    """A row a medium: the sum of its questions' values, and how many they are."""
    if not len(values):
        raise InputError("bootstrap: no values")
    medium = _numbered(groups, len(values))
    return np.stack([np.bincount(medium, values), np.bincount(medium).astype(np.float64)], axis=1)


def _ratio(means: Floats) -> Floats:
    return np.asarray(means[:, 0] / means[:, 1], dtype=np.float64)


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
        drawn_rows = rng.integers(n, size=(stop - start, n), dtype=np.int32)
        for column in range(table.shape[1]):
            means[start:stop, column] = table[:, column].take(drawn_rows).mean(axis=1)
    return means
