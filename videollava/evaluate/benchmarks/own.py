"""The test of one's own data: a benchmark named as its source, of the split test-<source> of data/index.

A line of answers holds all that its score needs: {"question_id", "kind", "question", "answer", "answers", "choices",
"text"}. `metric` (evaluate.metrics.NAME):

exact    the answer, or one of several, but for case, white space and a full stop at the end
choice   the letter of the right one of its choices; answers are read as MMBench's rules do
soft     VQA's: as many people of `answers` as gave it, three being enough; of fewer than four people, one is
judge    a grade of 0 to 1 by evaluate.judge
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from videollava.errors import InputError
from videollava.evaluate.benchmarks.choices import choose, lettered
from videollava.evaluate.benchmarks.interface import LETTER, Benchmark, Question
from videollava.evaluate.benchmarks.reading import Answers, read_answers
from videollava.evaluate.benchmarks.replies import read_replies
from videollava.evaluate.benchmarks.tally import counts, grouped, leave_one_out, mark, percent, result
from videollava.evaluate.judge_prompts import GRADE, Ask, read_grade
from videollava.evaluate.normalise import exact, vqa

__all__ = ["Metric", "choose_metric", "own_benchmark", "own_rows"]

Metric = Literal["exact", "choice", "soft", "judge"]
Row = Mapping[str, Any]
MARK = re.compile("<(?:image|video)>")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
FEW = 4  # people, of fewer one is enough


def own_benchmark(name: str, metric: Metric) -> Benchmark:
    """The benchmark of a source's test."""
    if metric == "judge":
        return Benchmark(name, name, "accuracy", _questions, _score_judged, asks=_asks, blank=True)
    rate = {"exact": _rate_exact, "choice": _rate_choice, "soft": _rate_soft}[metric]
    return Benchmark(name, name, "accuracy", _questions, partial(_score, rate), blank=True)


def choose_metric(name: str, wanted: str, rows: Sequence[Row]) -> Metric:
    """The metric that is asked for, else what the questions have: choices, several answers, or one.

    InputError where they have not what it takes.
    """
    some = next((row for row in rows if not row["choices"]), None)
    if wanted == "choice" and some is not None:
        raise InputError(f"evaluate.metrics.{name}: choice: question {some['question_id']!r} has no choices")
    for metric in get_args(Metric):
        if metric == wanted:
            return metric
    if some is None:
        return "choice"
    return "soft" if any(len(row["answers"]) > 1 for row in rows) else "exact"


def own_rows(table: Any) -> list[dict[str, Any]]:
    """The questions of a test split: one of each round of a conversation, in the index's order.

    A later round shows the media of those before it too. Ids are made unique: of the second round, or the second
    record of an id, it ends in #2.
    """
    found = []
    seen: Counter[str] = Counter()
    for record in table.select(["id", "kind", "conversations", "media", "answers", "choices"]).to_pylist():
        turns = json.loads(record["conversations"])
        shown = ""
        for number, ((_, asked), (_, answer)) in enumerate(zip(turns[::2], turns[1::2], strict=False)):
            seen[record["id"]] += 1
            again = f"#{seen[record['id']]}" if seen[record["id"]] > 1 else ""
            marks = MARK.findall(shown + asked)
            found.append(
                {
                    "question_id": f"{record['id']}{again}",
                    "kind": record["kind"],
                    "question": _with_choices(shown + asked, record["choices"] or ()),
                    "asked": MARK.sub("", asked).strip(),
                    "answer": answer,
                    "answers": [] if number else list(record["answers"] or ()),
                    "choices": [] if number else list(record["choices"] or ()),
                    "media": record["media"][: len(marks)],
                }
            )
            shown += "".join(f"{mark}\n" for mark in MARK.findall(asked))
    return found


def _with_choices(question: str, choices: Sequence[str]) -> str:
    """With its choices and what is asked for, unless it names them already."""
    if all(choice in question for choice in choices):
        return question
    return question + lettered(dict(zip(LETTERS, choices, strict=False))) + LETTER


def _questions(files: Sequence[Path], media: Path | None = None) -> Iterator[Question]:
    raise InputError("the questions of this benchmark are the split test-<source> of data/index")


def _score(
    rate: Callable[[Row, str], float | None],
    gold: Sequence[Path],
    answers: Path | None,
    replies: Path | None = None,
    per_question: bool = False,
) -> dict[str, Any]:
    """`accuracy` of all and by kind; `invalid`: answers that chose nothing."""
    given = read_answers(answers, texts=("text",))
    rates = {key: rate(row, given.texts[key]) for key, row in given.rows.items()}
    invalid = sum(value is None and bool(given.texts[key]) for key, value in rates.items())
    return _result(given, {key: value or 0.0 for key, value in rates.items()}, invalid, per_question)


def _score_judged(
    gold: Sequence[Path], answers: Path | None, replies: Path | None = None, per_question: bool = False
) -> dict[str, Any]:
    """`accuracy`: the mean grade in percent; an answer without a readable one has 0 and is counted in `invalid`."""
    given, judged = read_answers(answers, texts=("text",)), read_replies(replies)
    read = {key: judged.usable(GRADE, key) for key in given.rows}
    grades = {key: None if reply is None else read_grade(reply) for key, reply in read.items()}
    invalid = sum(grade is None and bool(given.texts[key]) for key, grade in grades.items())
    more = {"lost_to_form": judged.lost(GRADE, given.rows), "judge": dict(judged.judge)}
    rates = {key: grade or 0.0 for key, grade in grades.items()}
    return {**_result(given, rates, invalid, per_question), **more}


def _asks(gold: Sequence[Path], answers: Path) -> list[Ask]:
    given = read_answers(answers, texts=("text",))
    return [
        Ask(key, GRADE, row["asked"], " <OR> ".join(_accepted(row)), given.texts[key])
        for key, row in given.rows.items()
        if given.texts[key]
    ]


def _result(given: Answers, rates: Mapping[str, float], invalid: int, per_question: bool) -> dict[str, Any]:
    by_kind = grouped((str(given.rows[key]["kind"]), value) for key, value in rates.items())
    single = {key: 100 * value for key, value in rates.items()} if per_question else None
    golds = {key: row["answer"] for key, row in given.rows.items()}
    return result(
        len(rates),
        {"accuracy": percent(rates.values()), "by_kind": by_kind},
        counts(given.rows, given),
        invalid=invalid,
        per_question=single,
        marks=mark(given, single, golds) if single else None,
    )


def _accepted(row: Row) -> list[str]:
    return list(row["answers"]) or [row["answer"]]


def _rate_exact(row: Row, text: str) -> float:
    return float(exact(text) in {exact(answer) for answer in _accepted(row)})


def _rate_choice(row: Row, text: str) -> float | None:
    options = dict(zip(LETTERS, row["choices"], strict=False))
    chosen = choose(text, options)
    if chosen is None or chosen not in options:
        return None
    right = _accepted(row)[0].strip()
    return float(chosen == right.rstrip(".)").upper() or options[chosen] == right)


def _rate_soft(row: Row, text: str) -> float:
    people = [vqa(answer) for answer in _accepted(row)]
    matches = people.count(vqa(text))
    return float(matches > 0) if len(people) < FEW else leave_one_out(matches, len(people))
