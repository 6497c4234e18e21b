"""TextVQA: questions about text in pictures, with OCR tokens as a hint; M4C's soft accuracy."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from videollava.errors import InputError
from videollava.evaluate import normalise
from videollava.evaluate.benchmarks.image_questions import asked, llava_documents
from videollava.evaluate.benchmarks.interface import SHORT, Benchmark, Question
from videollava.evaluate.benchmarks.reading import (
    Document,
    documents,
    find,
    pick,
    read_answers,
    records,
    rows_with,
)
from videollava.evaluate.benchmarks.tally import counts, leave_one_out, mark, percent, result

__all__ = ["BENCHMARK", "question_of", "questions", "score"]

PEOPLE = 10
HINT = "Reference OCR token: "
FULL_FORM = re.compile(r"Question: (.*?) Short answer:", re.DOTALL)


def questions(files: Sequence[Path], media: Path | None = None) -> Iterator[Question]:
    """Of LLaVA's lines, OCR tokens included; or of the official questions, with OCR tokens where their file
    ({"data": [{"image_id", "ocr_tokens"}]}) is given.

    LLaVA's ids are the images', which several questions share: here a number is added.
    """
    found = documents(files)
    own = llava_documents(found)
    if not own:
        yield from _official_questions(found, media)
        return
    seen: Counter[str] = Counter()
    for row in (row for document in own for row in records(document)):
        image = str(row["question_id"])
        key = f"{image}/{seen[image]}"
        seen[image] += 1
        yield asked(key, row["text"], row["image"], media, fields={"image_id": image})


def score(
    gold: Sequence[Path], answers: Path | None, replies: Path | None = None, per_question: bool = False
) -> dict[str, Any]:
    """Accuracy; answers are joined to the gold by image and by the question in their prompt."""
    people = _people(documents(gold))
    given = read_answers(answers, join=_joined)
    scores = {}
    for key, row in people.items():
        said = [normalise.m4c(text) for text in row["answers"]]
        text = given.texts.get(key)
        scores[key] = 0.0 if text is None else leave_one_out(said.count(normalise.m4c(text)), PEOPLE)
    met = counts(people, given)
    if "missing_ids" in met:
        met["missing_ids"] = [people[key]["question_id"] for key in met["missing_ids"]]
    single = {str(people[key]["question_id"]): 100 * value for key, value in scores.items()}
    figures = {"accuracy": percent(scores.values())}
    if not per_question:
        return result(len(scores), figures, met)
    golds = {key: Counter(row["answers"]).most_common(1)[0][0] for key, row in people.items()}
    marks = mark(given, {key: 100 * value for key, value in scores.items()}, golds)
    return result(len(scores), figures, met, per_question=single, marks=marks)


def question_of(prompt: str) -> str | None:
    """The question in a prompt, in LLaVA's three forms of one; None where it is none of them."""
    lines = prompt.split("\n")
    if prompt.startswith("OCR tokens: "):
        whole = FULL_FORM.search(prompt)
        return whole.group(1).lower() if whole else None
    if HINT in prompt and len(lines) == 3:
        return lines[1 if prompt.startswith(HINT.rstrip()) else 0].lower()
    return lines[0].lower() if len(lines) == 2 else None


def _joined(row: Mapping[str, Any]) -> str | None:
    image = row.get("image_id", row.get("question_id"))
    question = question_of(row["prompt"]) if isinstance(row.get("prompt"), str) else None
    return None if image is None or question is None else _key(image, question)


def _key(image: object, question: str) -> str:
    return f"{image}\n{question}"


def _is_data(*keys: str) -> Any:
    fits = rows_with(*keys)
    return lambda value: isinstance(value, dict) and fits(value.get("data"))


def _people(found: Sequence[Document]) -> dict[str, dict[str, Any]]:
    document = pick(found, "TextVQA's answers", _is_data("question", "image_id", "question_id", "answers"))
    people = {}
    for number, row in enumerate(document.value["data"], 1):
        if len(row.get("answers", ())) != PEOPLE:
            raise InputError(f"{document.path}: record {number}: {PEOPLE} answers wanted")
        people[_key(row["image_id"], row["question"].lower())] = row
    return people


def _official_questions(found: Sequence[Document], media: Path | None) -> Iterator[Question]:
    document = pick(found, "TextVQA's questions", _is_data("question", "image_id", "question_id"))
    tokens = {
        row["image_id"]: row["ocr_tokens"]
        for ocr in find(found, _is_data("image_id", "ocr_tokens"))
        for row in ocr.value["data"]
    }
    for row in document.value["data"]:
        hint = f"\n{HINT}{', '.join(tokens[row['image_id']])}" if row["image_id"] in tokens else ""
        text = row["question"].capitalize() + hint + SHORT
        fields = {"image_id": row["image_id"]}
        yield asked(row["question_id"], text, f"{row['image_id']}.jpg", media, fields=fields)


BENCHMARK = Benchmark(
    id="textvqa", title="TextVQA", headline="accuracy", questions=questions, score=score, size=5_000
)
