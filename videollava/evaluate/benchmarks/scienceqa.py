"""ScienceQA: multiple choice with and without a picture; the paper's figure is over those with one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from videollava.errors import InputError
from videollava.evaluate.benchmarks.choice_words import read_choice
from videollava.evaluate.benchmarks.image_questions import IMAGE, beside
from videollava.evaluate.benchmarks.interface import LETTER, Benchmark, Question
from videollava.evaluate.benchmarks.reading import Document, documents, pick, read_answers, records, rows_with
from videollava.evaluate.benchmarks.tally import counts, mark, percent, read_otherwise, result

__all__ = ["BENCHMARK", "parse_letter", "questions", "score"]

LETTERS = "ABCDE"
SPLIT = "test"
SENTENCE = re.compile(r"The answer is ([A-Z]).")  # any character may follow, but one must


def questions(files: Sequence[Path], media: Path | None = None) -> Iterator[Question]:
    """Of LLaVA's llava_test_CQM-A.json; `kind` is "image" or "text"."""
    document = pick(documents(files), "ScienceQA questions in LLaVA's form", rows_with("id", "conversations"))
    for row in records(document):
        text = row["conversations"][0]["value"].replace("<image>", "").strip() + LETTER
        image = row.get("image")
        prompt = IMAGE + text if image else text
        paths = (beside(media, image),) if image else ()
        yield Question(str(row["id"]), prompt, paths, "image" if image else "text", {"prompt": prompt})


def score(
    gold: Sequence[Path], answers: Path | None, replies: Path | None = None, per_question: bool = False
) -> dict[str, Any]:
    """`accuracy` over the split (missing answers are wrong), `image_accuracy` over answers whose prompt has
    the image's mark. `invalid`: no letter of the question's options in the answer by the official rule;
    `read_otherwise`: answers whose words name an option that this rule does not read.
    """
    problems = _problems(documents(gold))
    given = read_answers(answers)
    right, with_image, invalid, readings = {}, {}, 0, []
    for key, problem in problems.items():
        text = given.texts.get(key)
        letter = None if text is None else parse_letter(text)
        options = LETTERS[: len(problem["choices"])]
        invalid += text is not None and (letter is None or letter not in options)
        right[key] = float(
            letter is not None and letter in options and options.index(letter) == problem["answer"]
        )
        if text is not None:
            plain = read_choice(text, dict(zip(LETTERS, map(str, problem["choices"]), strict=False)))
            readings.append((letter, plain, LETTERS[problem["answer"]]))
        if text is not None and "<image>" in str(given.rows[key].get("prompt", "")):
            with_image[key] = right[key]
    figures = {
        "accuracy": percent(right.values()),
        "image_accuracy": percent(with_image.values()),
        "image_n": len(with_image),
        **read_otherwise(readings),
    }
    met = counts(problems, given)
    if not per_question:
        return result(len(right), figures, met, invalid=invalid)
    single = {key: 100 * value for key, value in right.items()}
    golds = {key: LETTERS[problem["answer"]] for key, problem in problems.items()}
    marks = mark(given, single, golds)
    return result(len(right), figures, met, invalid=invalid, per_question=single, marks=marks)


def parse_letter(text: str) -> str | None:
    """The letter an answer chooses: it alone, or at the start before ". ", or in "The answer is X." found
    once.
    """
    if text in tuple(LETTERS):
        return text
    if len(text) >= 3 and text[0] in LETTERS and text[1:3] == ". ":
        return text[0]
    found = SENTENCE.findall(text)
    return found[0] if len(found) == 1 else None


def _problems(found: Sequence[Document]) -> dict[str, dict[str, Any]]:
    problems = pick(found, "ScienceQA problems (by id, with choices and answer)", _is_problems)
    splits = pick(found, "ScienceQA splits (lists of ids)", _is_splits)
    ids = splits.value.get(SPLIT)
    if ids is None:
        raise InputError(f"{splits.path}: no {SPLIT!r} split, only {', '.join(splits.value)}")
    unknown = [key for key in ids if key not in problems.value]
    if unknown:
        raise InputError(f"{problems.path}: no problem {unknown[0]!r}, which {splits.path} lists")
    return {key: problems.value[key] for key in ids}


def _is_problems(value: Any) -> bool:
    first = next(iter(value.values()), None) if isinstance(value, dict) else None
    return isinstance(first, dict) and "choices" in first and "answer" in first


def _is_splits(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(ids, list) for ids in value.values())


BENCHMARK = Benchmark(
    id="scienceqa",
    title="ScienceQA-IMG",
    headline="image_accuracy",
    questions=questions,
    score=score,
    size=4_241,
    aspect="crop",
    blank=True,
)
