"""What an evaluation left in its folder: every question with its answer, the blinded model's too.

predictions/<benchmark>[.blind].jsonl, a line a question:
    {"question_id", "kind", "question", "answer", "prediction", "correct", "media", "media_sums"}
`correct` counts 100 or 0; a `score` (a share of 100, or a judge's 0-5) stands in its place where a benchmark
gives parts. A `problem` says why there is no prediction: a medium was missing. metrics.json, in the folder or
beside `evaluation/`, says who judged.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from videollava.errors import InputError
from videollava.evaluate.statistics import Interval, bootstrap

__all__ = [
    "Answer",
    "Results",
    "by_kind",
    "full_marks",
    "group_by_medium",
    "interval",
    "judge_name",
    "read_metrics",
    "read_results",
]

BLIND = ".blind"
MARK = re.compile(r"\s*<(?:image|video)>\s*")
TEXTS = ("question", "answer", "prediction")
JUDGED_TO_5 = "video-chatgpt-"  # benchmarks graded 0-5
FULL = {"mme": 2000.0}
TAIL = 0.025  # of a two-sided 95% interval


@dataclass(frozen=True)
class Answer:
    """One question, its gold answer and what a model said. `value` is what it adds to the score (0-100, a
    judge's 0-5); `media` are numbers of data/index, or paths, `sums` the beginnings of their SHA-256 ("" for a
    missing one; none in files of earlier releases).
    """

    id: str
    kind: str
    question: str
    answer: str
    prediction: str
    correct: bool
    value: float
    media: tuple[int | str, ...] = ()
    sums: tuple[str, ...] = ()


@dataclass(frozen=True)
class Results:
    """The answers to one benchmark by question id, the blinded model's, and who judged ("" nobody)."""

    benchmark: str
    answers: Mapping[str, Answer]
    blind: Mapping[str, Answer] = field(default_factory=dict)
    judge: str = ""

    @property
    def score(self) -> Interval:
        """The mean of what the answers add, with its interval."""
        answers, media = self.answers.values(), group_by_medium(self.answers.values())
        groups = [media[answer.id] for answer in answers]
        return interval([answer.value for answer in answers], full_marks(self.benchmark), groups)


def read_results(folder: Path, metrics: Mapping[str, Any] | None = None) -> dict[str, Results]:
    """The results of an evaluation folder by benchmark; judges by `metrics`, else by its metrics.json.

    InputError where there are no predictions, or names the file, line and field that cannot be read.
    """
    place = folder / "predictions"
    files = sorted(place.glob("*.jsonl"))
    if not files:
        raise InputError(f"{place}: no predictions (*.jsonl); name a folder that `videollava evaluate` wrote")
    figures = read_metrics(folder) if metrics is None else metrics
    seen = {file.stem: _read_answers(file) for file in files if not file.stem.endswith(BLIND)}
    blind = {file.stem.removesuffix(BLIND): file for file in files if file.stem.endswith(BLIND)}
    return {
        name: Results(
            name, answers, _read_answers(blind[name]) if name in blind else {}, judge_name(figures.get(name))
        )
        for name, answers in seen.items()
    }


def read_metrics(folder: Path) -> dict[str, Any]:
    """The metrics.json of an evaluation folder: in it, or beside one named `evaluation`; {} without one."""
    resolved = folder.resolve()
    places = [folder / "metrics.json"]
    if resolved.name == "evaluation":
        places.append(resolved.parent / "metrics.json")
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        return {}
    try:
        found = json.loads(file.read_text())
    except ValueError as error:
        raise InputError(f"{file}: not JSON ({error}); run `videollava evaluate` again") from error
    if not isinstance(found, dict):
        raise InputError(f"{file}: must be an object, a benchmark a key; run `videollava evaluate` again")
    return found


def judge_name(figures: Any) -> str:
    """Who graded a benchmark: model, its exact version, the prompt's hash, the reader of its replies (where it is
    not the official one), by its entry in metrics.json; "" for nobody.
    """
    if not isinstance(figures, Mapping):
        return ""
    parts = [figures.get(key) for key in ("judge", "judge_version", "judge_prompt", "judge_reader")]
    return " ".join(p if isinstance(p, str) else json.dumps(p, sort_keys=True) for p in parts if p)


def by_kind(answers: Iterable[Answer]) -> dict[str, list[Answer]]:
    """Answers by their question's kind, kinds in alphabetical order."""
    kinds: dict[str, list[Answer]] = {}
    for answer in answers:
        kinds.setdefault(answer.kind, []).append(answer)
    return dict(sorted(kinds.items()))


def group_by_medium(answers: Iterable[Answer]) -> dict[str, str]:
    """By question the medium it is about, so that questions about one have the same; of several media, all that
    questions tie together count as one. A question without media stands for itself.
    """
    above: dict[str, str] = {}

    def top(name: str) -> str:
        while above.setdefault(name, name) != name:
            above[name] = name = above[above[name]]
        return name

    first = {}
    for answer in answers:
        sums = answer.sums if len(answer.sums) == len(answer.media) else ("",) * len(answer.media)
        names = [summed or f"medium {medium}" for summed, medium in zip(sums, answer.media, strict=True)]
        names = names or [f"question {answer.id}"]
        first[answer.id] = names[0]
        for name in names[1:]:
            above[top(name)] = top(names[0])
    return {key: top(name) for key, name in first.items()}


def full_marks(benchmark: str) -> float:
    """The best score there is: 100 for all but a judge's grades and MME's sum."""
    return 5.0 if benchmark.startswith(JUDGED_TO_5) else FULL.get(benchmark, 100.0)


def interval(values: Sequence[float], full: float = 100.0, groups: Sequence[str] | None = None) -> Interval:
    """The mean with its 95% bootstrap interval; groups: the medium of each.

    Where all answers have full marks, or none, there is nothing to draw from: the exact binomial bound of as many
    media then (Clopper-Pearson).
    """
    whole = bootstrap(values, groups)
    edge = full * TAIL ** (1 / len(values if groups is None else set(groups)))
    if set(values) == {full}:
        return Interval(whole.value, edge, full)
    if set(values) == {0.0}:
        return Interval(whole.value, 0.0, full - edge)
    return whole


def _read_answers(file: Path) -> dict[str, Answer]:
    answers: dict[str, Answer] = {}
    # Lines end at \n alone: str.splitlines would also cut at what JSON leaves unescaped.
    for number, line in enumerate(file.read_bytes().split(b"\n"), start=1):
        if line.strip():
            answer = _read_answer(line, f"{file}: line {number}")
            if answer.id in answers:
                raise InputError(f"{file}: line {number}: question {answer.id!r} comes twice; evaluate again")
            answers[answer.id] = answer
    if not answers:
        raise InputError(f"{file}: it holds no answer; run `videollava evaluate` again")
    return answers


def _read_answer(line: bytes, where: str) -> Answer:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where}: not JSON ({error}); run `videollava evaluate` again") from error
    if not isinstance(row, dict):
        raise InputError(f"{where}: must be an object; run `videollava evaluate` again")
    for key in ("question_id", *TEXTS):
        if not isinstance(row.get(key), str | int):
            raise InputError(f"{where}: {key} is {row.get(key)!r}; run `videollava evaluate` again")
    if not isinstance(row.get("correct"), bool):
        raise InputError(f"{where}: correct must be true or false; run `videollava evaluate` again")
    score = row.get("score")
    if score is not None and not _is_number(score):
        raise InputError(f"{where}: score is {score!r}, not a number; run `videollava evaluate` again")
    question, answer, prediction = (str(row[key]) for key in TEXTS)
    return Answer(
        id=str(row["question_id"]),
        kind=str(row.get("kind") or ""),
        question=MARK.sub(" ", question).strip() if "<" in question else question,
        answer=answer,
        prediction=prediction,
        correct=row["correct"],
        value=100.0 * row["correct"] if score is None else float(score),
        media=tuple(row.get("media") or ()),
        sums=tuple(map(str, row.get("media_sums") or ())),
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
