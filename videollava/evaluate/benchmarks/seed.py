"""SEED-Bench: multiple choice by the letter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from videollava.errors import InputError
from videollava.evaluate.benchmarks.choice_words import read_choice
from videollava.evaluate.benchmarks.choices import lettered
from videollava.evaluate.benchmarks.image_questions import IMAGE, VIDEO, beside, llava_questions
from videollava.evaluate.benchmarks.interface import LETTER, Benchmark, Question
from videollava.evaluate.benchmarks.reading import (
    Document,
    documents,
    find,
    pick,
    read_answers,
    rows_with,
    unite,
)
from videollava.evaluate.benchmarks.tally import counts, grouped, mark, percent, read_otherwise, result

__all__ = ["BENCHMARK", "questions", "score"]

LETTERS = "ABCD"


def questions(files: Sequence[Path], media: Path | None = None) -> Iterator[Question]:
    """Of LLaVA's question lines, or of SEED-Bench.json."""
    return llava_questions(files, media, raw=_official_questions, suffix=LETTER)


def score(
    gold: Sequence[Path], answers: Path | None, replies: Path | None = None, per_question: bool = False
) -> dict[str, Any]:
    """`accuracy`: the answer is the gold's letter, exactly. By type and by images and videos where the gold
    says.

    Gold is SEED-Bench.json, or letters by id. `invalid`: an answer that is no letter of A-D;
    `read_otherwise`: one whose words name another option than its letter, or an option without being one.
    """
    rows, names = _golds(documents(gold))
    given = read_answers(answers)
    right = {key: float(given.texts.get(key) == row["answer"]) for key, row in rows.items()}
    figures: dict[str, Any] = {"accuracy": percent(right.values())}
    for field, name in (("question_type_id", "by_type"), ("data_type", "by_data")):
        if all(field in row for row in rows.values()):
            figures[name] = grouped(
                (names.get(rows[key][field], rows[key][field]), v) for key, v in right.items()
            )
    invalid = sum(key in given.texts and given.texts[key] not in tuple(LETTERS) for key in rows)
    readings = (
        (given.texts[key], read_choice(given.texts[key], _options(row)), row["answer"])
        for key, row in rows.items()
        if key in given.texts
    )
    figures |= read_otherwise(readings)
    single = {key: 100 * value for key, value in right.items()} if per_question else None
    marks = mark(given, single, {key: row["answer"] for key, row in rows.items()}) if single else None
    return result(len(right), figures, counts(rows, given), invalid=invalid, per_question=single, marks=marks)


def _options(row: Mapping[str, Any]) -> dict[str, str]:
    return {letter: str(row.get(f"choice_{letter.lower()}", "")) for letter in LETTERS}


def _golds(found: Sequence[Document]) -> tuple[dict[str, dict[str, Any]], Mapping[Any, str]]:
    whole = find(found, _is_benchmark)
    if whole:
        types = unite((document, document.value.get("question_type", {})) for document in whole)
        rows = unite((d, {str(row["question_id"]): row for row in d.value["questions"]}) for d in whole)
        return rows, {number: name for name, number in types.items()}
    letters = pick(found, "SEED-Bench answers (letters by id, or SEED-Bench.json)", _is_letters)
    bad = next((key for key, letter in letters.value.items() if letter not in tuple(LETTERS)), None)
    if bad is not None:
        raise InputError(f"{letters.path}: {bad!r}: {letters.value[bad]!r} is no letter of {LETTERS}")
    return {key: {"answer": letter} for key, letter in letters.value.items()}, {}


def _is_benchmark(value: Any) -> bool:
    return isinstance(value, dict) and rows_with("question_id", "answer", "choice_a")(value.get("questions"))


def _is_letters(value: Any) -> bool:
    return (
        isinstance(value, dict) and bool(value) and all(isinstance(letter, str) for letter in value.values())
    )


def _official_questions(found: Sequence[Document], media: Path | None) -> Iterator[Question]:
    for row in pick(found, "SEED-Bench.json", _is_benchmark).value["questions"]:
        options = {letter: row[f"choice_{letter.lower()}"] for letter in LETTERS}
        text = row["question"] + lettered(options) + LETTER
        mark = IMAGE if row.get("data_type", "image") == "image" else VIDEO
        path = beside(media, str(row["data_id"]))
        yield Question(
            str(row["question_id"]), mark + text, (path,), str(row["question_type_id"]), {"prompt": text}
        )


BENCHMARK = Benchmark(
    id="seed", title="SEED-Bench", headline="accuracy", questions=questions, score=score, size=19_242
)
