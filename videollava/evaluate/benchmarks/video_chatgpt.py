"""Video-ChatGPT's five scores: a judge gives 0-5 for correctness, detail, context, temporal order,
consistency.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from videollava.errors import InputError
from videollava.evaluate.benchmarks.image_questions import VIDEO
from videollava.evaluate.benchmarks.interface import Benchmark, Question
from videollava.evaluate.benchmarks.reading import (
    Document,
    documents,
    find,
    parse,
    read_answers,
    records,
)
from videollava.evaluate.benchmarks.replies import read_replies
from videollava.evaluate.benchmarks.tally import LISTED, Marks, result
from videollava.evaluate.benchmarks.video_qa import video_file
from videollava.evaluate.judge_prompts import (
    CONSISTENCY,
    CONTEXT,
    CORRECTNESS,
    DETAIL,
    TEMPORAL,
    Ask,
    Prompt,
    read_literal,
    whole_score,
)

__all__ = ["BENCHMARKS", "asks", "questions", "score"]

Row = dict[str, Any]
SECOND = "#2"  # behind the key: the second wording of a consistency question


def questions(files: Sequence[Path], media: Path | None = None) -> Iterator[Question]:
    """Of the benchmark's lists. A consistency question is two: `<key>` and `<key>#2`."""
    for key, row in _keyed(documents(files)).items():
        path = (video_file(media, row["video_name"]),)
        for mark, text in (("", row["Q1"]), (SECOND, row["Q2"])) if "Q1" in row else (("", row["Q"]),):
            fields = {"question": text, "answer": row["A"]}
            yield Question(key + mark, VIDEO + text, path, "", fields)


def score(
    gold: Sequence[Path],
    answers: Path | None,
    replies: Path | None = None,
    per_question: bool = False,
    *,
    prompt: Prompt,
) -> dict[str, Any]:
    """`score` 0-5, the mean of `int(score)` over judged answers; a reply that holds none adds 0
    (`invalid`). `lost_to_form`: those that a tolerant reader of replies reads.

    Answers are the official list ("pred", or "pred1" and "pred2", beside the question), or lines by our
    ids, for which the gold is needed.
    """
    rows, met = _answered(gold, answers)
    judged = read_replies(replies)
    keys = [key for key in rows if key in judged.by_id]
    if not keys:
        raise InputError(f"{judged.path}: no reply for any answer of {answers}")
    scores = {key: _score(judged.usable(prompt, key)) for key in keys}
    figures = {
        "score": sum(value or 0 for value in scores.values()) / len(keys),
        "unjudged": len(rows) - len(keys),
        "lost_to_form": judged.lost(prompt, keys),
        "judge": dict(judged.judge),
    }
    invalid = sum(value is None for value in scores.values())
    single = {key: value or 0 for key, value in scores.items()}
    # Both wordings of a consistency question have the one score of their pair.
    marks: Marks = {
        key + mark: (value, str(rows[key]["A"])) for key, value in single.items() for mark in ("", SECOND)
    }
    kept = single if per_question else None
    return result(len(keys), figures, met, invalid=invalid, per_question=kept, marks=marks)


def asks(gold: Sequence[Path], answers: Path, *, prompt: Prompt) -> list[Ask]:
    """What to ask a judge; both wordings of a consistency question, where the original sends the first
    twice.
    """
    rows, _ = _answered(gold, answers)
    listed = []
    for key, row in rows.items():
        if prompt is CONSISTENCY:
            more = {"second_question": row["Q2"], "second_prediction": row["pred2"]}
            listed.append(Ask(key, prompt, row["Q1"], row["A"], row["pred1"], more=more))
        else:
            listed.append(Ask(key, prompt, row["Q"], row["A"], row["pred"]))
    return listed


def _score(reply: str | None) -> int | None:
    value = None if reply is None else read_literal(reply)
    return None if value is None else whole_score(value[0])


def _keyed(found: Sequence[Document]) -> dict[str, Row]:
    """Rows by `<video>_<k>`, k counting the rows of one video in order."""
    seen: Counter[str] = Counter()
    rows = {}
    for document in find(found, _is_list):
        for number, row in enumerate(records(document), 1):
            if (
                "video_name" not in row
                or "A" not in row
                or not ({"Q"} <= row.keys() or {"Q1", "Q2"} <= row.keys())
            ):
                raise InputError(f"{document.path}: record {number}: want video_name, A, and Q or Q1 and Q2")
            name = row["video_name"]
            rows[f"{name}_{seen[name]}"] = row
            seen[name] += 1
    return rows


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and "video_name" in value[0]


def _answered(gold: Sequence[Path], answers: Path | None) -> tuple[dict[str, Row], dict[str, Any]]:
    """Rows with their predictions, and how they meet the gold."""
    if answers is None:
        raise InputError("no answers: give --answers PATH")
    golds = _keyed(documents(gold))
    document = parse(answers, lenient=True)
    if _is_list(document.value):
        rows = {
            key: row for key, row in _keyed([document]).items() if {"pred"} <= row.keys() or "pred1" in row
        }
        duplicates, broken = 0, 0
    elif golds:
        given = read_answers(answers)
        rows = dict(_joined(golds, given.texts))
        duplicates, broken = given.duplicates, len(given.malformed)
    else:
        raise InputError(f"{answers}: answers by id need the benchmark's list: give --gold PATH")
    missing = [key for key in golds if key not in rows]
    met: dict[str, Any] = {
        "missing": len(missing),
        "extra": len(rows.keys() - golds.keys()) if golds else 0,
        "duplicates": duplicates,
        "malformed": broken,
    }
    return rows, met | ({"missing_ids": missing[:LISTED]} if missing else {})


def _joined(golds: Mapping[str, Row], texts: Mapping[str, str]) -> Iterator[tuple[str, Row]]:
    for key, row in golds.items():
        if "Q1" in row and key in texts and key + SECOND in texts:
            yield key, row | {"pred1": texts[key], "pred2": texts[key + SECOND]}
        elif "Q1" not in row and key in texts:
            yield key, row | {"pred": texts[key]}


def _benchmark(prompt: Prompt, size: int) -> Benchmark:
    return Benchmark(
        id=f"video-chatgpt-{prompt.name}",
        title=f"Video-ChatGPT {prompt.name}",
        headline="score",
        questions=questions,
        score=partial(score, prompt=prompt),
        media="video",
        size=size,
        max_new_tokens=1024,
        asks=partial(asks, prompt=prompt),
        blank=True,
    )


BENCHMARKS = (
    _benchmark(CORRECTNESS, 1_996),
    _benchmark(DETAIL, 1_996),
    _benchmark(CONTEXT, 1_996),
    _benchmark(TEMPORAL, 499),
    _benchmark(CONSISTENCY, 499),
)
