"""Two arms over all seeds: paired by question, clustered by medium, pooled; and what that says of a claim."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import stdtrit

from flows.claims.arms import Claim
from videollava.errors import InputError
from videollava.evaluate import statistics
from videollava.evaluate.compare import SIGNIFICANT, compare_results, format_p, media_of
from videollava.evaluate.results import Results
from videollava.evaluate.statistics import Interval

__all__ = ["MARGIN", "Pooled", "Word", "decide", "format_points", "pool", "sentence", "word_of"]

Word = Literal["holds here", "does not hold here", "no difference", "undecided"]
HOLDS: Word = "holds here"
REVERSED: Word = "does not hold here"
EQUAL: Word = "no difference"
UNDECIDED: Word = "undecided"
MARGIN = 1.0  # points: arms that surely lie nearer than this are called equal


@dataclass(frozen=True)
class Pooled:
    """`base` minus `arm` on one benchmark, in points.

    paired: all questions of all seeds, each medium with its questions of every seed drawn, or changing sign, as one.
    by_seed: the difference in each seed. seeds: their mean with Student's interval at 95 % (infinitely wide for one).
    """

    base: str
    arm: str
    benchmark: str
    paired: statistics.Comparison
    by_seed: Mapping[int, float]
    seeds: Interval

    def interval(self, tests: int = 1) -> Interval:
        """Student's interval over seeds at 95 % for `tests` of them together (Bonferroni)."""
        return _student(list(self.by_seed.values()), tests)


def pool(names: tuple[str, str], base: Mapping[int, Results], other: Mapping[int, Results]) -> Pooled:
    """Compare two arms, `names`, by the results of each seed; InputError where they have no seed in common, or a seed's
    two evaluations were not asked the same questions.
    """
    shared = sorted(set(base) & set(other))
    if not shared:
        raise InputError(f"{' and '.join(names)}: have no seed in common")
    before: dict[str, float] = {}
    after: dict[str, float] = {}
    media: dict[str, str] = {}
    by_seed = {}
    for seed in shared:
        a, b = other[seed], base[seed]
        said = (f"{names[1]}, seed {seed}", f"{names[0]}, seed {seed}")
        by_seed[seed] = compare_results(a, b, said).paired.difference
        groups = media_of(a, b)
        for key, answer in a.answers.items():
            name = f"{seed} {key}"
            before[name], after[name] = answer.value, b.answers[key].value
            media[name] = groups[key]
    paired = statistics.compare(before, after, media)
    return Pooled(*names, base[shared[0]].benchmark, paired, by_seed, _student(list(by_seed.values())))


def _student(differences: Sequence[float], tests: int = 1) -> Interval:
    mean = math.fsum(differences) / len(differences)
    if len(differences) < 2:
        return Interval(mean, -math.inf, math.inf)
    reach = float(stdtrit(len(differences) - 1, 1 - SIGNIFICANT / tests / 2))
    reach *= float(np.std(differences, ddof=1)) / math.sqrt(len(differences))
    return Interval(mean, mean - reach, mean + reach)


def word_of(one: Pooled, tests: int = 1) -> Word:
    """Decided only where the questions and the seeds both exclude no difference, or both one of MARGIN: the questions
    say that these models differ (or do not), the seeds that the next two would.
    """
    over = one.interval(tests)
    if one.paired.p < SIGNIFICANT / tests and not over.low <= 0 <= over.high:
        return HOLDS if over.value > 0 else REVERSED
    ends = (over.low, over.high, one.paired.low, one.paired.high)
    return EQUAL if max(abs(end) for end in ends) < MARGIN else UNDECIDED


def decide(found: Sequence[Pooled]) -> Word:
    """A claim's word over its contrasts: it holds where one holds and none is reversed, does not hold where it is the
    other way round, makes no difference where no contrast has one; all else is undecided. Each contrast is tested at
    its share of 5 %.
    """
    words = {word_of(one, len(found)) for one in found}
    if HOLDS in words and REVERSED not in words:
        return HOLDS
    if REVERSED in words and HOLDS not in words:
        return REVERSED
    return EQUAL if words == {EQUAL} else UNDECIDED


def sentence(claim: Claim, found: Sequence[Pooled]) -> str:
    """What may honestly be said, with its numbers."""
    if not found:
        return f"({claim.letter}) not run: no seed has both arms."
    word = decide(found)
    words = {HOLDS: claim.holds, REVERSED: claim.reverse, EQUAL: claim.equal}
    said = words[word] if word in words else _why_not(found) + _left(found)
    return f"({claim.letter}) {word}: {said}. {' '.join(_numbers(one, len(found)) for one in found)}"


def _why_not(found: Sequence[Pooled]) -> str:
    words = [word_of(one, len(found)) for one in found]
    if HOLDS in words and REVERSED in words:
        return "it holds on one benchmark and is reversed on another"
    if any(len(one.by_seed) < 2 for one in found):
        return "one seed says nothing about the next"
    if EQUAL in words:
        return "no difference on one benchmark, and another leaves it open"
    if any(one.paired.p < SIGNIFICANT / len(found) for one in found):
        return "these models differ, but their seeds do not agree enough to say so of the next"
    return "a difference was not shown"


def _left(found: Sequence[Pooled]) -> str:
    """What an undecided claim excludes all the same."""
    ends = [
        abs(end) for one in found for end in (one.interval(len(found)).low, one.interval(len(found)).high)
    ]
    return f"; differences beyond {max(ends):.1f} points are excluded" if math.isfinite(max(ends)) else ""


def _numbers(one: Pooled, tests: int) -> str:
    over = one.interval(tests)
    level = f"{100 * (1 - SIGNIFICANT / tests):g} %"
    reach = f" [{over.low:+.1f}, {over.high:+.1f} at {level}]" if math.isfinite(over.low) else ""
    chance = format_p(one.paired)
    seeds = f"{len(one.by_seed)} seed{'s' if len(one.by_seed) != 1 else ''}"
    agree = sum(value > 0 for value in one.by_seed.values())
    return (
        f"{one.benchmark}, {one.base} against {one.arm}: {over.value:+.1f}{reach} points over {seeds} "
        f"(ahead in {agree}), p {'' if chance.startswith('<') else '= '}{chance} by questions."
    )


def format_points(found: Interval) -> str:
    """ "+1.20 [-0.40, +2.80]"; without an interval where there is none."""
    if not math.isfinite(found.low):
        return f"{found.value:+.2f}"
    return f"{found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"
