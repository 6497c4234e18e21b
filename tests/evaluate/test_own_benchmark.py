"""A source's own test is a benchmark: its questions, its four metrics, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from videollava.data.prepare.tables import split_writer
from videollava.errors import InputError
from videollava.evaluate.answers import Given
from videollava.evaluate.benchmarks.own import choose_metric, own_benchmark
from videollava.evaluate.benchmarks.replies import Replies
from videollava.evaluate.judge_endpoint import Replay
from videollava.evaluate.measure import Bench, measure
from videollava.evaluate.questions import QuestionSet, read_questions
from videollava.params import Evaluate, Judge

Prepare = Callable[..., Path]


def row(key: str, *turns: str, media: tuple[int, ...] = (0,), **gold: Any) -> dict[str, Any]:
    roles = ("human", "gpt") * (len(turns) // 2)
    said = json.dumps([[role, text] for role, text in zip(roles, turns, strict=True)])
    about = {"id": key, "source": "mine", "kind": gold.pop("kind", ""), "conversations": said}
    return {**about, "media": list(media), "answers": [], "choices": [], **gold}


def asked(prepare: Prepare, rows: list[dict[str, Any]], name: str = "mine", **chosen: Any) -> QuestionSet:
    workspace = prepare([("image", b"a picture"), ("image", b"another")], {})
    with split_writer(workspace / "data/index", f"test-{name}") as writer:
        for one in rows:
            writer.add(one)
    return read_questions(name, Evaluate(benchmarks=(name,), **chosen), workspace, workspace / "unpacked")


def scores(one: QuestionSet, said: dict[str, str], folder: Path, replies: Any = None) -> dict[str, Any]:
    bench = Bench(folder, replies, Judge(), folder / "verdicts.jsonl")
    found = measure(one, Given(texts=dict(said)), None, bench, {})
    assert found is not None
    return found


def marked(folder: Path, name: str = "mine") -> dict[str, Any]:
    lines = (folder / f"predictions/{name}.jsonl").read_text().splitlines()
    return {
        line["question_id"]: line.get("score", 100.0 * line["correct"]) for line in map(json.loads, lines)
    }


def test_rounds_of_a_conversation_are_questions_each_with_the_media_before_it(prepare: Prepare) -> None:
    rows = [
        row("a", "<image>\nwhat?", "a cup", "and in\n<image>?", "a jug", "how many?", "two", media=(1, 0)),
        row("a", "who?", "nobody", media=()),
    ]
    one = asked(prepare, rows)
    assert [(item.id, item.question, item.answer, item.media) for item in one.items] == [
        ("a", "<image>\nwhat?", "a cup", (1,)),
        ("a#2", "<image>\nand in\n<image>?", "a jug", (1, 0)),
        ("a#3", "<image>\n<image>\nhow many?", "two", (1, 0)),
        ("a#4", "who?", "nobody", ()),
    ]
    assert (one.name, one.of_files) == ("mine", False)


def test_exact_takes_any_of_the_answers(prepare: Prepare, tmp_path: Path) -> None:
    rows = [
        row("a", "<image>\nwhat?", "a cup", kind="thing"),
        row("b", "<image>\nwhere?", "left", answers=["left", "on the left"], kind="place"),
        row("c", "<image>\nwhere?", "left", kind="place"),
        row("d", "<image>\nwhat?", "a jug", kind="thing"),
    ]
    one = asked(prepare, rows, metrics={"mine": "exact"})
    found = scores(one, {"a": "A  cup.", "b": "on the left", "c": "right"}, tmp_path)
    # d was not answered: it counts as wrong.
    assert (found["accuracy"], found["n"]) == (50.0, 4)
    assert found["by_kind"] == {"place": 50.0, "thing": 50.0}
    assert found["chance"] == 75.0
    assert marked(tmp_path) == {"a": 100.0, "b": 100.0, "c": 0.0, "d": 0.0}


def test_choices_are_asked_for_and_read_by_letter_or_text(prepare: Prepare, tmp_path: Path) -> None:
    options: dict[str, Any] = {"choices": ["a cup", "a jug"], "answers": ["B"]}
    rows = [row(key, "<image>\nwhat?", "B", **options) for key in "abcd"]
    one = asked(prepare, rows)
    assert one.items[0].question == (
        "<image>\nwhat?\nA. a cup\nB. a jug\nAnswer with the option's letter from the given choices directly."
    )
    found = scores(one, {"a": "B", "b": "It is a jug.", "c": "A.", "d": "perhaps"}, tmp_path)
    assert (found["accuracy"], found["invalid"]) == (50.0, 1)


def test_soft_counts_people(prepare: Prepare, tmp_path: Path) -> None:
    ten = ["red"] * 2 + ["dark red"] * 8
    rows = [row("a", "<image>\nwhat?", "red", answers=ten), row("b", "<image>\n?", "x", answers=["x", "y"])]
    one = asked(prepare, rows)
    found = scores(one, {"a": "Red", "b": "y"}, tmp_path)
    assert marked(tmp_path)["a"] == pytest.approx(60.0)  # 2 of 10: VQA's (8 x 2/3 + 2 x 1/3) / 10
    assert found["accuracy"] == pytest.approx(80.0)


def test_a_judge_grades(prepare: Prepare, tmp_path: Path) -> None:
    rows = [
        row("a", "<image>\nwhat?", "a cup"),
        row("b", "<image>\nwhat?", "a jug"),
        row("c", "w?", "x", media=()),
    ]
    one = asked(prepare, rows, metrics={"mine": "judge"})
    assert (
        measure(one, Given(texts={"a": "cup"}), None, Bench(tmp_path, None, Judge(), tmp_path / "v"), {})
        is None
    )
    who = {"name": "who", "version": "1", "prompt": "p"}
    replay = Replay(Replies(tmp_path / "r.json", who, {"a": ["0.8"], "b": ["0.1"]}))
    found = scores(one, {"a": "a mug", "b": "a lamp"}, tmp_path, replay)
    assert found["accuracy"] == pytest.approx(30.0)
    assert found["judge"] == "who"
    assert "chance" not in found


def test_the_metric_is_what_the_questions_have() -> None:
    plain, several = row("a", "q", "a"), row("b", "q", "a", answers=["x", "y"])
    lettered = row("c", "q", "a", choices=["x", "y"])
    for one in (plain, several, lettered):
        one["question_id"] = one["id"]
    assert choose_metric("mine", "", [plain]) == "exact"
    assert choose_metric("mine", "", [plain, several]) == "soft"
    assert choose_metric("mine", "", [lettered]) == "choice"
    assert choose_metric("mine", "judge", [lettered]) == "judge"
    with pytest.raises(InputError, match=r"evaluate\.metrics\.mine: choice: question 'a' has no choices"):
        choose_metric("mine", "choice", [plain, lettered])
    assert own_benchmark("mine", "exact").headline == "accuracy"


def test_what_is_no_test_is_named(prepare: Prepare) -> None:
    with pytest.raises(InputError, match="rename the source"):
        asked(prepare, [row("a", "<image>\nwhat?", "a cup")], name="gqa")
    workspace = Path("nowhere")
    with pytest.raises(InputError, match=r"set index\.sources\.mien\.test and run"):
        read_questions("mien", Evaluate(benchmarks=("mien",)), workspace, workspace)
