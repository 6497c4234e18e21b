"""MSVD-QA, MSRVTT-QA, TGIF-QA (frames) and ActivityNet-QA: open answers about videos, matched by a judge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    pick,
    read_answers,
    records,
    rows_with,
    unite,
)
from videollava.evaluate.benchmarks.replies import read_replies
from videollava.evaluate.benchmarks.tally import counts, mark, result
from videollava.evaluate.judge_prompts import MATCH, Ask, Verdict, read_literal, read_verdict

__all__ = ["BENCHMARKS", "asks", "questions", "score", "video_file"]

SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".gif")


def questions(files: Sequence[Path], media: Path | None = None, *, prefix: str = "") -> Iterator[Question]:
    """Of test_q.json, with answers of test_a.json where given; `prefix` stands before a video's name in its
    file's.
    """
    found = documents(files)
    rows = records(pick(found, "video questions (video_name, question_id, question)", _is_questions))
    golds = _golds(found)
    for row in rows:
        key = str(row["question_id"])
        gold = golds.get(key, {})
        fields = {"id": key, "question": row["question"]} | ({"answer": gold["answer"]} if gold else {})
        path = video_file(media, prefix + row["video_name"])
        yield Question(key, VIDEO + row["question"], (path,), str(gold.get("type", "")), fields)


def video_file(media: Path | None, name: str) -> str:
    """The video's file in the media folder, whichever suffix it has; `.mp4` where it is not there."""
    if media is None:
        return name + SUFFIXES[0]
    there = (media / (name + suffix) for suffix in SUFFIXES)
    return str(next((path for path in there if path.is_file()), media / (name + SUFFIXES[0])))


def score(
    gold: Sequence[Path], answers: Path | None, replies: Path | None = None, per_question: bool = False
) -> dict[str, Any]:
    """`accuracy` in percent and `score` 0-5 of the judged answers, under the official averaging.

    accuracy = yes / (yes + no); score = sum of whole scores / rows. `n` is the rows: answers to questions
    of the gold that have a reply. A row whose replies cannot be read at all (`invalid`) or hold no score
    (`unscored`) adds 0 and stays; one that says neither yes nor no (`undecided`) leaves the accuracy.
    Missing answers are no rows. `lost_to_form`: rows that a tolerant reader of replies reads and the official one
    does not, or not wholly.
    """
    judged = read_replies(replies)
    given = read_answers(answers)
    golds = _golds(documents(gold))
    keys = [key for key in given.texts if not golds or key in golds]
    rows = [key for key in keys if key in judged.by_id]
    if not rows:
        raise InputError(f"{judged.path}: no reply for any answer of {given.path}")
    usable = {key: judged.usable(MATCH, key) for key in rows}
    verdicts = {key: _verdict(reply) for key, reply in usable.items()}
    yes = sum(verdict.match is True for verdict in verdicts.values())
    no = sum(verdict.match is False for verdict in verdicts.values())
    figures: dict[str, Any] = {
        "accuracy": 100 * yes / (yes + no) if yes + no else None,
        "score": sum(verdict.score or 0 for verdict in verdicts.values()) / len(rows),
        "yes": yes,
        "no": no,
        "undecided": len(rows) - yes - no,
        "unscored": sum(verdict.score is None for verdict in verdicts.values()),
        "unjudged": len(keys) - len(rows),
        "lost_to_form": judged.lost(MATCH, rows),
        "judge": dict(judged.judge),
    }
    figures.update(_by_type(golds, verdicts))
    single = {key: None if v.match is None else 100.0 * v.match for key, v in verdicts.items()}
    whole = result(
        len(rows),
        figures,
        counts(golds or keys, given),
        invalid=sum(reply is None for reply in usable.values()),
        per_question=single if per_question else None,
        marks=mark(given, single, {key: row["answer"] for key, row in golds.items()}),
    )
    if per_question:
        whole["per_question_score"] = {key: verdict.score or 0 for key, verdict in verdicts.items()}
    return whole


def asks(gold: Sequence[Path], answers: Path) -> list[Ask]:
    """What to ask a judge: the gold's answers, joined by id, against ours."""
    found = documents(gold)
    asked = unite(
        (document, {str(row["question_id"]): row["question"] for row in records(document)})
        for document in find(found, _is_questions)
    )
    golds = _golds(found)
    wanting = sorted(golds.keys() - asked.keys())
    if not golds or wanting:
        raise InputError(f"{answers}: no question and answer in the gold files for {wanting[:3] or 'any id'}")
    given = read_answers(answers)
    return [
        Ask(key, MATCH, asked[key], str(golds[key]["answer"]), text)
        for key, text in given.texts.items()
        if key in golds
    ]


def _verdict(reply: str | None) -> Verdict:
    value = None if reply is None else read_literal(reply)
    return Verdict(None, None) if value is None else read_verdict(value[0])


def _by_type(golds: dict[str, dict[str, Any]], verdicts: dict[str, Verdict]) -> dict[str, Any]:
    types: dict[str, list[bool]] = {}
    for key, verdict in verdicts.items():
        kind = golds.get(key, {}).get("type")
        if kind is not None and verdict.match is not None:
            types.setdefault(str(kind), []).append(verdict.match)
    return (
        {"by_type": {kind: 100 * sum(types[kind]) / len(types[kind]) for kind in sorted(types)}}
        if types
        else {}
    )


_is_questions = rows_with("question_id", "question", "video_name")


def _golds(found: Sequence[Document]) -> dict[str, dict[str, Any]]:
    """Answers by id: the lists with an answer and no video."""
    lists = [d for d in find(found, rows_with("question_id", "answer")) if not _is_questions(d.value)]
    golds: dict[str, dict[str, Any]] = {}
    for document in lists:
        for number, row in enumerate(records(document), 1):
            key = str(row.get("question_id"))
            if "answer" not in row or golds.get(key, row) != row:
                raise InputError(
                    f"{document.path}: record {number}: {key!r} has no answer, or two different ones"
                )
            golds[key] = row
    return golds


def _benchmark(key: str, title: str, size: int, prefix: str = "") -> Benchmark:
    asked = partial(questions, prefix=prefix) if prefix else questions
    return Benchmark(key, title, "accuracy", asked, score, media="video", size=size, asks=asks, blank=True)


BENCHMARKS = (
    _benchmark("msvd", "MSVD-QA", 13_157),
    _benchmark("msrvtt", "MSRVTT-QA", 72_821),
    _benchmark("tgif", "TGIF-QA", 13_691),
    _benchmark("activitynet", "ActivityNet-QA", 8_000, prefix="v_"),
)
