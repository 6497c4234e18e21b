"""GQA: compositional questions with one-word answers, exact match."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from videollava.errors import InputError
from videollava.evaluate.benchmarks.image_questions import asked, llava_questions
from videollava.evaluate.benchmarks.interface import SHORT, Benchmark, Question
from videollava.evaluate.benchmarks.reading import Document, documents, find, named, read_answers, unite
from videollava.evaluate.benchmarks.tally import counts, grouped, mark, percent, result

__all__ = ["BENCHMARK", "questions", "score"]

# Closing steps of a question's program that add nothing to its reasoning.
NO_STEP = ("exist", "query: name", "choose name")


def questions(files: Sequence[Path], media: Path | None = None) -> Iterator[Question]:
    """Of LLaVA's question lines, or of the official questions (the balanced ones)."""
    return llava_questions(files, media, raw=_official_questions, suffix=SHORT)


def score(
    gold: Sequence[Path], answers: Path | None, replies: Path | None = None, per_question: bool = False
) -> dict[str, Any]:
    """Accuracy over the balanced questions: all, binary, open, by type, by steps and words; and the
    distance of the answers' distribution from the gold's (chi-square over 100: lower is better).
    """
    asked_for = _balanced(documents(gold))
    given = read_answers(answers)
    said = {key: _processed(text, given.rows[key]) for key, text in given.texts.items()}
    right = {key: float(said.get(key) == question["answer"]) for key, question in asked_for.items()}
    types = {key: question["types"] for key, question in asked_for.items()}
    figures = {
        "accuracy": percent(right.values()),
        "binary": percent(value for key, value in right.items() if types[key]["structural"] != "query"),
        "open": percent(value for key, value in right.items() if types[key]["structural"] == "query"),
        "distribution": _distribution(asked_for, said),
        "by_structural": grouped((types[key]["structural"], value) for key, value in right.items()),
        "by_semantic": grouped((types[key]["semantic"], value) for key, value in right.items()),
        "by_steps": grouped((_steps(asked_for[key]), value) for key, value in right.items()),
        "by_words": grouped((len(asked_for[key]["question"].split()), value) for key, value in right.items()),
    }
    single = {key: 100 * value for key, value in right.items()}
    golds = {key: question["answer"] for key, question in asked_for.items()}
    marks = mark(given, single, golds) if per_question else None
    kept = single if per_question else None
    return result(len(right), figures, counts(asked_for, given), per_question=kept, marks=marks)


def _processed(text: str, row: Mapping[str, Any]) -> str:
    """LLaVA's post-processing; what is already in GQA's own prediction format is taken as it is."""
    return text if "questionId" in row else text.rstrip(".").lower()


def _distribution(asked_for: Mapping[str, dict[str, Any]], said: Mapping[str, str]) -> float | None:
    gold: dict[str, Counter[str]] = defaultdict(Counter)
    predicted: dict[str, Counter[str]] = defaultdict(Counter)
    for key, question in asked_for.items():
        group = question["groups"]["global"]
        if group is not None:
            gold[group][question["answer"]] += 1
            if key in said:
                predicted[group][said[key]] += 1
    total = sum(answers.total() for answers in gold.values())
    distances = (
        answers.total() * sum((predicted[group][text] - n) ** 2 / n for text, n in answers.items())
        for group, answers in gold.items()
    )
    return sum(distances) / total / 100 if total else None


def _steps(question: Mapping[str, Any]) -> int:
    steps = (f"{step['operation']}: {step['argument']}" for step in question["semantic"])
    return sum(not any(end in step for end in NO_STEP) for step in steps)


def _is_gold(value: Any) -> bool:
    first = next(iter(value.values()), None) if isinstance(value, dict) else None
    return isinstance(first, dict) and "imageId" in first and "types" in first


def _balanced(found: Sequence[Document]) -> dict[str, dict[str, Any]]:
    golds = find(found, _is_gold)
    if not golds:
        raise InputError(
            f"{named(found)}: no GQA questions: one JSON object of questions by id, with types and answers"
        )
    whole = unite((document, document.value) for document in golds)
    return {key: question for key, question in whole.items() if question.get("isBalanced", True)}


def _official_questions(found: Sequence[Document], media: Path | None) -> Iterator[Question]:
    for key, row in _balanced(found).items():
        yield asked(
            key, row["question"] + SHORT, row["imageId"] + ".jpg", media, kind=row["types"]["structural"]
        )


BENCHMARK = Benchmark(
    id="gqa", title="GQA", headline="accuracy", questions=questions, score=score, size=12_578
)
