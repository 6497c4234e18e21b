"""LLaVA-Bench in the wild: a judge rates our answer and GPT-4's; the figure is the ratio of the mean
ratings.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from videollava.errors import InputError
from videollava.evaluate.benchmarks.image_questions import llava_questions
from videollava.evaluate.benchmarks.interface import Benchmark, Question
from videollava.evaluate.benchmarks.reading import (
    Document,
    documents,
    find,
    parse,
    pick,
    read_answers,
    records,
    rows_with,
)
from videollava.evaluate.benchmarks.replies import is_lost, of_document
from videollava.evaluate.benchmarks.tally import counts, mark, result
from videollava.evaluate.judge_prompts import PAIR, UNREADABLE_PAIR, Ask, first_usable, read_pair

__all__ = ["BENCHMARK", "asks", "questions", "score"]

PREFIX = "llava_bench_"
Pair = tuple[float, float]  # the reference's rating, ours


def questions(files: Sequence[Path], media: Path | None = None) -> Iterator[Question]:
    """Of the benchmark's questions.jsonl; `kind` is conv, detail or complex."""
    return llava_questions(files, media)


def score(
    gold: Sequence[Path], answers: Path | None, replies: Path | None = None, per_question: bool = False
) -> dict[str, Any]:
    """`score`: our mean rating over the reference's, in percent, of all and by category.

    Replies are the official reviews ("tuple", or "content" to read it from), or a judge's in our form, for
    which the questions must be given. A review that cannot be read rates both -1, as officially, and is
    counted in `invalid`; `lost_to_form` of these could be read by a tolerant reader.
    """
    found = documents(gold)
    asked = {str(row["question_id"]): row["category"] for row in _question_rows(found)}
    judge, reviews, lost = _reviews(replies, asked)
    groups: dict[str, list[Pair]] = defaultdict(list)
    for _, category, pair in reviews:
        groups[category].append(pair)
    pairs = [pair for _, _, pair in reviews]
    figures = {
        "score": _ratio(pairs),
        "by_category": {category: _ratio(groups[category]) for category in sorted(groups)},
        "reference": sum(reference for reference, _ in pairs) / len(pairs),
        "ours": sum(ours for _, ours in pairs) / len(pairs),
        "lost_to_form": lost,
        "judge": judge,
    }
    reviewed = {key for key, _, _ in reviews}
    met: dict[str, Any] = {"missing": len(asked.keys() - reviewed), "extra": 0, "malformed": 0}
    met["duplicates"] = len(reviews) - len(reviewed)
    single = {key: pair[1] for key, _, pair in reviews}
    marks = None
    if answers is not None:
        given = read_answers(answers)
        met, marks = counts(asked or reviewed, given), mark(given, single)
    invalid = sum(pair == UNREADABLE_PAIR for pair in pairs)
    kept = single if per_question else None
    whole = result(len(pairs), figures, met, invalid=invalid, per_question=kept, marks=marks)
    if per_question:
        whole["per_question_reference"] = {key: pair[0] for key, _, pair in reviews}
    return whole


def asks(gold: Sequence[Path], answers: Path) -> list[Ask]:
    """What to ask a judge: needs the questions, their context (captions by image) and GPT-4's answers."""
    found = documents(gold)
    captions = {row["image"]: row["caption"] for row in records(pick(found, "context.jsonl", _is_context))}
    reference = pick(found, "GPT-4's answers (answers_gpt4.jsonl)", _is_reference)
    references = {str(row["question_id"]): row["text"] for row in records(reference)}
    given = read_answers(answers)
    listed = []
    for row in _question_rows(found):
        key = str(row["question_id"])
        if key not in given.texts:
            continue
        if row["image"] not in captions or key not in references:
            raise InputError(
                f"{reference.path}: question {key}: no caption of its image or no reference answer"
            )
        caption = captions[row["image"]]
        context = caption if isinstance(caption, str) else "\n".join(caption)
        listed.append(
            Ask(key, PAIR, row["text"], references[key], given.texts[key], more={"context": context})
        )
    return listed


_is_context = rows_with("image", "caption")
_is_question = rows_with("question_id", "image", "text", "category")


def _is_reference(value: Any) -> bool:
    return rows_with("question_id", "text")(value) and not rows_with("image")(value)


def _question_rows(found: Sequence[Document]) -> list[dict[str, Any]]:
    return [row for document in find(found, _is_question) for row in records(document)]


def _reviews(
    path: Path | None, asked: dict[str, str]
) -> tuple[dict[str, str], list[tuple[str, str, Pair]], int]:
    """The judge, each review's question, category and ratings, and how many were lost to their form."""
    if path is None:
        raise InputError("LLaVA-Bench is judged: give --judge-replies PATH (reviews, or a judge's replies)")
    document = parse(path)
    if rows_with("question_id", "content")(document.value) or rows_with("question_id", "tuple")(
        document.value
    ):
        rows = records(document)
        reviews = [
            (str(row["question_id"]), row.get("category", "all"), _pair(document, number, row))
            for number, row in enumerate(rows, 1)
        ]
        unread = (row for (_, _, pair), row in zip(reviews, rows, strict=True) if pair == UNREADABLE_PAIR)
        lost = sum(is_lost(PAIR, [row["content"]]) for row in unread if isinstance(row.get("content"), str))
        return dict(of_document(Document(path, {})).judge), reviews, lost
    replies = of_document(document)
    unknown = [key for key in replies.by_id if key not in asked]
    if unknown:
        raise InputError(
            f"{path}: reply to {unknown[0]!r}, which the questions do not have: give them with --gold"
        )
    reviews = []
    for key, attempts in replies.by_id.items():
        reply = first_usable(PAIR, attempts, replies.reader)
        reviews.append(
            (
                key,
                PREFIX + asked[key],
                UNREADABLE_PAIR if reply is None else read_pair(reply) or UNREADABLE_PAIR,
            )
        )
    if not reviews:
        raise InputError(f"{path}: no replies")
    return dict(replies.judge), reviews, replies.lost(PAIR, replies.by_id)


def _pair(document: Document, number: int, row: dict[str, Any]) -> Pair:
    if "tuple" not in row:
        return read_pair(row["content"]) or UNREADABLE_PAIR
    pair = row["tuple"]
    if not (
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(rating, int | float) for rating in pair)
    ):
        raise InputError(f"{document.path}: record {number}: 'tuple' is not two numbers: {pair!r}")
    return float(pair[0]), float(pair[1])


def _ratio(pairs: Sequence[Pair]) -> float | None:
    reference = sum(pair[0] for pair in pairs)
    return 100 * sum(pair[1] for pair in pairs) / reference if reference else None


BENCHMARK = Benchmark(
    id="llava-bench",
    title="LLaVA-Bench (in the wild)",
    headline="score",
    questions=questions,
    score=score,
    size=60,
    max_new_tokens=1024,
    asks=asks,
    blank=True,
)
