"""The gate: may a new version take over from the champion? Figures in, a decision with its reasons out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videollava.params import Gate

if TYPE_CHECKING:
    from videollava.evaluate.statistics import Comparison

__all__ = ["Decision", "Row", "decide", "primary", "read_pairs"]

Scores = Mapping[str, Mapping[str, Any]]
Pairs = Mapping[str, "Comparison"]
PRIMARY = ("accuracy", "score", "circular", "mean_f1", "perception")
JUDGE = ("judge", "judge_version", "judge_prompt", "judge_reader")
SAME = 0.06  # points within which a paired test is one of the very figure


@dataclass(frozen=True)
class Row:
    """One benchmark: the candidate's score, its blinded one, the champion's. None: not measured.

    p: how often equal models come as far apart, where their answers were compared.
    """

    benchmark: str
    score: float | None
    blind: float | None
    champion: float | None
    verdict: str
    p: float | None = None

    @property
    def gain(self) -> float | None:
        """Points over the champion."""
        return None if self.score is None or self.champion is None else self.score - self.champion


@dataclass(frozen=True)
class Decision:
    """Whether the candidate passes, every reason why not, and the table behind it; `notes` decide nothing."""

    passed: bool
    reasons: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    def cells(self) -> list[dict[str, str]]:
        """The table as texts, for any way of drawing it."""
        return [
            {
                "benchmark": row.benchmark,
                "score": _points(row.score),
                "blinded": _points(row.blind),
                "champion": _points(row.champion),
                "gain": _points(row.gain, sign=True),
                "verdict": row.verdict if row.p is None else f"{row.verdict} (p={row.p:.3f})",
            }
            for row in self.rows
        ]

    def table(self) -> str:
        """The table as Markdown, columns aligned."""
        cells = self.cells()
        names = ("benchmark", "score", "blinded", "champion", "gain", "verdict")
        widths = {name: max([len(name), *(len(row[name]) for row in cells)]) for name in names}
        lines = [
            "| " + " | ".join(name.ljust(widths[name]) for name in names) + " |",
            "|" + "|".join("-" * (widths[name] + 2) for name in names) + "|",
        ]
        for row in cells:
            lines.append("| " + " | ".join(row[name].ljust(widths[name]) for name in names) + " |")
        return "\n".join(lines)


def decide(candidate: Scores, champion: Scores | None, gate: Gate, pairs: Pairs | None = None) -> Decision:
    """Compare metrics.json of a candidate with the champion's (None: there is none yet).

    Scores are `{"easy_vqa": {"accuracy": 99.1, "blind_accuracy": 66.5}, ...}`, in percent, except a judge's
    own `score`; thresholds are points of the same scale. A benchmark passes by its floor (`gate.minimum`), by
    its distance over the blinded model, by its own minimum gain, and by losing no more than what is allowed to
    the champion; the mean gain over all benchmarks both were scored on must reach `minimum_gain`. Two judges'
    scores are never compared, nor are those of a part of a benchmark with the whole's.

    pairs: champion and candidate, answer by answer (`read_pairs`). Where there is such a test of the figure, a
    loss that chance explains does not refuse (a note says so), and a minimum gain must be more than chance.
    """
    before = champion or {}
    tests = {name: pair for name, pair in (pairs or {}).items() if _is_of(pair, name, candidate, before)}
    names = list(dict.fromkeys([*candidate, *before, *gate.minimum]))
    rows = []
    reasons = []
    for name in names:
        p = _probability(tests[name]) if name in tests else None
        faults = _faults(name, candidate, before, gate, p)
        reasons += faults
        rows.append(_row(name, candidate, before, "refused" if faults else "passed", p))
    gains = [row.gain for row in rows if row.gain is not None]
    if gains and sum(gains) / len(gains) < gate.minimum_gain - 1e-9:
        reasons.append(
            f"mean gain over the champion {sum(gains) / len(gains):+.2f}, "
            f"at least {gate.minimum_gain:+.2f} needed"
        )
    if not candidate:
        reasons.append("no scores: run the evaluate stage")
    notes = [note for row in rows for note in _notes(row, candidate, gate)]
    return Decision(not reasons, tuple(reasons), tuple(rows), tuple(notes))


def read_pairs(candidate: Path, champion: Path) -> dict[str, Comparison]:
    """Champion against candidate on every benchmark that both evaluation folders have with the same questions
    and judge.
    """
    from videollava.errors import InputError
    from videollava.evaluate.compare import compare_results
    from videollava.evaluate.results import read_results

    mine, theirs = read_results(candidate), read_results(champion)
    pairs = {}
    for name in mine:
        if name not in theirs:
            continue
        try:
            pairs[name] = compare_results(theirs[name], mine[name]).paired
        except InputError:  # not comparable, which `decide` sees from the figures and says
            continue
    return pairs


def primary(scores: Mapping[str, Any] | None) -> float | None:
    """The one figure of a benchmark that counts (its "headline" where it says), None where it was not measured."""
    found = scores or {}
    for name in (found.get("headline", ""), *PRIMARY):
        value = found.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    return None


def _row(name: str, candidate: Scores, before: Scores, verdict: str, p: float | None) -> Row:
    mine, theirs = candidate.get(name) or {}, before.get(name) or {}
    comparable = not _judges_differ(mine, theirs) and not _parts_differ(mine, theirs)
    return Row(name, primary(mine), _blind(mine), primary(theirs) if comparable else None, verdict, p)


def _is_of(pair: Comparison, name: str, candidate: Scores, before: Scores) -> bool:
    """Whether a paired test is of the figure that counts: F1, for one, is no mean of answers."""
    new, old = primary(candidate.get(name)), primary(before.get(name))
    return new is not None and old is not None and abs(pair.difference - (new - old)) < SAME


def _probability(pair: Comparison) -> float:
    return pair.p


def _by_chance(p: float | None, gate: Gate) -> bool:
    return p is not None and gate.significance > 0 and p >= gate.significance


def _allowed(name: str, gate: Gate) -> float:
    return gate.allowed_regressions.get(name, gate.allowed_regression)


def _notes(row: Row, candidate: Scores, gate: Gate) -> list[str]:
    notes = []
    if row.gain is not None and row.gain < -_allowed(row.benchmark, gate) and _by_chance(row.p, gate):
        notes.append(
            f"{row.benchmark}: {row.gain:+.2f} against the champion, which equal models would show as well "
            f"(p={row.p:.3f})"
        )
    mine = candidate.get(row.benchmark) or {}
    leaks = mine.get("contamination") or {}
    if any(leaks.get(name) for name in ("media", "both", "near")):
        notes.append(
            f"{row.benchmark}: in the training data are {leaks.get('media', 0):,} of its media, "
            f"{leaks.get('near', 0):,} questions nearly so, {leaks.get('both', 0):,} questions with their medium"
        )
    if mine.get("missing_media"):
        notes.append(
            f"{row.benchmark}: {mine['missing_media']:,} questions lack their medium and count as wrong"
        )
    if mine.get("unasked"):
        notes.append(
            f"{row.benchmark}: {mine['unasked']:,} questions could not be put to the model and count as wrong"
        )
    if mine.get("invalid"):
        notes.append(f"{row.benchmark}: {mine['invalid']:,} answers or verdicts could not be read")
    return notes


def _faults(name: str, candidate: Scores, before: Scores, gate: Gate, p: float | None) -> list[str]:
    mine, theirs = candidate.get(name) or {}, before.get(name) or {}
    score, old, blind = primary(mine), primary(theirs), _blind(mine)
    if score is None or not math.isfinite(score):
        return [
            f"{name}: no score (the gate or the champion has one)"
            if score is None
            else f"{name}: score is {score}"
        ]
    faults = []
    if score < gate.minimum.get(name, -math.inf):
        faults.append(f"{name}: {score:.2f} is below the minimum {gate.minimum[name]:.2f}")
    if blind is not None and not score - blind >= gate.minimum_over_blind:
        faults.append(
            f"{name}: {score:.2f} is only {score - blind:+.2f} over the blinded model, "
            f"{gate.minimum_over_blind:+.2f} needed"
        )
    if _judges_differ(mine, theirs):
        faults.append(
            f"{name}: graded by {_judge(mine)}, the champion by {_judge(theirs)}; grade both by one judge"
        )
    elif _parts_differ(mine, theirs):
        faults.append(
            f"{name}: scored on a part of its questions, other than the champion's; evaluate both on the same"
        )
    elif old is not None:
        faults += _losses(name, score - old, gate, p)
    return faults


def _losses(name: str, gain: float, gate: Gate, p: float | None) -> list[str]:
    """What speaks against this gain over the champion."""
    faults = []
    allowed, wanted = _allowed(name, gate), gate.minimum_gains.get(name, -math.inf)
    if not gain >= -allowed and not _by_chance(p, gate):
        faults.append(f"{name}: {gain:+.2f} against the champion, at most {-allowed:+.2f} allowed")
    if not gain >= wanted - 1e-9:
        faults.append(f"{name}: {gain:+.2f} against the champion, at least {wanted:+.2f} needed")
    elif wanted > 0 and _by_chance(p, gate):
        faults.append(
            f"{name}: {gain:+.2f} against the champion, which equal models would show as well (p={p:.3f})"
        )
    return faults


def _blind(scores: Mapping[str, Any]) -> float | None:
    names = (f"blind_{scores.get('headline', 'accuracy')}", "blind_accuracy", "blind_score")
    value = next((scores[name] for name in names if name in scores), None)
    return float(value) if isinstance(value, int | float) else None


def _judges_differ(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    return bool(mine and theirs) and any(mine.get(key) != theirs.get(key) for key in JUDGE)


def _parts_differ(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    """Whether one was asked only the first questions (evaluate.limit), or other numbers of them."""
    return bool(mine and theirs) and mine.get("limit") != theirs.get("limit")


def _judge(scores: Mapping[str, Any]) -> str:
    return " ".join(str(scores[key]) for key in JUDGE if scores.get(key)) or "no judge"


def _points(value: float | None, sign: bool = False) -> str:
    if value is None:
        return "-"
    return f"{value:+.2f}" if sign else f"{value:.2f}"
