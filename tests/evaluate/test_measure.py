"""Every benchmark's answers in the form that inference writes them: scored, and joined again to their questions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from videollava.evaluate import benchmarks
from videollava.evaluate.answers import Given, write_answers
from videollava.evaluate.measure import Bench, measure
from videollava.evaluate.questions import Item, QuestionSet
from videollava.evaluate.results import read_results
from videollava.params import Judge

SETS = {
    "gqa": (
        "samples/gqa",
        ["testdev_balanced_questions.subset.json", "llava_gqa_testdev_balanced.subset.jsonl"],
    ),
    "textvqa": (
        "samples/textvqa",
        ["TextVQA_0.5.1_val.subset.json", "llava_textvqa_val_v051_ocr.subset.jsonl"],
    ),
    "vqav2": ("samples/vqav2_format", ["annotations.json", "questions.json"]),
    "vizwiz": ("samples/vizwiz", ["val.sample.json"]),
    "pope": ("samples/pope", ["coco", "llava_pope_test.jsonl"]),
    "mmbench": ("samples/mmbench", ["mmbench_samples_with_images.tsv"]),
    "mm-vet": ("samples/mm-vet", ["mm-vet.sample.json"]),
    "scienceqa": ("full/scienceqa", ["problems.json", "pid_splits.json", "llava_test_CQM-A.subset.json"]),
    "msvd": ("samples/video_qa/MSVD_Zero_Shot_QA", ["test_q.json", "test_a.json"]),
    "activitynet-exact": ("samples/video_qa/Activitynet_Zero_Shot_QA", ["test_q.json", "test_a.json"]),
    "video-chatgpt-correctness": ("samples/video_chatgpt5", ["generic_qa.sample.json"]),
    "video-chatgpt-consistency": ("samples/video_chatgpt5", ["consistency_qa.sample.json"]),
}
REPLY = {"mm-vet": "0.5", "msvd": "{'pred': 'yes', 'score': 3}"}


class Constant:
    """A judge that always says the same."""

    name = "constant"

    def __init__(self, reply: str) -> None:
        self.reply = reply

    def complete(self, ask: Any, attempt: int) -> Any:
        from videollava.evaluate.judge_endpoint import Completion

        return Completion(self.reply, "1")


def a_set(name: str, gold: Sequence[Path]) -> QuestionSet:
    one = benchmarks.get(name)
    items = [
        Item(q.id, q.kind, q.prompt, str(q.fields.get("answer", "")), q.media, q.fields)
        for q in one.questions(gold)
    ]
    return QuestionSet(one, tuple(items), tuple(gold))


@pytest.mark.parametrize("name", list(SETS))
def test_each_question_has_its_row(name: str, shared: Path, tmp_path: Path) -> None:
    place, names = SETS[name]
    one = a_set(name, [shared / "benchmarks" / place / file for file in names])
    texts = {item.id: "A" if name in ("mmbench", "scienceqa") else "yes" for item in one.items}
    lost = one.items[0].id
    del texts[lost]
    judge = Constant(REPLY.get(name, "{'score': 3}"))
    given = Given(texts, {lost: "its medium: not found"})
    metrics = measure(one, given, None, Bench(tmp_path, judge, Judge(), tmp_path / "verdicts.jsonl"), {})
    assert metrics is not None
    assert metrics["missing_media"] == 1
    rows = [json.loads(line) for line in (tmp_path / f"predictions/{name}.jsonl").read_text().splitlines()]
    assert [row["question_id"] for row in rows] == [item.id for item in one.items]
    assert not rows[0]["correct"]
    assert not rows[0].get("score")
    assert all(row["answer"] for row in rows[1:])
    assert any(row["correct"] for row in rows) or name in (
        "gqa",
        "textvqa",
        "vqav2",
        "vizwiz",
        "activitynet-exact",
    )
    assert not {"per_question", "marks", "missing_ids"} & metrics.keys()
    headline = metrics[metrics["headline"]]
    if metrics["headline"] in ("accuracy", "score") and name != "video-chatgpt-consistency":
        assert read_results(tmp_path, {name: metrics})[name].score.value == pytest.approx(headline)
    if one.benchmark.asks:
        assert metrics["judge"] == "constant"
    if one.benchmark.submission:
        assert list((tmp_path / "submissions").iterdir())


def test_mme_and_seed_rows(shared: Path, tmp_path: Path) -> None:
    """MME's gold is the release folder, SEED's the letters by id."""
    release = tmp_path / "MME/existence"
    release.mkdir(parents=True)
    (release / "0001.txt").write_text(
        "Is there a dog? Please answer yes or no.\tYes\nIs there a cat? Please answer yes or no.\tNo\n"
    )
    asked = [
        {
            "question_id": "existence/0001.png",
            "image": "existence/0001.png",
            "text": text,
            "category": "existence",
        }
        for text in ("Is there a dog?", "Is there a cat?")
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    one = benchmarks.get("mme")
    questions = list(one.questions([tmp_path / "q.jsonl"]))
    assert [q.id for q in questions] == ["existence/0001.png#0", "existence/0001.png#1"]
    items = [Item(q.id, q.kind, q.prompt, "", q.media, q.fields) for q in questions]
    answers = tmp_path / "a.jsonl"
    assert write_answers(items, Given({items[0].id: "Yes", items[1].id: "Yes"}), False, answers) == 2
    marks = one.score([tmp_path / "MME"], answers, None, True)["marks"]
    assert marks == {items[0].id: (100.0, "yes"), items[1].id: (0.0, "no")}
