"""May a version take over from the champion? Figures and answers in, a decision with its reasons out.

What a passed gate claims, each benchmark by itself at the level of gate.yaml: it lost no more than is allowed to the
champion on the same questions; and where a gain is asked for, it gained. All must hold, so the chance that a version
passes of which one claim is wrong is at most the level, however many benchmarks there are: none is to be corrected for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from videollava.gate.benchmark import SLACK, Judged, Row, Scores
from videollava.gate.pairs import Pair, bound_all
from videollava.gate.reading import Rules
from videollava.gate.rules import Gate

__all__ = ["Decision", "decide"]


@dataclass(frozen=True)
class Decision:
    """Whether the candidate passes, every reason why not, and the table behind it; `notes` decide nothing.

    rules: where gate.yaml was read (source, commit, sha256, entry) and what it says. unanswered: benchmarks that are
    compared once the champion has answered the candidate's questions. candidate, champion: version numbers, 0: none.
    """

    passed: bool
    reasons: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    rules: Mapping[str, Any] = field(default_factory=dict)
    unanswered: tuple[str, ...] = ()
    mean_gain: float | None = None
    candidate: int = 0
    champion: int = 0

    def as_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        found = asdict(self)
        found["rows"] = [{key: _plain(value) for key, value in row.items()} for row in found["rows"]]
        return found

    def cells(self) -> list[dict[str, str]]:
        """The table as texts, for any way of drawing it."""
        return [
            {
                "benchmark": row.benchmark,
                "score": _points(row.score),
                "blinded": _points(row.blind),
                "champion": _points(row.champion),
                "gain": _points(row.gain, sign=True),
                "at least": _points(row.at_least, sign=True),
                "allowed": _points(None if row.allowed is None else -row.allowed, sign=True),
                "verdict": row.verdict if row.p is None else f"{row.verdict} (p={row.p:.3f})",
            }
            for row in self.rows
        ]

    def table(self) -> str:
        """The table as Markdown, columns aligned."""
        cells = self.cells()
        names = ("benchmark", "score", "blinded", "champion", "gain", "at least", "allowed", "verdict")
        widths = {name: max([len(name), *(len(row[name]) for row in cells)]) for name in names}
        lines = [
            "| " + " | ".join(name.ljust(widths[name]) for name in names) + " |",
            "|" + "|".join("-" * (widths[name] + 2) for name in names) + "|",
        ]
        for row in cells:
            lines.append("| " + " | ".join(row[name].ljust(widths[name]) for name in names) + " |")
        return "\n".join(lines)


def decide(
    candidate: Scores,
    champion: Scores | None,
    rules: Rules,
    pairs: Mapping[str, Pair] | None = None,
    unlike: Mapping[str, str] | None = None,
    decided: Mapping[str, int] | None = None,
    unable: Mapping[str, str] | None = None,
) -> Decision:
    """Judge a candidate by its metrics.json, and against the champion's (None: there is none yet) answer by answer.

    A benchmark passes by its floor, by its distance over the blinded model, by few unread replies of a judge, and by
    its comparison with the champion on the same questions (`pairs`; why there is none: `unlike`). Figures of different
    questions, or by different judges, are never compared. decided: by benchmark how many versions its questions judged.
    unable: by benchmark why the champion cannot be asked it now.
    """
    gate, before = rules.gate, champion or {}
    names = list(dict.fromkeys([*candidate, *before, *gate.benchmarks]))
    judged = [
        Judged.of(
            *(name, candidate, champion, gate, (pairs or {}).get(name)),
            *((why or {}).get(name, "") for why in (unlike, unable)),
        )
        for name in names
    ]
    counted = [one for one in judged if not one.bar.dropped]
    reasons = [fault for one in counted for fault in one.faults()]
    compared = {one.name: one.pair for one in counted if one.pair is not None}
    mean, faults = _mean_gain(compared, {one.name: one.gain for one in counted}, gate)
    reasons += faults
    if not candidate:
        reasons.append("no scores: run the evaluate stage")
    rows = [replace(one.row(), decided=(decided or {}).get(one.name, 0)) for one in judged]
    notes = [*rules.notes, *(note for one, row in zip(judged, rows, strict=True) for note in one.notes(row))]
    told: dict[str, Any] = {
        "source": rules.source,
        "commit": rules.commit,
        "sha256": rules.sha256,
        "entry": rules.entry,
    }
    told |= {"gate": gate.model_dump(mode="json", exclude_defaults=True), "level": gate.level}
    lacking = [one.name for one in counted if one.lacks_champion and not one.unable]
    return Decision(
        not reasons, tuple(reasons), tuple(rows), tuple(notes), told, tuple(lacking), mean_gain=_plain(mean)
    )


def _mean_gain(
    pairs: Mapping[str, Pair], gains: Mapping[str, float | None], gate: Gate
) -> tuple[float | None, list[str]]:
    """The mean gain over the benchmarks that are compared, and what speaks against it."""
    found = [gain for name in pairs if (gain := gains[name]) is not None]
    if not found:
        return None, []
    mean, wanted = sum(found) / len(found), gate.minimum_gain
    if mean < wanted - SLACK:
        return mean, [f"mean gain over the champion {mean:+.2f}, at least {wanted:+.2f} needed"]
    if wanted > 0:
        bound = bound_all(pairs, gate.level)
        if not bound.low > 0:
            return mean, [
                f"mean gain over the champion {mean:+.2f}, which equal models would show as well "
                f"(p={bound.p(0.0):.3f})"
            ]
    return mean, []


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _points(value: float | None, sign: bool = False) -> str:
    if value is None:
        return "-"
    return f"{value:+.2f}" if sign else f"{value:.2f}"
