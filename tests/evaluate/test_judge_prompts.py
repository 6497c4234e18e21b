"""Reading a judge's replies as the official scripts do, and the prompts themselves."""

from __future__ import annotations

import pytest

from videollava.evaluate import judge_prompts
from videollava.evaluate.judge_prompts import (
    Ask,
    Prompt,
    first_usable,
    read_grade,
    read_literal,
    read_pair,
    read_verdict,
)

PROMPTS = [value for value in vars(judge_prompts).values() if isinstance(value, Prompt)]


@pytest.mark.parametrize(
    ("reply", "score_wanted", "match"),
    [
        ("{'pred': 'yes', 'score': 4}", 4, True),
        ('{"pred": "no", "score": 2}', 2, False),
        ("{'pred': 'yes', 'score': 5.8}", 5, True),
        ("{'pred': 'yes', 'score': '3'}", 3, True),
        ("{'pred': 'yes', 'score': '2.5'}", None, None),  # the score comes first: its vote is lost
        ("{'pred': 'yes', 'score': None}", None, None),
        ("{'pred': 'yes'}", None, None),
        ("{'score': 4}", 4, None),
        ("{'pred': True, 'score': 4}", 4, None),
        ("{'pred': 'no', 'score': True}", 1, False),
        ("{'pred': 'yes and no', 'score': 3}", 3, True),
        ("{'pred': 'unknown', 'score': 3}", 3, False),  # it has a "no" in it
        ("{'pred': 'maybe', 'score': 3}", 3, None),
        ("{'score': 4, 'pred': 'yes', 'score': 1}", 1, True),
        ("{'pred': 'yes', 'score': 7}", 7, True),
        ("['yes', 5]", None, None),  # a literal: not asked again
    ],
)
def test_verdicts(reply: str, score_wanted: int | None, match: bool | None) -> None:
    value = read_literal(reply)
    assert value is not None
    verdict = read_verdict(value[0])
    assert (verdict.score, verdict.match) == (score_wanted, match)


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "yes, score 5",
        "{'pred': yes, 'score': 5}",
        "{'pred': 'yes', 'score': 4, }}",
        "\n  {'pred': 'yes', 'score': 4}",
        "{'pred': 'yes', 'score': 5}. Good match.",
        "```json\n{'pred': 'yes', 'score': 5}\n```",
        "{'pred', 'score'}",
        "(" * 10_000,
    ],
)
def test_replies_that_are_asked_again(reply: str) -> None:
    assert read_literal(reply) is None


@pytest.mark.parametrize(
    ("reply", "pair"),
    [
        ("8 10\nBoth are fine.", (8.0, 10.0)),
        ("9,6.5", (9.0, 6.5)),
        ("8, 10", None),  # two spaces make three parts
        ("8", None),
        ("Scores: 8 9", None),
        ("8/10 9/10", None),
    ],
)
def test_pairs(reply: str, pair: tuple[float, float] | None) -> None:
    assert read_pair(reply) == pair


@pytest.mark.parametrize(
    ("reply", "grade"),
    [("0.5", 0.5), ("1.0 since", 1.0), ("2", None), ("-0.1", None), ("nan", None), ("", None)],
)
def test_grades(reply: str, grade: float | None) -> None:
    assert read_grade(reply) == grade


def test_the_first_readable_reply_counts() -> None:
    replies = ["sorry", "{'pred': 'no', 'score': 1}", "{'pred': 'yes', 'score': 5}"]
    assert first_usable(judge_prompts.MATCH, replies) == replies[1]
    assert first_usable(judge_prompts.MATCH, ["sorry"]) is None


def test_prompts_have_their_own_hashes() -> None:
    assert len(PROMPTS) == 8
    assert len({prompt.hash for prompt in PROMPTS}) == len(PROMPTS)
    changed = Prompt("match", 1, "another system", judge_prompts.MATCH.user, "literal")
    assert changed.hash != judge_prompts.MATCH.hash


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: prompt.name)
def test_prompts_hold_all_that_is_to_be_judged(prompt: Prompt) -> None:
    more = {"context": "CONTEXT", "second_question": "QUESTION 2", "second_prediction": "PREDICTION 2"}
    messages = Ask("1", prompt, "{QUESTION}", "ANSWER", "PREDICTION", more=more).messages()
    assert [message["role"] for message in messages] == ["system", "user"]
    for part in ("{QUESTION}", "ANSWER", "PREDICTION"):
        assert part in messages[1]["content"]
    if prompt.reply == "literal":
        example = messages[1]["content"][messages[1]["content"].rindex("{'") :]
        assert prompt.usable(example)
