"""One benchmark before the gate: its figures, its comparison with the champion, what speaks against the candidate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from videollava.gate.pairs import Pair
from videollava.gate.rules import Bar, Gate

__all__ = ["SLACK", "Judged", "Row", "Scores", "primary"]

Scores = Mapping[str, Mapping[str, Any]]
PRIMARY = ("accuracy", "score", "circular", "mean_f1", "perception")
SAME = 0.06  # points within which the mean of the answers is the figure that counts
SLACK = 1e-9
UNABLE = ", and cannot be asked now: {}; `without_comparison: true` for it in gate.yaml lets this one pass"


@dataclass(frozen=True)
class Row:
    """One benchmark: the candidate's score, its blinded one, the champion's on the same questions. None: not measured.

    In points of a hundred: the `gain`, what it exceeds at the gate's level (`at_least`), what may be lost (`allowed`),
    what these questions can exclude where nothing is lost (`reach`, four times in five). p: how often equal models come
    as far apart; p_worse: how often a model that lost as much as allowed looks as good. low, high: the gain's 95%
    interval. questions: their hash; decided: how many versions were judged by them before.
    """

    benchmark: str
    score: float | None
    blind: float | None = None
    champion: float | None = None
    gain: float | None = None
    verdict: str = ""
    rule: str = ""
    allowed: float | None = None
    at_least: float | None = None
    reach: float | None = None
    p: float | None = None
    p_worse: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    media: int = 0
    questions: str = ""
    decided: int = 0


def primary(scores: Mapping[str, Any] | None) -> float | None:
    """The one figure of a benchmark that counts (its "headline" where it says), None where it was not measured."""
    found = scores or {}
    for name in (found.get("headline", ""), *PRIMARY):
        value = found.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    return None


@dataclass(frozen=True)
class Judged:
    """One benchmark before the gate. unlike: why it is compared with no answers of the champion's; unable: why the
    champion cannot be asked it now.
    """

    name: str
    bar: Bar
    gate: Gate
    mine: Mapping[str, Any]
    pair: Pair | None
    unlike: str
    first: bool
    unable: str = ""

    @classmethod
    def of(
        cls,
        name: str,
        candidate: Scores,
        champion: Scores | None,
        gate: Gate,
        pair: Pair | None,
        unlike: str,
        unable: str = "",
    ) -> Judged:
        if pair is None and not unlike and champion is not None:
            unlike = (
                "the champion has no answers to it at hand"
                if name in champion
                else "the champion was never asked"
            )
        if pair is not None and primary(pair.figures) is None:  # an evaluation of before it kept its figures
            pair = replace(pair, figures=(champion or {}).get(name) or {})
        mine = candidate.get(name) or {}
        return cls(name, gate.bar(name), gate, mine, pair, unlike, champion is None, unable)

    @property
    def scale(self) -> float:
        """From the benchmark's own points to points of a hundred."""
        from videollava.evaluate.results import full_marks

        return 100.0 / full_marks(self.name)

    @property
    def score(self) -> float | None:
        return primary(self.mine)

    @property
    def blind(self) -> float | None:
        names = (f"blind_{self.mine.get('headline', 'accuracy')}", "blind_accuracy", "blind_score")
        value = next((self.mine[name] for name in names if name in self.mine), None)
        return float(value) if isinstance(value, int | float) else None

    @property
    def champion(self) -> float | None:
        """Its score on these very questions."""
        return None if self.pair is None else primary(self.pair.figures)

    @property
    def gain(self) -> float | None:
        """Of the figure that counts."""
        return (
            None if self.score is None or self.champion is None else self.scale * (self.score - self.champion)
        )

    @property
    def lacks_champion(self) -> bool:
        return not self.first and self.pair is None and self.score is not None

    def faults(self) -> Iterator[str]:
        """What speaks against the candidate."""
        name, score, bar = self.name, self.score, self.bar
        if score is None:
            yield f"{name}: no score (gate.yaml or the champion has it; `dropped: true` in gate.yaml lets it go)"
            return
        if not math.isfinite(score):
            yield f"{name}: score is {score}"
            return
        if bar.minimum is not None and score < bar.minimum:
            yield f"{name}: {score:.2f} is below the minimum {bar.minimum:.2f}"
        over = bar.minimum_over_blind or 0.0
        if self.blind is not None and not self.scale * (score - self.blind) >= over:
            yield (
                f"{name}: {score:.2f} is only {self.scale * (score - self.blind):+.2f} over the blinded model, "
                f"{over:+.2f} needed"
            )
        unread = self.unread
        if unread > self.gate.most_unread:
            yield (
                f"{name}: {100 * unread:.1f} % of the judge's replies could not be read, at most "
                f"{100 * self.gate.most_unread:.1f} % allowed; judge again"
            )
        if self.pair is not None:
            yield from self._losses(self.pair)
        elif self.lacks_champion and not bar.without_comparison:
            unable = UNABLE.format(self.unable) if self.unable else ""
            yield f"{name}: no comparison with the champion: {self.unlike}{unable}"

    @property
    def unread(self) -> float:
        """The share of a judge's replies without a readable verdict."""
        if not self.mine.get("judge"):
            return 0.0
        return sum(int(self.mine.get(key) or 0) for key in ("invalid", "unjudged")) / max(
            1, int(self.mine.get("n") or 1)
        )

    def _losses(self, pair: Pair) -> Iterator[str]:
        name, allowed, level = self.name, self.bar.allowed_regression or 0.0, self.gate.level
        bound, gain = pair.bound(level), self.gain if self.gain is not None else pair.gain
        worst = min(gain, pair.gain)  # a figure that is no mean of answers must not fall either
        by_chance = self.bar.rule == "not_shown_worse" and pair.comparison.p >= level
        if worst < -allowed - SLACK and not by_chance:
            yield f"{name}: {worst:+.2f} against the champion, at most {-allowed:+.2f} allowed"
        elif self.bar.rule == "no_worse" and not bound.low > -allowed:
            yield (
                f"{name}: {pair.gain:+.2f} against the champion, but that it lost up to {-bound.low:.2f} is not "
                f"excluded at level {level:g} ({allowed:.2f} allowed): {_advice(pair, bound, allowed)}"
            )
        wanted = self.bar.minimum_gain
        if wanted is None:
            return
        if gain < wanted - SLACK:
            yield f"{name}: {gain:+.2f} against the champion, at least {wanted:+.2f} needed"
        elif wanted > 0 and not bound.low > 0:
            p = bound.p(0.0)
            yield f"{name}: {gain:+.2f} against the champion, which equal models would show as well (p={p:.3f})"

    def row(self) -> Row:
        """What the table says."""
        bar, compared = self.bar, self.pair is not None
        refused = "dropped" if bar.dropped else "refused" if any(self.faults()) else "passed"
        row = Row(
            self.name,
            self.score,
            self.blind,
            self.champion,
            self.gain if self.gain is not None or not compared else self.pair.gain,  # type: ignore[union-attr]
            refused,
            bar.rule or "",
            bar.allowed_regression if compared else None,
            n=int(self.mine.get("n") or 0),
            questions=str(self.mine.get("questions") or ""),
        )
        if self.pair is None:
            return row
        found, bound = self.pair.comparison, self.pair.bound(self.gate.level)
        return replace(
            row,
            p=found.p,
            n=found.n,
            media=found.media,
            at_least=bound.low,
            reach=bound.reach,
            p_worse=bound.p(-(bar.allowed_regression or 0.0)),
            low=self.scale * found.low,
            high=self.scale * found.high,
        )

    def notes(self, row: Row) -> Iterator[str]:
        """What decides nothing, and a person should know."""
        name, mine = self.name, self.mine
        if self.bar.dropped:
            yield f"{name}: dropped in gate.yaml: whatever it scores does not count"
            return
        if mine and name not in self.gate.benchmarks:
            yield f"{name}: no entry of its own in gate.yaml: what holds for all benchmarks counts"
        if self.lacks_champion and self.bar.without_comparison:
            yield f"{name}: not compared with the champion, as gate.yaml allows: {self.unlike}"
        if self.pair is not None:
            yield from self._power(row)
        if row.decided:
            versions = "version" if row.decided == 1 else "versions"
            yield f"{name}: these questions have judged {row.decided:,} {versions} before"
        yield from _counted(name, mine)

    def _power(self, row: Row) -> Iterator[str]:
        name, allowed = self.name, self.bar.allowed_regression or 0.0
        assert self.pair is not None
        if self.bar.rule == "not_shown_worse":
            yield f"{name}: rule not_shown_worse: only a loss that chance does not explain refuses, at no level"
            if self.pair.gain < -allowed and (row.p or 0.0) >= self.gate.level:
                yield (
                    f"{name}: {self.pair.gain:+.2f} against the champion, which equal models would show as well "
                    f"(p={row.p:.3f})"
                )
        elif row.reach is not None and math.isfinite(row.reach):
            yield f"{name}: {row.n:,} questions about {row.media:,} media can exclude a loss of {row.reach:.2f} points"
        if self.gain is not None and abs(self.gain - self.pair.gain) >= SAME:
            yield (
                f"{name}: its figure is no mean of answers: the test is of their points "
                f"({self.pair.gain:+.2f}), the figure ({self.gain:+.2f}) may not fall by more than allowed either"
            )


def _advice(pair: Pair, bound: Any, allowed: float) -> str:
    """What to do about a loss that is not excluded."""
    asked = f"{pair.comparison.n:,} questions about {pair.comparison.media:,} media"
    if not math.isfinite(bound.reach):
        return f"{asked} say nothing of others; add questions, or let gate.yaml say `rule: not_shown_worse` for it"
    if bound.reach <= allowed:
        return f"on {asked} an equal model passes four times in five"
    wider = math.ceil(10 * bound.reach) / 10
    more = f"an equal model passes four times in five from about {bound.needed(allowed):,} media on"
    if allowed == 0:
        more = "no number of questions excludes that of an equal model"
    return f"{asked} are too few ({more}, or with `allowed_regression: {wider:g}` for it in gate.yaml)"


def _counted(name: str, mine: Mapping[str, Any]) -> Iterator[str]:
    leaks = mine.get("contamination") or {}
    if any(leaks.get(key) for key in ("media", "both", "near")):
        yield (
            f"{name}: in the training data are {leaks.get('media', 0):,} of its media, "
            f"{leaks.get('near', 0):,} questions nearly so, {leaks.get('both', 0):,} questions with their medium"
        )
    if mine.get("missing_media"):
        yield f"{name}: {mine['missing_media']:,} questions lack their medium and count as wrong"
    if mine.get("unasked"):
        yield f"{name}: {mine['unasked']:,} questions could not be put to the model and count as wrong"
    if mine.get("invalid"):
        yield f"{name}: {mine['invalid']:,} answers or verdicts could not be read"
