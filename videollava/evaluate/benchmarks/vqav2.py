"""VQAv2: open answers scored by agreement with ten people, as the official evaluation tool does."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from videollava.errors import InputError
from videollava.evaluate import normalise
from videollava.evaluate.benchmarks.image_questions import asked, llava_documents, llava_questions
from videollava.evaluate.benchmarks.interface import SHORT, Benchmark, Question
from videollava.evaluate.benchmarks.reading import (
    Document,
    documents,
    pick,
    read_answers,
    records,
    rows_with,
)
from videollava.evaluate.benchmarks.tally import counts, grouped, leave_one_out, mark, percent, result

__all__ = ["BENCHMARK", "questions", "score", "submission"]


def questions(files: Sequence[Path], media: Path | None = None) -> Iterator[Question]:
    """Of LLaVA's question lines, or of the official questions file."""
    return llava_questions(files, media, raw=_official_questions, suffix=SHORT)


def score(
    gold: Sequence[Path], answers: Path | None, replies: Path | None = None, per_question: bool = False
) -> dict[str, Any]:
    """Accuracy overall, by answer type and by question type.

    Answers are the upload, whose text is taken as it is, or LLaVA's lines, which are first put into the
    upload's form.
    """
    document = pick(documents(gold), 'VQA annotations ({"annotations": [..]})', _is_annotations)
    people = {str(row["question_id"]): row for row in _annotations(document)}
    given = read_answers(answers)
    scores = {
        key: _accuracy(row, _uploaded(given.rows.get(key), given.texts.get(key)))
        for key, row in people.items()
    }
    figures = {
        "accuracy": percent(scores.values()),
        "by_answer_type": grouped((people[key]["answer_type"], value) for key, value in scores.items()),
        "by_question_type": grouped((people[key]["question_type"], value) for key, value in scores.items()),
    }
    single = {key: 100 * value for key, value in scores.items()}
    golds = {key: row.get("multiple_choice_answer", "") for key, row in people.items()}
    marks = mark(given, single, golds) if per_question else None
    kept = single if per_question else None
    return result(len(scores), figures, counts(people, given), per_question=kept, marks=marks)


def submission(questions: Sequence[Path], answers: Path, out: Path) -> dict[str, int]:
    """The upload: every question's id with its answer in M4C's form, "" where it is missing or its line
    broken.
    """
    asked_for = [str(row["question_id"]) for row in _question_rows(documents(questions))]
    given = read_answers(answers)
    rows = [
        {"question_id": int(key) if key.isdigit() else key, "answer": normalise.m4c(given.texts.get(key, ""))}
        for key in asked_for
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(rows))
    missing = sum(key not in given.texts for key in asked_for)
    return {"written": len(rows), "missing": missing, "broken": len(given.malformed)}


def _uploaded(row: dict[str, Any] | None, text: str | None) -> str | None:
    return normalise.m4c(text) if row is not None and text is not None and "text" in row else text


def _accuracy(row: dict[str, Any], answer: str | None) -> float:
    """0-1. Neither the answer nor the people's answers are normalised where all people said the same."""
    if answer is None:
        return 0.0
    said = [_flat(person["answer"]) for person in row["answers"]]
    answer = _flat(answer)
    if len(set(said)) > 1:
        answer, said = normalise.vqa(answer), [normalise.vqa(text) for text in said]
    given = row["answers"]
    if len({person.get("answer_id") for person in given}) == len(given):
        return leave_one_out(said.count(answer), len(said))
    # The tool leaves out by equality, so people without an id of their own who agree leave together.
    people = [{**person, "answer": text} for person, text in zip(given, said, strict=True)]
    sets = [[other["answer"] for other in people if other != person] for person in people]
    return sum(min(1.0, others.count(answer) / 3) for others in sets) / len(sets)


def _flat(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _is_annotations(value: Any) -> bool:
    return isinstance(value, dict) and "annotations" in value


def _annotations(document: Document) -> list[dict[str, Any]]:
    rows = document.value["annotations"]
    for number, row in enumerate(rows, 1):
        for key in ("question_id", "question_type", "answer_type", "answers"):
            if key not in row:
                raise InputError(f"{document.path}: annotation {number}: no {key!r}")
        if not row["answers"] or not all(isinstance(said.get("answer"), str) for said in row["answers"]):
            raise InputError(f"{document.path}: annotation {number}: its answers are not people's texts")
    return list(rows)


def _question_rows(found: Sequence[Document]) -> list[dict[str, Any]]:
    own = llava_documents(found)
    if own:
        return [row for document in own for row in records(document)]
    return list(pick(found, 'VQA questions ({"questions": [..]})', _is_questions).value["questions"])


def _is_questions(value: Any) -> bool:
    return isinstance(value, dict) and rows_with("question_id", "question", "image_id")(
        value.get("questions")
    )


def _official_questions(found: Sequence[Document], media: Path | None) -> Iterator[Question]:
    document = pick(found, 'VQA questions ({"questions": [..]})', _is_questions)
    subset = document.value.get("data_subtype", "test2015")
    for row in document.value["questions"]:
        image = row["image_id"]
        name = f"COCO_{subset}_{image:012d}.jpg" if isinstance(image, int) else f"{image}.jpg"
        yield asked(row["question_id"], row["question"] + SHORT, name, media)


BENCHMARK = Benchmark(
    id="vqav2",
    title="VQAv2",
    headline="accuracy",
    questions=questions,
    score=score,
    size=107_394,
    submission=submission,
)
