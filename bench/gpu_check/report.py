"""The outcomes as one table for a person, and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from bench.gpu_check.parts import Outcome

__all__ = ["table", "to_json"]


def table(outcomes: Sequence[Outcome]) -> str:
    """One line a row, in Markdown: part, what was done, figures; then what failed parts said."""
    lines = ["| part | what | figures |", "|---|---|---|"]
    for outcome in outcomes:
        lines.append(f"| **{outcome.part}** | {outcome.status} | {outcome.seconds:.0f} s |")
        lines += (f"| | {row['what']} | {_figures(row)} |" for row in outcome.rows)
    return "\n".join([*lines, *_failures(outcomes)])


def _figures(row: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_short(value)}" for name, value in row.items() if name != "what")


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, list):
        return " ".join(_short(item) for item in value) or "none"
    return str(value)


def _failures(outcomes: Sequence[Outcome]) -> Iterator[str]:
    for outcome in outcomes:
        if outcome.failed:
            yield f"\n{outcome.part}: {outcome.status}; its last lines:"
            yield from (f"    {line}" for line in outcome.said)


def to_json(outcomes: Sequence[Outcome], seconds: float) -> dict[str, Any]:
    """All of it, with the seconds of the whole."""
    return {"seconds": round(seconds, 1), "parts": [dataclasses.asdict(outcome) for outcome in outcomes]}
