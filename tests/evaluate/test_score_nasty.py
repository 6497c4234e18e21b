"""Cases that trip naive scorers, each worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from videollava.errors import InputError
from videollava.evaluate import normalise
from videollava.evaluate.benchmarks import activitynet_exact, choices, mme, pope, scienceqa, textvqa, vqav2
from videollava.evaluate.score import score

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to(name: str, value: Any, *, lines: bool = False) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = "\n".join(map(json.dumps, value)) if lines else json.dumps(value)
        path.write_text(value if isinstance(value, str) else text)
        return path

    return to


@pytest.mark.parametrize(
    ("question", "wanted"),
    [
        ("420011", 30.0),  # one of ten: in nine of the ten sets it has one match
        ("420021", 60.0),
        ("420031", 90.0),
        ("420041", 100.0),
        ("420111", 0.0),  # ten equal answers: "Yes" is not put in lower case
        ("420121", 0.0),  # nor does "yes." lose its stop
        ("420131", 100.0),  # nine and one: now all is normalised
        ("420141", 100.0),  # white space goes in any case
        ("420151", 0.0),  # "two" against ten "2"
        ("420161", 100.0),  # and against nine
        ("420201", 100.0),  # the comma of "1,000" goes
        ("420221", 90.0),  # "3." is 3
        ("420421", 100.0),  # "an", "a" and "the" are all nothing
        ("420441", 100.0),  # "a" is the empty answer
        ("420451", 90.0),
        ("420531", 100.0),
    ],
)
def test_vqa_by_hand(shared: Path, question: str, wanted: float) -> None:
    folder = shared / "benchmarks/full/vqav2/nasty"
    singles = score("vqav2", [folder / "annotations.json"], folder / "results.json", None, True)[
        "per_question"
    ]
    assert singles[question] == pytest.approx(wanted)


def test_vqa_leaves_out_by_equality_where_people_have_no_id() -> None:
    said = [{"answer": "red", "answer_confidence": "yes"}] * 4 + [
        {"answer": "blue", "answer_confidence": "yes"}
    ] * 6
    # Leaving out one "red" leaves out all four: only the six sets without "blue" match, and well.
    assert vqav2._accuracy({"answers": said}, "red") == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("The cat", "cat"),
        ("T-Shirt", "t shirt"),
        ("over -easy", "over easy"),
        ("stop; go", "stop go"),
        ("U.S.", "us"),
        ("$5.99", "$5.99"),
        ("1,000", "1000"),
        ("red,white", "red white"),
        ("Dont know", "don't know"),
        ("None", "0"),
        ("TEN", "10"),
        ("10:30", "10:30"),  # a colon is no punctuation
        ("x" + "." * 40, "x" + "." * 8),  # 32 stops at most
        ("a\\nb\\tc", "b c"),
        ("somebody'd", "somebodyd"),
        ("let's", "let's"),
        ("man's", "man's"),
    ],
)
def test_vqa_rule(text: str, wanted: str) -> None:
    assert list(normalise.normalise("vqa", [text + "\n"])) == [wanted]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("King's Cross", "king 's cross"),
        ("1,000", "1000"),
        ("red, white", "red white"),
        ("what?", "what"),
        ("dont", "don't"),
        ("it's", "it 's"),
        ("The 2 dogs.", "2 dogs"),
    ],
)
def test_m4c_rule(text: str, wanted: str) -> None:
    assert list(normalise.normalise("m4c", [text])) == [wanted]


def test_the_vizwiz_tool_has_typographic_apostrophes() -> None:
    assert normalise.vizwiz("dont") == "don’t"
    assert normalise.vizwiz("cant") == "can't"
    assert normalise.vizwiz("don't") == "don't"


def test_unknown_rule() -> None:
    with pytest.raises(InputError, match="vqa or m4c"):
        list(normalise.normalise("gqa", ["x"]))


@pytest.mark.parametrize(
    ("text", "yes"),
    [
        ("No, there is no dog.", False),
        ("no.", False),
        ("Yes. No.", True),
        ("Yes, there is a dog, but no cat.", False),
        ("nO", True),
        ("NO", True),
        ("No!", True),
        ("No\n", True),
        ("  No", False),
        ("No,yes", True),
        ("Yes,there is not", False),
        ("The answer is 'no'", True),
        ("Nope", True),
        ("there isn't a dog", True),
        ("I do not know", False),
        ("", True),
    ],
)
def test_pope_words(text: str, yes: bool) -> None:
    assert pope.says_yes(text) is yes


def test_pope_joins_by_question_not_by_place(write: Write) -> None:
    """Answers shuffled, one missing: the official script would pair every answer with another's label."""
    labels: list[dict[str, Any]] = [
        {
            "question_id": n,
            "image": f"{n}.jpg",
            "text": "Is there a dog in the image?",
            "label": "yes" if n % 2 else "no",
        }
        for n in range(6)
    ]
    asked = [
        {
            "question_id": n + 100,
            "image": f"{n}.jpg",
            "text": labels[n]["text"] + pope.SHORT,
            "category": "random",
        }
        for n in range(6)
    ]
    said = [{"question_id": n + 100, "text": "Yes" if n % 2 else "No"} for n in (5, 3, 0, 4, 2)]
    gold = [write("g/q.json", asked), write("g/labels.json", labels, lines=True)]
    figures = score("pope", gold, write("a.jsonl", said, lines=True), None, True)
    assert figures["missing"] == 1
    assert figures["missing_ids"] == ["101"]
    assert figures["random"]["accuracy"] == pytest.approx(100 * 5 / 6)
    assert figures["per_question"]["101"] == 0.0


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("A", "A"),
        ("C.", None),
        ("A. foo", "A"),
        ("D. ", "D"),
        ("A) foo", None),
        ("The answer is B.", "B"),
        ("The answer is B", None),  # a character has to follow
        ("The answer is B. The answer is B.", None),
        ("The answer is A. No, the answer is B.", "A"),
        ("the answer is B.", None),
        ("b", None),
        (" B", None),
        ("B\n", None),
        ("The answer is F.", "F"),
        ("", None),
        ("AB", None),
    ],
)
def test_scienceqa_letters(text: str, letter: str | None) -> None:
    assert scienceqa.parse_letter(text) == letter


OPTIONS = {"A": "red", "B": "green cat", "C": "a dog", "D": "cat"}


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("The answer is **B**.", "B"),
        ("B. sadness", "B"),
        ("A or B", None),
        ("A dog is here so A", "C"),  # its only letter comes too early; the text of C is in it
        ("I say A since so it is", None),
        ("it might be that it is A", "A"),
        ("c", None),
        ("It is red", "A"),
        ("a green cat", None),  # "cat" is in it too
        ("It is A, not Z", "A"),
        ("Z", "Z"),
        ("Sorry, I can't help with images of people yet.", "Z"),
        ("it is, as far as one can say from where we stand, red", None),  # too long beside the options
        ("", None),
    ],
)
def test_mmbench_choices(text: str, choice: str | None) -> None:
    assert choices.choose(text, OPTIONS) == choice


def test_mmbench_groups(write: Write) -> None:
    head = "index\tquestion\tA\tB\tC\tD\tanswer\tcategory\n"
    rows = "1\tq\tx\ty\t\t\tA\tone\n1000001\tq\ty\tx\t\t\tB\tone\n2\tq\tx\ty\tnan\t\tB\ttwo\n"
    said = [
        {"question_id": 1, "text": "A"},
        {"question_id": 1000001, "text": "A"},
        {"question_id": 2, "text": "C"},
    ]
    figures = score("mmbench", [write("t.tsv", head + rows)], write("a.jsonl", said, lines=True), None, True)
    assert (figures["circular"], figures["vanilla"], figures["groups"]) == (0.0, 50.0, 2)
    assert figures["per_group"] == {"1": 0.0, "2": 0.0}
    assert figures["by_category"] == {"one": 0.0, "two": 0.0}
    assert figures["invalid"] == 1  # C is no option of question 2


@pytest.mark.parametrize(
    ("answer", "word"),
    [("Yes", "yes"), ("no, it", "no"), ("I no", "no"), ("The no", "other"), ("Not yes", "no"), ("", "other")],
)
def test_mme_reads_four_characters(answer: str, word: str) -> None:
    assert mme.says(answer) == word


def test_mme_pairs_by_image(tmp_path: Path) -> None:
    lines = ["a.jpg\tq1\tYes\tyes", "b.jpg\tq1\tYes\tno", "a.jpg\tq2\tNo\tno", "b.jpg\tq2\tNo\tno"]
    (tmp_path / "color.txt").write_text("\n".join(lines) + "\n")
    assert score("mme", [], tmp_path)["tasks"] == {"color": 75.0 + 50.0}
    (tmp_path / "color.txt").write_text("\n".join(lines[:3]))
    with pytest.raises(InputError, match=r"color.txt: image b.jpg: 1 lines where two are wanted"):
        score("mme", [], tmp_path)
    (tmp_path / "color.txt").write_text("a.jpg\tq1\tperhaps\tyes")
    with pytest.raises(InputError, match=r"color.txt: line 1: want image"):
        score("mme", [], tmp_path)


def test_mme_from_llava_answers(tmp_path: Path, write: Write) -> None:
    write(
        "MME/color/a.txt",
        "Is it red? Please answer yes or no.\tYes\nIs it blue? Please answer yes or no.\tNo\n",
    )
    write("MME/OCR/questions_answers_YN/1.txt", 'Is it "x"?  Please answer yes or no.\tYes\nIs it "y"?\tNo\n')
    said = [
        {"question_id": "color/a.jpg", "prompt": "Is it red?" + mme.SHORT, "text": "Yes"},
        {"question_id": "color/a.jpg#1", "prompt": "Is it blue?" + mme.SHORT, "text": "No"},
        {"question_id": "OCR/1.jpg", "prompt": 'Is it "x"?' + mme.SHORT, "text": "No"},
    ]
    figures = score("mme", [tmp_path / "MME"], write("a.jsonl", said, lines=True))
    assert figures["tasks"] == {"color": 200.0, "OCR": 0.0}
    assert (figures["missing"], figures["invalid"]) == (1, 1)


def test_llava_bench_averages_unreadable_reviews_in(write: Write) -> None:
    reviews = [
        {"question_id": 0, "category": "llava_bench_conv", "content": "8 6\n..", "tuple": [8.0, 6.0]},
        {"question_id": 1, "category": "llava_bench_conv", "content": "I cannot."},
    ]
    figures = score("llava-bench", [], None, write("r.jsonl", reviews, lines=True))
    assert figures["score"] == pytest.approx(100 * (6 - 1) / (8 - 1))
    assert figures["invalid"] == 1


def test_textvqa_prompts() -> None:
    tokens = "\nReference OCR token: A, B"
    assert textvqa.question_of("What Brand?" + tokens + textvqa.SHORT) == "what brand?"
    assert textvqa.question_of("Reference OCR token: A\nWhat Brand?" + textvqa.SHORT) == "what brand?"
    assert textvqa.question_of("What Brand?" + textvqa.SHORT) == "what brand?"
    assert textvqa.question_of("OCR tokens: A. Question: What\nnow? Short answer:") == "what\nnow?"
    assert textvqa.question_of("What Brand?") is None


def test_activitynet_free_figure(write: Write) -> None:
    kinds = [3, 8, 7, 0, 1, 2, 3]
    gold = [{"question_id": f"q{n}", "answer": "x", "type": kind} for n, kind in enumerate(kinds)]
    said = [{"question_id": f"q{n}", "answer": "x"} for n in range(7)]
    figures = score("activitynet-exact", [write("a.json", gold)], write("p.json", said))
    assert figures["free"] == 100.0
    assert figures["free_as_printed"] == pytest.approx(100 * 4 / 3)  # types 3, 8 and 7 came first
    assert activitynet_exact.TYPES[3] == "yes/no"


def test_video_answers_join_by_id(write: Write) -> None:
    """The answers file pairs golds wrongly (as when inference was split), has a repeat and one of no
    question.
    """
    gold = [
        write("q.json", [{"video_name": "v", "question_id": f"q{n}", "question": "?"} for n in range(3)]),
        write("a.json", [{"answer": "dog", "type": 1, "question_id": f"q{n}"} for n in range(3)]),
    ]
    said = [{"id": key, "answer": "wrong", "pred": "p"} for key in ("q2", "q0", "q0", "other")]
    replies = {key: ["{'pred': 'yes', 'score': 5}"] for key in ("q0", "other")}
    answers = write("merge.jsonl", said, lines=True)
    figures = score("tgif", gold, answers, write("r.json", replies))
    assert (figures["n"], figures["accuracy"], figures["score"]) == (1, 100.0, 5.0)
    assert (figures["missing"], figures["extra"], figures["duplicates"], figures["unjudged"]) == (1, 1, 1, 1)


def test_consistency_of_our_own_lines(write: Write) -> None:
    rows = [
        {"Q1": "a?", "Q2": "b?", "A": "x", "video_name": "v"},
        {"Q1": "c?", "Q2": "d?", "A": "y", "video_name": "v"},
    ]
    said = [{"question_id": key, "text": "t"} for key in ("v_0", "v_0#2", "v_1")]
    replies = {"judge": {"name": "j", "version": "", "prompt": ""}, "replies": {"v_0": ["{'score': 3}"]}}
    figures = score(
        "video-chatgpt-consistency",
        [write("g.json", rows)],
        write("p.jsonl", said, lines=True),
        write("r.json", replies),
    )
    assert (figures["n"], figures["score"], figures["missing_ids"]) == (1, 3.0, ["v_1"])
    assert figures["judge"]["name"] == "j"


def test_tiny_profile_answers(write: Write) -> None:
    lines = [
        {"question_id": "1", "kind": "color", "answer": "red", "prediction": " Red."},
        {"question_id": "2", "kind": "color", "answer": "red", "prediction": "reddish"},
        {"question_id": "3", "kind": "shape", "answer": "yes", "prediction": "yes"},
    ]
    figures = score("easy_vqa", [], write("p.jsonl", lines, lines=True), None, True)
    assert figures["by_kind"] == {"color": 50.0, "shape": 100.0}
    assert figures["per_question"] == {"1": 100.0, "2": 0.0, "3": 100.0}
    gold = write("g.json", [{"question_id": key, "answer": "red", "kind": ""} for key in "1234"])
    whole = score("toy_video_qa", [gold], write("p.jsonl", lines, lines=True))
    assert (whole["accuracy"], whole["missing"]) == (25.0, 1)


def test_video_choices(write: Write) -> None:
    base = {"video": "v.mp4", "question": "What?", "options": ["red", "blue"]}
    gold = [base | {"id": n, "answer": answer, "kind": "k"} for n, answer in enumerate(("B", 1, "blue", "A"))]
    said = [{"question_id": n, "text": text} for n, text in enumerate(("(B)", "blue", "A", "neither"))]
    figures = score("video-choice", [write("g.json", gold)], write("a.jsonl", said, lines=True), None, True)
    assert figures["per_question"] == {"0": 100.0, "1": 100.0, "2": 0.0, "3": 0.0}
    assert figures["invalid"] == 1
    with pytest.raises(InputError, match=r"record 1: answer 'C' is none of its options"):
        score(
            "video-choice", [write("g.json", [gold[0] | {"answer": "C"}])], write("a.jsonl", said, lines=True)
        )
