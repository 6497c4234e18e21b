"""What of a benchmark training has seen: media by bytes, questions by words."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from evaluation_files import picture, write_files

from videollava.evaluate import benchmarks
from videollava.evaluate.benchmarks.interface import SHORT
from videollava.evaluate.contamination import ALIKE, Near, find_contamination, normalised, shingles
from videollava.evaluate.identity import sum_media
from videollava.evaluate.questions import Item, QuestionSet

LONG = "a person in a long red coat is walking a small dog along the river while it is raining in the morning"


def test_texts_are_compared_by_their_words() -> None:
    assert normalised("<image>\nWhat COLOR is it?" + SHORT) == "what color is it"
    assert normalised("What  color, is it") == "what color is it"
    assert shingles("a b") == {" a", "a b", "b "}
    assert shingles("") == {" "}


@pytest.mark.parametrize("seed", range(3))
def test_near_duplicates_are_those_of_all_pairs(seed: int) -> None:
    """The filter loses none: against every pair, on texts that differ in a few words."""
    draw = random.Random(seed)
    words = LONG.split()

    def text() -> str:
        own = [word if draw.random() < 0.93 else draw.choice(words) for word in words]
        return " ".join(own[: draw.randint(3, len(own))])

    texts = [text() for _ in range(60)]
    near = Near(texts)
    found = 0
    for other in (text() for _ in range(40)):
        parts = shingles(other)
        alike = {t for t in texts if len(parts & shingles(t)) / len(parts | shingles(t)) >= ALIKE}
        assert near.of(other) == alike
        found += len(alike)
    assert found > 10


def a_set(*items: Item) -> QuestionSet:
    return QuestionSet(benchmarks.get("gqa"), items, (Path("gold.json"),))


def test_what_training_has_seen(prepare: Callable[..., Path], capsys: Any) -> None:
    turns = [["human", f"<image>\n{LONG}?"], ["gpt", "yes"], ["human", "what color is it?"], ["gpt", "red"]]
    media = [("image", picture(n)) for n in range(3)]
    test = [("x", [["human", "<image>\nonly in a test split?"], ["gpt", "no"]], [2])]
    # What is held out was not learned from.
    splits = {"finetune": [("a", turns, [0])], "test-easy_vqa": test, "finetune-valid": test}
    workspace = prepare(media, splits)
    write_files(workspace / "bench", {"same.png": picture(0), "held.png": picture(2), "new.png": picture(9)})
    near = LONG.replace("raining", "snowing")
    sets = [
        a_set(
            Item("1", "", f"<image>\n{LONG.upper()}", "", ("bench/same.png",)),
            Item("2", "", f"<image>\n{near}" + SHORT, "", ("bench/same.png",)),
            Item("3", "", "<image>\nWhat color is it" + SHORT, "", ("bench/new.png",)),
            Item("4", "", "<image>\nwhat color is that one over there?", "", ("bench/gone.png",)),
            Item("5", "", "<image>\nonly in a test split?", "", ("bench/held.png",)),
        )
    ]
    found = find_contamination(sets, sum_media(sets, workspace), workspace)["gqa"]
    assert found.pop("examples") == {
        "media": ["bench/same.png"],
        "both": ["1"],
        "near": [[near, LONG]],
    }
    assert found == {"media": 1, "of_media": 4, "questions": 2, "near": 1, "both": 1, "of_questions": 5}


def test_without_training_data_nothing_is_said(tmp_path: Path) -> None:
    assert find_contamination([a_set(Item("1", "", "what?", ""))], {}, tmp_path) == {}
