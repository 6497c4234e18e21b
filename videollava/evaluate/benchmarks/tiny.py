"""The tiny profile's two: easy-VQA and questions about generated clips, exact match of the normalised answer.

Their questions come from the prepared splits; a line of predictions holds its gold:
    {"question_id", "kind", "answer", "prediction"}
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from videollava.errors import InputError
from videollava.evaluate.benchmarks.interface import Benchmark, Question
from videollava.evaluate.benchmarks.reading import documents, find, read_answers, records, rows_with, unite
from videollava.evaluate.benchmarks.tally import counts, grouped, mark, percent, result
from videollava.evaluate.normalise import exact

__all__ = ["BENCHMARKS", "questions", "score", "score_pairs"]

TEXTS = ("prediction", "pred", "text")


def questions(files: Sequence[Path], media: Path | None = None) -> Iterator[Question]:
    """None: the stage reads them from `test-<id>` of the prepared data."""
    raise InputError("the questions of this benchmark are the split test-<id> of data/index")


def score(
    gold: Sequence[Path], answers: Path | None, replies: Path | None = None, per_question: bool = False
) -> dict[str, Any]:
    """`accuracy` of all and by kind. Gold files (question_id, answer, kind) are optional: the predictions
    have it.
    """
    given = read_answers(answers, texts=TEXTS)
    listed = find(documents(gold), rows_with("question_id", "answer"))
    rows = unite((d, {str(row["question_id"]): row for row in records(d)}) for d in listed) or given.rows
    wanting = next((key for key, row in rows.items() if "answer" not in row), None)
    if wanting is not None:
        raise InputError(f"{given.path}: question {wanting!r} has no 'answer', and no gold file gives one")
    right = {key: _right(row["answer"], given.texts.get(key)) for key, row in rows.items()}
    kinds = {key: str(row.get("kind", "")) for key, row in rows.items()}
    single = {key: 100 * value for key, value in right.items()} if per_question else None
    marks = mark(given, single, {key: row["answer"] for key, row in rows.items()}) if single else None
    return result(len(right), _figures(right, kinds), counts(rows, given), per_question=single, marks=marks)


def score_pairs(
    golds: Sequence[str], predictions: Sequence[str], kinds: Sequence[str] = ()
) -> dict[str, Any]:
    """The same figures of two lists of answers, in memory."""
    keys = [str(number) for number in range(len(golds))]
    right = {key: _right(g, p) for key, g, p in zip(keys, golds, predictions, strict=True)}
    return {"n": len(right), **_figures(right, dict(zip(keys, kinds or [""] * len(keys), strict=True)))}


def _right(gold: object, prediction: str | None) -> float:
    return float(prediction is not None and exact(prediction) == exact(str(gold)))


def _figures(right: dict[str, float], kinds: dict[str, str]) -> dict[str, Any]:
    by_kind = grouped((kinds[key], value) for key, value in right.items())
    return {"accuracy": percent(right.values()), "by_kind": by_kind}


def _benchmark(key: str, title: str, media: Literal["image", "video"]) -> Benchmark:
    return Benchmark(key, title, "accuracy", questions, score, media=media, max_new_tokens=16)


BENCHMARKS = (
    _benchmark("easy_vqa", "easy-VQA", "image"),
    _benchmark("toy_video_qa", "Generated clips", "video"),
)
