"""Counting: which answers meet the gold, averages in percent, averages by group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from math import fsum
from typing import Any, TypeVar

from videollava.errors import InputError
from videollava.evaluate.benchmarks.reading import Answers

__all__ = [
    "LISTED",
    "Marks",
    "counts",
    "grouped",
    "leave_one_out",
    "mark",
    "mean",
    "percent",
    "read_otherwise",
    "result",
]

LISTED = 10  # ids named in a report; the numbers count them all
Group = TypeVar("Group", bound=Hashable)
Marks = Mapping[str, tuple[float | None, str]]  # score and gold of each answer, by its line's id


def mean(values: Iterable[float]) -> float | None:
    """The average; None of nothing."""
    kept = list(values)
    return fsum(kept) / len(kept) if kept else None


def percent(values: Iterable[float]) -> float | None:
    """The average of values in 0-1, in percent; None of nothing."""
    average = mean(values)
    return None if average is None else 100 * average


def grouped(pairs: Iterable[tuple[Group, float]]) -> dict[Group, float]:
    """Percent by group, for (group, value in 0-1) pairs; groups in the order of their names."""
    groups: dict[Group, list[float]] = defaultdict(list)
    for group, value in pairs:
        groups[group].append(value)
    return {group: 100 * fsum(groups[group]) / len(groups[group]) for group in sorted(groups, key=_order)}


def leave_one_out(matches: int, people: int = 10) -> float:
    """VQA's accuracy of an answer that `matches` of `people` gave: min(1, matches/3) over all sets of
    people but one.
    """
    others = (min(1.0, (matches - 1) / 3) if matches else 0.0, min(1.0, matches / 3))
    return (matches * others[0] + (people - matches) * others[1]) / people


def counts(gold: Iterable[str], answers: Answers) -> dict[str, Any]:
    """How answers meet the gold's ids: missing, of no question, repeated; and unreadable lines.

    InputError where no answer is to any question of the gold: another benchmark's file.
    """
    asked = set(gold)
    if asked.isdisjoint(answers.texts):
        named = sorted(answers.texts, key=_order)[:3]
        raise InputError(f"{answers.path}: none of its answers ({named}, ..) is to a question of the gold")
    missing = sorted(asked - answers.texts.keys(), key=_order)
    found: dict[str, Any] = {
        "missing": len(missing),
        "extra": len(answers.texts.keys() - asked),
        "duplicates": answers.duplicates,
        "malformed": len(answers.malformed),
    }
    if missing:
        found["missing_ids"] = missing[:LISTED]
    if answers.malformed:
        found["malformed_lines"] = list(answers.malformed[:LISTED])
    return found


def read_otherwise(readings: Iterable[tuple[Hashable, Hashable, Hashable]]) -> dict[str, int]:
    """What an official rule loses: (by the rule, in plain words, gold) of each answer.

    `read_otherwise` counts answers whose words say another option than the rule reads; `otherwise_right` those
    of them that would be right. What the words leave open (None) is no other reading.
    """
    other = [(plain, gold) for rule, plain, gold in readings if plain is not None and plain != rule]
    return {"read_otherwise": len(other), "otherwise_right": sum(plain == gold for plain, gold in other)}


def mark(
    answers: Answers, values: Mapping[str, float | None], golds: Mapping[str, object] | None = None
) -> Marks:
    """The score and the gold's text of each question, by the id that its answer's line has (its own without)."""
    return {
        str(answers.rows.get(key, {}).get("question_id", key)): (value, str((golds or {}).get(key, "")))
        for key, value in values.items()
    }


def result(
    n: int,
    figures: Mapping[str, Any],
    met: Mapping[str, Any],
    *,
    invalid: int = 0,
    per_question: Mapping[str, Any] | None = None,
    marks: Marks | None = None,
) -> dict[str, Any]:
    """A score as it is printed: the number of questions, figures, what was unusable, scores by id when
    given, and `marks` with them.
    """
    whole = {"n": n, **figures, "invalid": invalid, **met}
    if per_question is not None:
        whole["per_question"] = dict(per_question)
        whole["marks"] = dict(marks or {})
    return whole


def _order(group: Hashable) -> tuple[int, float, str]:
    """Numbers by size, then text by letters: 2 before 10."""
    text = str(group)
    return (0, float(text), "") if text.isascii() and text.isdigit() else (1, 0.0, text)
