"""From answers to figures: the answers file, the judge where the benchmark has one, the score, a row a question.

In an evaluation's folder:
    answers/<id>[.blind].jsonl      the benchmark's own format
    judge/[blind/]<id>.replies.json what the judge said
    predictions/<id>[.blind].jsonl  a row a question, see `results`
    submissions/<id>.json or .xlsx  what the official server takes
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videollava.evaluate.answers import Given, write_answers, write_lines
from videollava.evaluate.benchmarks.reading import Absent
from videollava.evaluate.benchmarks.tally import Marks, mean
from videollava.evaluate.identity import hash_questions, short_sums
from videollava.evaluate.judge import judge_answers, limits_of
from videollava.evaluate.judge_endpoint import Judge
from videollava.evaluate.normalise import exact
from videollava.evaluate.questions import Item, Medium, QuestionSet
from videollava.evaluate.results import full_marks
from videollava.params import Judge as JudgeParams

__all__ = ["COUNTED", "Bench", "measure"]

# Of a score: what is about single questions or records, and not a figure.
SINGLE = (
    *("per_question", "per_group", "per_question_score", "per_question_reference", "marks"),
    *("missing_ids", "malformed_lines", "judge"),
)
# Of a score: how many answers count less than they might, and why.
COUNTED = (
    *("missing_media", "unasked", "cut_answers", "invalid", "undecided", "unscored", "unjudged"),
    *("read_otherwise", "otherwise_right", "lost_to_form"),
)
JUDGED = ("judge", "judge_version", "judge_prompt", "judge_reader")
RATED_TO_10 = "llava-bench"


@dataclass(frozen=True)
class Bench:
    """Where the files of an evaluation go, who judges (None: nobody), and where its verdicts are kept."""

    target: Path
    judge: Judge | None
    params: JudgeParams
    verdicts: Path


@dataclass(frozen=True)
class Figures:
    """A score's figures, and of each answer its score and its gold."""

    figures: dict[str, Any]
    marks: Marks


def measure(
    one: QuestionSet, given: Given, blind: Given | None, bench: Bench, sums: Mapping[Medium, str]
) -> dict[str, Any] | None:
    """A benchmark's entry of metrics.json, None where its answers cannot be scored here (a line says why).

    sums: SHA-256 of media.
    """
    found = _score(one, given, bench, "", sums)
    _submit(one, bench)
    if found is None:
        return None
    headline = one.benchmark.headline if one.benchmark.headline in found.figures else "accuracy"
    metrics = _split_metrics(one, found) if not one.of_files else {"headline": headline, **found.figures}
    for name, found_so in (
        ("missing_media", given.lacking),
        ("unasked", given.unasked),
        ("cut_answers", given.cut),
    ):
        if found_so:
            metrics[name] = len(found_so)
    if one.limit:
        metrics["limit"] = one.limit
    metrics["questions"] = hash_questions(one, sums)
    dark = _score(one, blind, bench, ".blind", sums) if blind is not None else None
    if dark is not None:
        metrics[f"blind_{headline}"] = dark.figures.get(headline)
    if not one.of_files:
        metrics["by_kind"] = found.figures.get("by_kind", {})
    return metrics


def _split_metrics(one: QuestionSet, found: Figures) -> dict[str, Any]:
    told = {key: value for key in (*COUNTED, *JUDGED) if (value := found.figures.get(key))}
    chance = {} if one.benchmark.asks else {"chance": _chance(one.items)}
    return {"accuracy": found.figures["accuracy"], **chance, "n": len(one.items), **told}


def _score(
    one: QuestionSet, given: Given, bench: Bench, which: str, sums: Mapping[Medium, str]
) -> Figures | None:
    answers = bench.target / "answers" / f"{one.name}{which}.jsonl"
    written = write_answers(one.items, given, one.benchmark.blank, answers)
    replies = None
    if one.benchmark.asks is not None and written:
        if bench.judge is None:
            print(
                f"{one.name}{which}: answered, not scored: it needs a judge (evaluate.judge.kind)", flush=True
            )
            return None
        replies = judge_answers(
            one.benchmark,
            one.gold,
            answers,
            bench.judge,
            bench.target / "judge" / which.removeprefix("."),
            limits_of(bench.params),
            lambda line: print(f"{one.name}{which}: {line}", flush=True),
            runs=bench.params.runs,
            unseen=given.problems,
            verdicts=bench.verdicts,
        )
    try:
        found = _figures(one, answers if written else None, replies)
    except Absent as error:
        if one.benchmark.submission is None:
            raise
        print(
            f"{one.name}{which}: answered, not scored: {error}; its server scores the submission", flush=True
        )
        return None
    write_lines(
        _rows(one, given, found.marks, sums), bench.target / "predictions" / f"{one.name}{which}.jsonl"
    )
    return found


def _figures(one: QuestionSet, answers: Path | None, replies: Path | None) -> Figures:
    headline = one.benchmark.headline
    if answers is None:  # no medium at all was there
        return Figures({headline: 0.0, "n": len(one.items)}, {})
    whole = one.benchmark.score(one.gold, answers, replies, True)
    marks: Marks = whole["marks"]
    judge = whole.get("judge") or {}
    told = {"judge": "name", "judge_version": "version", "judge_prompt": "prompt", "judge_reader": "reader"}
    who = {name: judge[key] for name, key in told.items() if judge.get(key)}
    if one.limit and one.of_files:
        # The gold holds all questions: of the score, only the mean over those that were asked is one.
        values = [marks.get(item.id, (None, ""))[0] or 0.0 for item in one.items]
        key = headline if headline == "score" and one.name != RATED_TO_10 else "accuracy"
        counted = {name: whole[name] for name in COUNTED if name in whole}
        return Figures({key: mean(values), "n": len(values), **counted, **who}, marks)
    return Figures({key: value for key, value in whole.items() if key not in SINGLE} | who, marks)


def _rows(one: QuestionSet, given: Given, marks: Marks, sums: Mapping[Medium, str]) -> list[dict[str, Any]]:
    full = min(100.0, full_marks(one.name))
    scale = 10.0 if one.name == RATED_TO_10 else 1.0
    values = {item.id: scale * (marks.get(item.id, (None, ""))[0] or 0.0) for item in one.items}
    parts = full != 100.0 or any(value not in (0.0, full) for value in values.values())
    return [
        {**_row(item, given, values[item.id], marks, full, parts), "media_sums": short_sums(item, sums)}
        for item in one.items
    ]


def _row(item: Item, given: Given, value: float, marks: Marks, full: float, parts: bool) -> dict[str, Any]:
    """`correct` is half of the marks at least; `score` is there where answers earn parts of them."""
    row: dict[str, Any] = {
        "question_id": item.id,
        "kind": item.kind,
        "question": item.question,
        "answer": item.answer or marks.get(item.id, (None, ""))[1],
        "prediction": given.texts.get(item.id, ""),
        "correct": value >= full / 2,
        "media": list(item.media),
    }
    if parts:
        row["score"] = value
    if item.id in given.problems:
        row["problem"] = given.problems[item.id]
    return row


def _submit(one: QuestionSet, bench: Bench) -> None:
    submission = one.benchmark.submission
    answers = bench.target / "answers" / f"{one.name}.jsonl"
    if submission is None or one.limit or not one.of_files or not answers.stat().st_size:
        return
    out = bench.target / "submissions" / f"{one.name}{one.benchmark.upload}"
    counts: Mapping[str, int] = submission(one.gold, answers, out)
    told = ", ".join(f"{count:,} {word}" for word, count in counts.items())
    print(f"{one.name}: submissions/{out.name}: {told}", flush=True)


def _chance(items: Sequence[Item]) -> float:
    """Percent right of who knows the kind of each question and always gives that kind's commonest answer."""
    kinds: dict[str, Counter[str]] = {}
    for item in items:
        kinds.setdefault(item.kind, Counter())[exact(item.answer)] += 1
    return 100.0 * sum(max(counts.values()) for counts in kinds.values()) / max(1, len(items))
