"""VizWiz: questions of blind people about their photographs, scored as VQA with the VizWiz tool's
differences.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
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
from videollava.evaluate.benchmarks.tally import LISTED, counts, grouped, leave_one_out, mark, percent, result

__all__ = ["BENCHMARK", "UNANSWERABLE", "questions", "score", "submission"]

UNANSWERABLE = "\nWhen the provided information is insufficient, respond with 'Unanswerable'."


def questions(files: Sequence[Path], media: Path | None = None) -> Iterator[Question]:
    """Of LLaVA's question lines, or of the official annotations (ids are then the images' names)."""
    for question in llava_questions(files, media, raw=_official_questions, suffix=SHORT):
        image = Path(question.media[0]).name  # what an answer joins the gold by
        yield replace(question, fields={**question.fields, "image": image})


def score(
    gold: Sequence[Path], answers: Path | None, replies: Path | None = None, per_question: bool = False
) -> dict[str, Any]:
    """Accuracy overall and by answer type: the answer always normalised, the people's never.

    Answers are the upload, by image; or lines with a "text" by image, which are first put into the upload's
    form.
    """
    rows = {row["image"]: row for row in _people(documents(gold))}
    given = read_answers(answers, ids=("image", "question_id", "id"))
    scores = {}
    for key, row in rows.items():
        text = given.texts.get(key)
        if text is not None and "text" in given.rows[key]:
            text = normalise.m4c(text)
        said = [person["answer"] for person in row["answers"]]
        matches = 0 if text is None else said.count(normalise.vizwiz(text))
        scores[key] = leave_one_out(matches, len(said))
    figures = {
        "accuracy": percent(scores.values()),
        "by_answer_type": grouped((rows[key].get("answer_type", ""), value) for key, value in scores.items()),
    }
    single = {key: 100 * value for key, value in scores.items()}
    golds = {key: _commonest(row) for key, row in rows.items()}
    marks = mark(given, single, golds) if per_question else None
    kept = single if per_question else None
    return result(len(scores), figures, counts(rows, given), per_question=kept, marks=marks)


def submission(questions: Sequence[Path], answers: Path, out: Path) -> dict[str, int]:
    """The upload, by image and in M4C's form. The server refuses a missing image, so it is an InputError
    here.
    """
    given = read_answers(answers)
    found = documents(questions)
    lines = [row for document in llava_documents(found) for row in records(document)]
    rows = [(str(row["question_id"]), row["image"]) for row in lines] or [
        (row["image"], row["image"])
        for row in records(pick(found, "VizWiz questions", rows_with("image", "question")))
    ]
    missing = [key for key, _ in rows if key not in given.texts]
    if missing:
        raise InputError(
            f"{answers}: no answer to {len(missing)} of {len(rows)} questions: {missing[:LISTED]}"
        )
    upload = [{"image": image, "answer": normalise.m4c(given.texts[key])} for key, image in rows]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(upload))
    return {"written": len(upload), "missing": 0, "broken": len(given.malformed)}


def _commonest(row: dict[str, Any]) -> str:
    return Counter(str(person["answer"]) for person in row["answers"]).most_common(1)[0][0]


def _people(found: Sequence[Document]) -> list[dict[str, Any]]:
    document = pick(
        found, 'VizWiz annotations (a list with "image" and "answers")', rows_with("image", "answers")
    )
    rows = records(document)
    for number, row in enumerate(rows, 1):
        if not row.get("answers") or "image" not in row:
            raise InputError(f"{document.path}: record {number}: no 'image' or no 'answers'")
    return rows


def _official_questions(found: Sequence[Document], media: Path | None) -> Iterator[Question]:
    for row in records(pick(found, "VizWiz questions", rows_with("image", "question"))):
        yield asked(row["image"], row["question"] + UNANSWERABLE + SHORT, row["image"], media)


BENCHMARK = Benchmark(
    id="vizwiz",
    title="VizWiz",
    headline="accuracy",
    questions=questions,
    score=score,
    size=8_000,
    submission=submission,
    blank=True,
)
