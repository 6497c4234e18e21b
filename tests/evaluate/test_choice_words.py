"""Multiple-choice answers in a person's words: the option that is meant, or none where that is open."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from videollava.errors import InputError
from videollava.evaluate import benchmarks
from videollava.evaluate.benchmarks.choice_words import read_choice, read_yes_no
from videollava.evaluate.score import score

SCENES = {"A": "a dog is sleeping", "B": "a cat jumps", "C": "a person is running"}
THINGS = {"A": "red", "B": "green cat", "C": "a dog", "D": "cat"}
COUNTS = {"A": "2", "B": "3.", "C": "5", "D": "10"}
NUMBERED = {"1": "a cat", "2": "a dog", "3": "a bird"}
DENIALS = {"A": "visible", "B": "not visible", "C": "The man is not running.", "D": "The man is running."}
ANIMALS = {"A": "dogs", "B": "cats", "C": "birds"}
PLACES = {"A": "on the table", "B": "under the table", "C": "in the box"}
MANY = {letter: f"thing {letter.lower() * 3}" for letter in "ABCDEFGHIJ"}


@pytest.mark.parametrize(
    ("said", "options", "choice"),
    [
        ("The person in the video is running.", SCENES, "C"),
        ("It's a person running.", SCENES, "C"),
        ("A person on the left is running", SCENES, None),
        ("A person is not running", SCENES, None),
        ("No person is running", SCENES, None),
        ("A person running from a dog that is sleeping", SCENES, None),
        ("It could be A, but I think it is C", SCENES, "C"),
        ("I guess it's C", SCENES, "C"),
        ("I doubt it is A. It's probably C", SCENES, "C"),
        ("A is the wrong option; the right one is C", SCENES, "C"),
        ("Anything but C", SCENES, None),
        ("All but C", SCENES, None),
        ("Not A but C", SCENES, "C"),
        ("There are no dogs", ANIMALS, None),
        ("There are no dogs, only cats", ANIMALS, "B"),
        ("No dogs or cats are visible", ANIMALS, None),
        ("Without dogs", ANIMALS, None),
        ("No sign of dogs", ANIMALS, None),
        ("No, dogs", ANIMALS, "A"),
        ("There is no doubt that it is B", ANIMALS, "B"),
        ("the table", PLACES, None),  # what tells two options apart is not left out
        ("It is in the video on the table", PLACES, "A"),
    ],
)
def test_denied_options_and_other_little_words(
    said: str, options: Mapping[str, str], choice: str | None
) -> None:
    assert read_choice(said, options) == choice


@pytest.mark.parametrize(
    ("said", "choice"),
    [
        ("A person is running", "C"),  # an article, not a letter
        ("A person is running.", "C"),
        ("A cat jumps over the wall", "B"),
        ("A dog is sleeping", "A"),
        ("I think a person is running outside.", "C"),
        ("The person is running", "C"),
        ("person is running", "C"),
        ("A dog", "A"),  # half of an option, and of one alone
        ("A man walks", None),
        ("running late", None),
        ("C", "C"),
        ("c", "C"),
        ("(c)", "C"),
        ("c)", "C"),
        ("C.", "C"),
        ("[C]", "C"),
        ("**C**", "C"),
        ("`C`", "C"),
        ("\uff23", "C"),  # full width
        ("\uff08\uff23\uff09", "C"),
        ("C\u3001", "C"),
        ("$\\boxed{\\text{C}}$", "C"),
        ("A is tempting, so is B. \\boxed{C}", "C"),
        ("Option C", "C"),
        ("option c", "C"),
        ("Option 3", "C"),
        ("The third option", "C"),
        ("Choice: A", "A"),
        ("Answer: C", "C"),
        ('{"answer": "A"}', "A"),
        ("<answer>A</answer>", "A"),
        ("B (not A)", "B"),
        ("B is the correct answer.", "B"),
        ("I'd go with C", "C"),
        ("A. A person is running", None),
        ("(A) and (C)", None),
        ("answer:c", "C"),
        ("\u7b54\u6848\u662fC", "C"),
        ("The answer is C", "C"),
        ("the answer is (c).", "C"),
        ("The correct answer is option C: a person is running.", "C"),
        ("Answer: A person is running", "C"),
        ("The answer is A person is running", "C"),
        ("C: a person is running", "C"),
        ("C) a person is running\n\nExplanation: in the video a person runs.", "C"),
        ("c. a person is running", "C"),
        ("C - a person is running", "C"),
        ("C a person is running", "C"),
        ("A: dog", "A"),
        ("A, since the dog sleeps", "A"),
        ("A because the dog sleeps", "A"),
        ("I think it's A.", "A"),
        ("It is C because a person is running.", "C"),
        ("A shows a dog. B shows a cat. The answer is C.", "C"),
        ("The answer is C. There is no dog sleeping.", "C"),
        ("not A but B", "B"),
        ("It is not A, but B.", "B"),
        ("A is wrong, B is right", "B"),
        ("Options A and B are both wrong; C is correct", "C"),
        ("It can't be A or B, so C.", "C"),
        ("Not a dog is sleeping but a person is running", "C"),
        ("I'm not sure, but probably B", "B"),
        ("<think>A? Or B?</think>C", "C"),
        ("so maybe A</think>\nB", "B"),
        ("<think>it is A", None),  # cut before it answered
        ("both A and B", None),
        ("A or C", None),
        ("A, B", None),
        ("A/B", None),
        ("A & B", None),
        ("none of the above", None),
        ("Neither A nor B", None),
        ("None of the options A, B or C", None),
        ("All of the above", None),
        ("it isn't B", None),
        ("a dog is sleeping, a person is running", None),
        ("C: a dog is sleeping", None),  # the label of one with the text of another
        ("A a person is running", None),
        ("The answer is A. No, the answer is B.", None),
        ("A. a dog is sleeping B. a cat jumps C. a person is running", None),  # the options repeated
        ("D", None),
        ("I", None),
        ("I do not know", None),
        ("", None),
    ],
)
def test_scenes(said: str, choice: str | None) -> None:
    assert read_choice(said, SCENES) == choice


@pytest.mark.parametrize(
    ("options", "said", "choice"),
    [
        (THINGS, "a green cat", "B"),  # "cat" is a part of it
        (THINGS, "a cat and a green cat", None),
        (THINGS, "Cat", "D"),
        (THINGS, "It is red", "A"),
        (THINGS, "A dog is here so A", None),
        (THINGS, "dogs", None),
        (COUNTS, "There are 3 dogs", "B"),
        (COUNTS, "3", "B"),
        (COUNTS, "D. 10", "D"),
        (COUNTS, "D. 5", None),
        (COUNTS, "3 of the 5", None),
        (COUNTS, "1", None),
        (NUMBERED, "2", "2"),
        (NUMBERED, "(2)", "2"),
        (NUMBERED, "2. a dog", "2"),
        (NUMBERED, "The answer is 2.", "2"),
        (NUMBERED, "2 cats", None),  # a count
        (NUMBERED, "2 people are running", None),
        (DENIALS, "It is not visible", "B"),
        (DENIALS, "visible", "A"),
        (DENIALS, "The man is not running", "C"),
        (DENIALS, "The man is running", "D"),
        (DENIALS, "The man isn't running", None),
        (MANY, "I think it is thing ccc", "C"),  # a pronoun, although I is an option
        (MANY, "I am not sure", None),
        (MANY, "I.", "I"),
        (MANY, "I is right", "I"),
        ({"A": "none of the above", "B": "a cat"}, "None of the above.", "A"),
    ],
)
def test_other_options(options: Mapping[str, str], said: str, choice: str | None) -> None:
    assert read_choice(said, options) == choice


@pytest.mark.parametrize(
    ("said", "word"),
    [("NO", "no"), ("No, there isn't.", "no"), ("yes.", "yes"), ("Yes and no", None), ("perhaps", None)],
)
def test_yes_and_no(said: str, word: str | None) -> None:
    assert read_yes_no(said) == word


def write(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_video_choices_are_read_in_words_and_what_is_not_read_is_counted(tmp_path: Path) -> None:
    row = {"video": "v.mp4", "question": "What happens?", "options": list(SCENES.values()), "answer": "C"}
    gold = write(tmp_path / "g.jsonl", [{**row, "id": str(n)} for n in range(4)])
    said = ["A person is running", "(c)", "A or C", "A"]
    answers = write(tmp_path / "a.jsonl", [{"question_id": str(n), "text": t} for n, t in enumerate(said)])
    figures = score("video-choice", [gold], answers, None, True)
    assert figures["per_question"] == {"0": 100.0, "1": 100.0, "2": 0.0, "3": 0.0}
    assert (figures["invalid"], figures["accuracy"]) == (1, 50.0)


def test_options_that_bring_their_letters(tmp_path: Path) -> None:
    """As Video-MME writes them; and a gold in lower case."""
    row = {"id": 1, "video": "v.mp4", "question": "What?", "options": ["A. red", "B. blue"]}
    for given in ("b", "(B)", "blue", "B. blue", 1):
        gold = write(tmp_path / "g.jsonl", [{**row, "answer": given}])
        (question,) = benchmarks.get("video-choice").questions([gold])
        assert "\nA. red\nB. blue\n" in question.prompt
        answers = write(tmp_path / "a.jsonl", [{"question_id": 1, "text": "It is blue"}])
        assert score("video-choice", [gold], answers)["accuracy"] == 100.0
    gold = write(tmp_path / "g.jsonl", [{**row, "options": [str(n) for n in range(27)], "answer": 0}])
    with pytest.raises(InputError, match="record 1: 27 options; give 2 to 26"):
        list(benchmarks.get("video-choice").questions([gold]))


def test_an_official_rule_stays_and_what_it_loses_is_counted(tmp_path: Path) -> None:
    head = "index\tquestion\tA\tB\tC\tanswer\n"
    rows = "".join(f"{n}\tq\t{SCENES['A']}\t{SCENES['B']}\t{SCENES['C']}\tC\n" for n in range(3))
    (tmp_path / "t.tsv").write_text(head + rows)
    said = ["A person is running", "(c)", "C"]
    answers = write(tmp_path / "a.jsonl", [{"question_id": n, "text": t} for n, t in enumerate(said)])
    figures = score("mmbench", [tmp_path / "t.tsv"], answers)
    # The kit reads A, nothing, and C; a person would read C in all of them.
    assert (figures["accuracy"], figures["invalid"]) == (pytest.approx(100 / 3), 1)
    assert (figures["read_otherwise"], figures["otherwise_right"]) == (2, 2)
    (tmp_path / "problems.json").write_text(
        json.dumps({str(n): {"choices": list(SCENES.values()), "answer": 2} for n in range(3)})
    )
    (tmp_path / "splits.json").write_text(json.dumps({"test": ["0", "1", "2"]}))
    figures = score("scienceqa", [tmp_path / "problems.json", tmp_path / "splits.json"], answers)
    assert (figures["accuracy"], figures["read_otherwise"]) == (pytest.approx(100 / 3), 2)
    (tmp_path / "seed.json").write_text(json.dumps({str(n): "C" for n in range(3)}))
    figures = score("seed", [tmp_path / "seed.json"], answers)
    assert (figures["invalid"], figures["read_otherwise"]) == (2, 1)  # of a gold of letters no text is known


def test_genuine_answers_lose_nothing(shared: Path) -> None:
    folder = shared / "benchmarks/full/mmbench/genuine"
    table = folder / "mmbench_dev_20230712.subset.noimage.tsv"
    assert score("mmbench", [table], folder / "answers.jsonl")["read_otherwise"] == 0
