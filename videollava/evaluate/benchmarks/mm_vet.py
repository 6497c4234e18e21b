"""MM-Vet: open answers that need several capabilities at once, graded 0-1 by a judge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from videollava.errors import InputError
from videollava.evaluate.benchmarks.image_questions import asked, llava_questions
from videollava.evaluate.benchmarks.interface import Benchmark, Question
from videollava.evaluate.benchmarks.reading import Answers, Document, documents, pick, read_answers
from videollava.evaluate.benchmarks.replies import is_lost, read_replies, runs_of
from videollava.evaluate.benchmarks.tally import counts, grouped, mark, percent, result
from videollava.evaluate.judge_prompts import GRADE, Ask, Reader, first_usable, read_grade

__all__ = ["BENCHMARK", "asks", "questions", "score"]

PREFIX = "v1_"


def questions(files: Sequence[Path], media: Path | None = None) -> Iterator[Question]:
    """Of LLaVA's question lines or of mm-vet.json: the raw question, without a suffix."""
    return llava_questions(files, media, raw=_official_questions)


def score(
    gold: Sequence[Path], answers: Path | None, replies: Path | None = None, per_question: bool = False
) -> dict[str, Any]:
    """`score` in percent: the mean grade over questions, averaged over runs; by capability and by
    combination.

    Replies are the official grade file (id -> {"score": [one a run]}), or a judge's replies in our form. A
    question without a grade gets 0 and is counted in `invalid`; `lost_to_form` where a tolerant reader finds one.
    """
    tasks = _tasks(documents(gold))
    given = _answers(answers)
    judge, graded, lost = _grades(replies)
    runs = max((len(grades) for grades in graded.values()), default=0)
    if not runs:
        raise InputError(f"{replies}: no grades")
    filled, invalid = {}, 0
    for key in tasks:
        grades = graded.get(key, [])
        ours = [grade for grade in grades if grade is not None]
        invalid += len(ours) < runs
        filled[key] = [*ours, *[0.0] * (runs - len(ours))]
    totals = [percent(grades[run] for grades in filled.values()) or 0.0 for run in range(runs)]
    means = {key: sum(grades) / runs for key, grades in filled.items()}
    average = sum(totals) / runs
    figures = {
        "score": average,
        "std": (sum((total - average) ** 2 for total in totals) / runs) ** 0.5,
        "runs": totals,
        "by_capability": grouped(
            (c, means[key]) for key, row in tasks.items() for c in set(row["capability"])
        ),
        "by_combination": grouped(
            ("_".join(sorted(set(row["capability"]))), means[key]) for key, row in tasks.items()
        ),
        "lost_to_form": lost,
        "judge": judge,
    }
    single = {key: 100 * value for key, value in means.items()}
    met = counts(tasks, given)
    kept = single if per_question else None
    marks = mark(given, single, {key: row["answer"] for key, row in tasks.items()}) if per_question else None
    return result(len(tasks), figures, met, invalid=invalid, per_question=kept, marks=marks)


def asks(gold: Sequence[Path], answers: Path, runs: int = 1) -> list[Ask]:
    """What to ask a judge, once a run."""
    tasks = _tasks(documents(gold))
    given = _answers(answers)
    return [
        Ask(key, GRADE, row["question"], _spaced(row["answer"]), given.texts[key], run)
        for run in range(runs)
        for key, row in tasks.items()
        if key in given.texts
    ]


def _spaced(answer: str) -> str:
    return answer.replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")


def _answers(path: Path | None) -> Answers:
    """Answers by "v1_0": the official mapping, or LLaVA's lines whose ids are the bare numbers."""
    given = read_answers(path)
    named = {_named(key): text for key, text in given.texts.items()}
    rows = {_named(key): {"question_id": key} for key in given.texts}
    return Answers(given.path, named, rows, given.duplicates, given.malformed)


def _named(key: str) -> str:
    return PREFIX + key if key.isdigit() else key


def _grades(path: Path | None) -> tuple[dict[str, str], dict[str, list[float | None]], int]:
    """The judge, each question's grades by run, and how many questions lost one to the form of a reply."""
    replies = read_replies(path)
    judge = dict(replies.judge)
    grades: dict[str, list[float | None]] = {}
    lost = 0
    for key, value in replies.by_id.items():
        if isinstance(value, Mapping) and "score" in value:
            grades[_named(key)] = list(value["score"])
            judge["name"] = next(iter(value.get("model", ())), judge["name"])
        elif isinstance(value, list):
            grades[_named(key)] = [_grade(attempts, replies.reader) for attempts in runs_of(value)]
            lost += any(is_lost(GRADE, attempts) for attempts in runs_of(value))
        else:
            raise InputError(f'{path}: {key!r}: want {{"score": [..]}} or a list of replies')
    return judge, grades, 0 if replies.reader == "tolerant" else lost


def _grade(attempts: Sequence[str], reader: Reader) -> float | None:
    reply = first_usable(GRADE, attempts, reader)
    return None if reply is None else read_grade(reply)


def _is_tasks(value: Any) -> bool:
    first = next(iter(value.values()), None) if isinstance(value, dict) else None
    return isinstance(first, dict) and "capability" in first and "question" in first


def _tasks(found: Sequence[Document]) -> dict[str, dict[str, Any]]:
    return dict(pick(found, "MM-Vet's tasks (mm-vet.json)", _is_tasks).value)


def _official_questions(found: Sequence[Document], media: Path | None) -> Iterator[Question]:
    for key, row in _tasks(found).items():
        yield asked(key, row["question"], row["imagename"], media)


BENCHMARK = Benchmark(
    id="mm-vet",
    title="MM-Vet",
    headline="score",
    questions=questions,
    score=score,
    size=218,
    max_new_tokens=1024,
    asks=asks,
    runs=True,
)
