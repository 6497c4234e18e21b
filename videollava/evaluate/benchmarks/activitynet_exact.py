"""ActivityNet-QA by its own metric: exact match, by question type."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from videollava.evaluate.benchmarks.interface import Benchmark
from videollava.evaluate.benchmarks.reading import documents, pick, read_answers, records, rows_with
from videollava.evaluate.benchmarks.tally import counts, grouped, mark, percent, result
from videollava.evaluate.benchmarks.video_qa import questions

__all__ = ["BENCHMARK", "score"]

TYPES = (
    "motion",
    "spatial relation",
    "temporal relation",
    "yes/no",
    "color",
    "object",
    "location",
    "number",
    "other",
)
FREE = 3  # types from here on are free questions


def score(
    gold: Sequence[Path], answers: Path | None, replies: Path | None = None, per_question: bool = False
) -> dict[str, Any]:
    """Accuracy of all, by type, and of the free questions together.

    `free_as_printed` is what the official script prints for those: it divides by the counts of all types
    but the three that come first in the gold file, whichever they are.
    """
    rows = records(
        pick(documents(gold), "ActivityNet-QA answers", rows_with("question_id", "answer", "type"))
    )
    golds = {str(row["question_id"]): row for row in rows}
    given = read_answers(answers)
    right = {key: float(given.texts.get(key) == row["answer"]) for key, row in golds.items()}
    free = [right[key] for key, row in golds.items() if row["type"] >= FREE]
    first = list(dict.fromkeys(row["type"] for row in rows))[:FREE]
    divisor = sum(row["type"] not in first for row in golds.values())
    figures = {
        "accuracy": percent(right.values()),
        "by_type": grouped((_name(golds[key]["type"]), value) for key, value in right.items()),
        "free": percent(free),
        "free_as_printed": 100 * sum(free) / divisor if divisor else None,
    }
    single = {key: 100 * value for key, value in right.items()}
    said = {key: row["answer"] for key, row in golds.items()}
    marks = mark(given, single, said) if per_question else None
    kept = single if per_question else None
    return result(len(right), figures, counts(golds, given), per_question=kept, marks=marks)


def _name(kind: int) -> str:
    return TYPES[kind] if 0 <= kind < len(TYPES) else str(kind)


BENCHMARK = Benchmark(
    id="activitynet-exact",
    title="ActivityNet-QA, exact match",
    headline="accuracy",
    questions=partial(questions, prefix="v_"),
    score=score,
    media="video",
    size=8_000,
)
