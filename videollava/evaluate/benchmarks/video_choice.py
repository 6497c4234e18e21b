"""Multiple choice about videos, for sets such as MVBench and Video-MME put into one format of ours.

A JSON list (or lines) of
    {"id", "video", "question", "options": ["..", ..], "answer": "B" | 1 | "the option's text", "kind"?: ".."}
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from videollava.errors import InputError
from videollava.evaluate.benchmarks.choice_words import read_choice
from videollava.evaluate.benchmarks.choices import lettered
from videollava.evaluate.benchmarks.image_questions import VIDEO, beside
from videollava.evaluate.benchmarks.interface import LETTER, Benchmark, Question
from videollava.evaluate.benchmarks.reading import Document, documents, pick, read_answers, records, rows_with
from videollava.evaluate.benchmarks.tally import counts, grouped, mark, percent, result

__all__ = ["BENCHMARK", "questions", "score"]


def questions(files: Sequence[Path], media: Path | None = None) -> Iterator[Question]:
    """The question, its options as lines A., B., .., and LLaVA's request for the letter."""
    for key, row in _rows(documents(files)).items():
        text = row["question"] + lettered(_options(row)) + LETTER
        path = beside(media, row["video"])
        yield Question(key, VIDEO + text, (path,), str(row.get("kind", "")), {"prompt": text})


def score(
    gold: Sequence[Path], answers: Path | None, replies: Path | None = None, per_question: bool = False
) -> dict[str, Any]:
    """`accuracy` of all and by kind. No official rule says how an answer is read: by its label or its option's
    text, in words or sentences (`read_choice`). `invalid`: answers that name no option, or several; they are wrong.
    """
    rows = _rows(documents(gold))
    given = read_answers(answers)
    chosen = {
        key: read_choice(given.texts[key], _options(row)) for key, row in rows.items() if key in given.texts
    }
    right = {key: float(chosen.get(key) == row["letter"]) for key, row in rows.items()}
    figures = {
        "accuracy": percent(right.values()),
        "by_kind": grouped((str(rows[key].get("kind", "")), value) for key, value in right.items()),
    }
    invalid = sum(choice is None for choice in chosen.values())
    single = {key: 100 * value for key, value in right.items()} if per_question else None
    marks = mark(given, single, {key: row["letter"] for key, row in rows.items()}) if single else None
    met = counts(rows, given)
    return result(len(right), figures, met, invalid=invalid, per_question=single, marks=marks)


def _options(row: Mapping[str, Any]) -> dict[str, str]:
    return dict(zip(ascii_uppercase, row["options"], strict=False))


def _bare_options(row: Mapping[str, Any], where: str) -> list[str]:
    """The options' texts, without the letters that some sets write before them ("A. a dog")."""
    texts = [str(option).strip() for option in row["options"]]
    if not 2 <= len(texts) <= len(ascii_uppercase):
        raise InputError(f"{where}: {len(texts)} options; give 2 to {len(ascii_uppercase)}")
    led = [
        re.match(rf"\(?{letter}[.):]\s*(?=\S)", text)
        for letter, text in zip(ascii_uppercase, texts, strict=False)
    ]
    return (
        [text[found.end() :] for found, text in zip(led, texts, strict=True) if found] if all(led) else texts
    )


def _rows(found: Sequence[Document]) -> dict[str, dict[str, Any]]:
    document = pick(
        found, "video choices (id, video, question, options, answer)", rows_with("video", "options")
    )
    rows: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(records(document), 1):
        wanting = [key for key in ("id", "video", "question", "options", "answer") if key not in row]
        if wanting:
            raise InputError(f"{document.path}: record {number}: no {', '.join(wanting)}")
        key = str(row["id"])
        if key in rows:
            raise InputError(f"{document.path}: record {number}: id {key!r} is there already")
        given = row["options"]
        row = row | {"options": _bare_options(row, f"{document.path}: record {number}")}
        letter = _letter(row["answer"], row["options"], given)
        if letter is None:
            raise InputError(
                f"{document.path}: record {number}: answer {row['answer']!r} is none of its options"
            )
        rows[key] = row | {"letter": letter}
    return rows


def _letter(answer: object, options: Sequence[str], given: Sequence[object]) -> str | None:
    letters = ascii_uppercase[: len(options)]
    if isinstance(answer, int) and not isinstance(answer, bool):
        return letters[answer] if 0 <= answer < len(letters) else None
    for texts in (given, options):
        if answer in texts:
            return letters[list(texts).index(answer)]
    bare = str(answer).strip(" ().:").upper()
    return bare if len(bare) == 1 and bare in letters else None


BENCHMARK = Benchmark(
    id="video-choice",
    title="Multiple choice about videos",
    headline="accuracy",
    questions=questions,
    score=score,
    media="video",
)
