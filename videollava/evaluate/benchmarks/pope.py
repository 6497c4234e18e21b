"""POPE: is an object in the picture? Yes/no over three samplings of absent objects; the figure is the mean
F1.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from videollava.errors import InputError
from videollava.evaluate.benchmarks.choice_words import read_yes_no
from videollava.evaluate.benchmarks.image_questions import llava_documents, llava_questions
from videollava.evaluate.benchmarks.interface import SHORT, Benchmark, Question
from videollava.evaluate.benchmarks.reading import (
    Document,
    documents,
    find,
    named,
    read_answers,
    records,
    rows_with,
)
from videollava.evaluate.benchmarks.tally import counts, mark, mean, read_otherwise, result

__all__ = ["BENCHMARK", "questions", "says_yes", "score"]

NEGATIVE = ("No", "not", "no")
Key = tuple[str, str]  # image, question


def questions(files: Sequence[Path], media: Path | None = None) -> Iterator[Question]:
    """Of LLaVA's llava_pope_test.jsonl; `kind` is the sampling."""
    return llava_questions(files, media, suffix=SHORT)


def score(
    gold: Sequence[Path], answers: Path | None, replies: Path | None = None, per_question: bool = False
) -> dict[str, Any]:
    """For each sampling accuracy, precision, recall, F1 and share of yes, and `mean_f1`; all in percent.

    Answers join their label through the question file (image and question), not by their place. A missing
    answer counts as the wrong one. `read_otherwise`: answers that say yes or no in words ("NO") and are read as the
    other by the official rule.
    """
    found = documents(gold)
    asked = _asked(found)
    labels = _labels(found, asked)
    given = read_answers(answers)
    verdicts: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    right, readings = {}, []
    for category, own in labels.items():
        for key, label in own.items():
            said = says_yes(given.texts[key]) if key in given.texts else not label
            verdicts[category].append((label, said))
            right[key] = 100.0 * (said == label)
            if key in given.texts:
                readings.append((_word(said), read_yes_no(given.texts[key]), _word(label)))
    categories = {category: _figures(verdicts[category]) for category in sorted(verdicts)}
    figures = {
        "mean_f1": mean(own["f1"] for own in categories.values()),
        "accuracy": mean(right.values()),
        **read_otherwise(readings),
        "by_category": categories,
        **categories,
    }
    golds = {key: _word(label) for own in labels.values() for key, label in own.items()}
    marks = mark(given, right, golds) if per_question else None
    kept = right if per_question else None
    return result(len(right), figures, counts(right, given), per_question=kept, marks=marks)


def says_yes(text: str) -> bool:
    """Yes unless the words before the first full stop, commas dropped, have `No`, `not` or `no`."""
    words = text.split(".")[0].replace(",", "").split(" ")
    return not any(word in words for word in NEGATIVE)


def _word(yes: bool) -> str:
    return "yes" if yes else "no"


def _figures(verdicts: Sequence[tuple[bool, bool]]) -> dict[str, float]:
    true_positive = sum(label and said for label, said in verdicts)
    positives, said_yes = sum(label for label, _ in verdicts), sum(said for _, said in verdicts)
    precision = true_positive / said_yes if said_yes else 0.0
    recall = true_positive / positives if positives else 0.0
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return {
        "n": len(verdicts),
        "accuracy": 100 * sum(label == said for label, said in verdicts) / len(verdicts),
        "precision": 100 * precision,
        "recall": 100 * recall,
        "f1": 100 * f1,
        "yes_ratio": 100 * said_yes / len(verdicts),
    }


def _asked(found: Sequence[Document]) -> dict[str, dict[Key, str]]:
    """Of each sampling, the question ids by image and question."""
    own = llava_documents(found)
    if not own:
        raise InputError(
            f"{named(found)}: no POPE questions: llava_pope_test.jsonl says which sampling an answer is of"
        )
    asked: dict[str, dict[Key, str]] = defaultdict(dict)
    for row in (row for document in own for row in records(document)):
        asked[row["category"]][row["image"], _bare(row["text"])] = str(row["question_id"])
    return asked


def _labels(found: Sequence[Document], asked: Mapping[str, Mapping[Key, str]]) -> dict[str, dict[str, bool]]:
    """Of each sampling, whether the answer is yes, by question id. A label file goes with the sampling that
    asks its questions; the three share half of them, so the nearest counts.
    """
    labels: dict[str, dict[str, bool]] = {}
    for document in find(found, rows_with("image", "text", "label")):
        own = {(row["image"], _bare(row["text"])): row["label"] != "no" for row in records(document)}
        category = max(asked, key=lambda name: sum(key in own for key in asked[name]))
        unlabelled = [number for key, number in asked[category].items() if key not in own]
        if unlabelled or category in labels:
            problem = f"question {unlabelled[0]} has no label" if unlabelled else "labelled twice"
            raise InputError(f"{document.path}: labels of the {category} sampling: {problem}")
        labels[category] = {number: own[key] for key, number in asked[category].items()}
    unlabelled = [category for category in asked if category not in labels]
    if unlabelled:
        raise InputError(
            f"no labels of the sampling {', '.join(unlabelled)}: give the folder with coco_pope_*.json"
        )
    return labels


def _bare(text: str) -> str:
    return text.removesuffix(SHORT).strip()


BENCHMARK = Benchmark(
    id="pope", title="POPE", headline="mean_f1", questions=questions, score=score, size=8_910
)
