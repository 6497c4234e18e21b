"""`videollava score`: the figures of an answers file, apart from inference."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from videollava.errors import InputError
from videollava.evaluate import benchmarks
from videollava.evaluate.benchmarks import papers

__all__ = ["as_json", "as_text", "score", "submission"]


def score(
    benchmark: str,
    gold: Sequence[Path],
    answers: Path | None,
    replies: Path | None = None,
    per_question: bool = False,
) -> dict[str, Any]:
    """Figures of `answers` on a benchmark, percentages 0-100 but a judge's scores 0-5, at full precision.

    `gold` are files or folders in any order, recognised by content; `replies` a judge's. The keys are those
    of the benchmark's score (see `Score`) with "benchmark", the key of its main figure as "headline", and
    the paper's figure as "paper". InputError names the file, the record and what to do.
    """
    one = benchmarks.get(benchmark)
    if replies is not None and one.asks is None:
        raise InputError(f"{benchmark} has its own metric: leave the judge's replies ({replies}) out")
    figures = one.score(list(gold), answers, replies, per_question)
    figures.pop("marks", None)  # the evaluate stage's
    published = papers.reference(benchmark)
    paper = {"paper": list(published)} if published else {}
    return {"benchmark": one.id, "headline": one.headline, **paper, **figures}


def submission(benchmark: str, questions: Sequence[Path], answers: Path, out: Path) -> dict[str, int]:
    """Write what the benchmark's official server takes; counts of what was written, missing and broken."""
    one = benchmarks.get(benchmark)
    if one.submission is None:
        able = ", ".join(name for name in benchmarks.names() if benchmarks.get(name).submission)
        raise InputError(f"{benchmark} has no server to submit to; those with one: {able}")
    return one.submission(list(questions), answers, out)


def as_json(figures: Mapping[str, Any]) -> str:
    """Figures as one JSON object; never NaN."""
    return json.dumps(figures, indent=2, ensure_ascii=False, allow_nan=False)


def as_text(figures: Mapping[str, Any]) -> str:
    """Figures as lines for a terminal, two decimals, groups indented."""
    return "\n".join(_lines(figures, 0))


def _lines(figures: Mapping[str, Any], depth: int) -> Iterator[str]:
    for key, value in figures.items():
        if isinstance(value, Mapping):
            yield f"{'  ' * depth}{key}:"
            yield from _lines(value, depth + 1)
        else:
            shown = f"{value:.2f}" if isinstance(value, float) else "-" if value is None else value
            yield f"{'  ' * depth}{key}: {shown}"
