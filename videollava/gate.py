"""The gate: may a new version take over from the champion? Figures in, a decision with its reasons out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from videollava.params import Gate

__all__ = ["Decision", "Row", "decide", "primary"]

Scores = Mapping[str, Mapping[str, Any]]
PRIMARY = ("accuracy", "score", "circular", "mean_f1", "perception")
JUDGE = ("judge", "judge_prompt")


@dataclass(frozen=True)
class Row:
    """One benchmark: the candidate's score, its blinded one, the champion's. None: not measured."""

    benchmark: str
    score: float | None
    blind: float | None
    champion: float | None
    verdict: str

    @property
    def gain(self) -> float | None:
        """Points over the champion."""
        return None if self.score is None or self.champion is None else self.score - self.champion


@dataclass(frozen=True)
class Decision:
    """Whether the candidate passes, every reason why not, and the table behind it."""

    passed: bool
    reasons: tuple[str, ...]
    rows: tuple[Row, ...]

    def cells(self) -> list[dict[str, str]]:
        """The table as texts, for any way of drawing it."""
        return [
            {
                "benchmark": row.benchmark,
                "score": _points(row.score),
                "blinded": _points(row.blind),
                "champion": _points(row.champion),
                "gain": _points(row.gain, sign=True),
                "verdict": row.verdict,
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


def decide(candidate: Scores, champion: Scores | None, gate: Gate) -> Decision:
    """Compare metrics.json of a candidate with the champion's (None: there is none yet).

    Scores are `{"easy_vqa": {"accuracy": 99.1, "blind_accuracy": 66.5}, ...}`, in percent, except a judge's
    own `score`; thresholds are points of the same scale. A benchmark passes by its floor (`gate.minimum`), by
    its distance over the blinded model, and by losing no more than `allowed_regression` to the champion; the
    mean gain over all benchmarks both were scored on must reach `minimum_gain`. Two judges' scores are never
    compared.
    """
    before = champion or {}
    names = list(dict.fromkeys([*candidate, *before, *gate.minimum]))
    rows = []
    reasons = []
    for name in names:
        faults = _faults(name, candidate, before, gate)
        reasons += faults
        rows.append(_row(name, candidate, before, "refused" if faults else "passed"))
    gains = [row.gain for row in rows if row.gain is not None]
    if gains and sum(gains) / len(gains) < gate.minimum_gain - 1e-9:
        reasons.append(
            f"mean gain over the champion {sum(gains) / len(gains):+.2f}, "
            f"at least {gate.minimum_gain:+.2f} needed"
        )
    if not candidate:
        reasons.append("no scores: run the evaluate stage")
    return Decision(not reasons, tuple(reasons), tuple(rows))


def primary(scores: Mapping[str, Any] | None) -> float | None:
    """The one figure of a benchmark that counts, None where it was not measured."""
    for name in PRIMARY:
        value = (scores or {}).get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    return None


def _row(name: str, candidate: Scores, before: Scores, verdict: str) -> Row:
    mine = candidate.get(name) or {}
    comparable = not _judges_differ(mine, before.get(name) or {})
    old = primary(before.get(name)) if comparable else None
    return Row(name, primary(mine), _blind(mine), old, verdict)


def _faults(name: str, candidate: Scores, before: Scores, gate: Gate) -> list[str]:
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
    elif old is not None and not score - old >= -gate.allowed_regression:
        faults.append(
            f"{name}: {score - old:+.2f} against the champion, "
            f"at most {-gate.allowed_regression:+.2f} allowed"
        )
    return faults


def _blind(scores: Mapping[str, Any]) -> float | None:
    value = scores.get("blind_accuracy", scores.get("blind_score"))
    return float(value) if isinstance(value, int | float) else None


def _judges_differ(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    return bool(mine and theirs) and any(mine.get(key) != theirs.get(key) for key in JUDGE)


def _judge(scores: Mapping[str, Any]) -> str:
    return " ".join(str(scores[key]) for key in JUDGE if scores.get(key)) or "no judge"


def _points(value: float | None, sign: bool = False) -> str:
    if value is None:
        return "-"
    return f"{value:+.2f}" if sign else f"{value:.2f}"
