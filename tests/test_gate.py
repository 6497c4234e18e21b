"""The gate's decisions, each rule by itself."""

from __future__ import annotations

import math

import pytest

from videollava.gate import decide, primary
from videollava.params import Gate

LOOSE = Gate(minimum={}, minimum_gain=0.0, allowed_regression=1.0, minimum_over_blind=10.0)
CHAMPION = {"easy_vqa": {"accuracy": 90.0}, "toy_video_qa": {"accuracy": 80.0}}


def scores(image: float, video: float, blind: float = 20.0) -> dict:
    return {"easy_vqa": {"accuracy": image, "blind_accuracy": blind}, "toy_video_qa": {"accuracy": video}}


@pytest.mark.parametrize(
    ("candidate", "champion", "gate", "reason"),
    [
        (scores(90, 80), None, LOOSE, ""),
        (scores(90, 80), CHAMPION, LOOSE, ""),  # as good is good enough
        (scores(92, 79), CHAMPION, LOOSE, ""),  # a small loss, paid for elsewhere
        (scores(89.5, 80), CHAMPION, LOOSE, "mean gain over the champion -0.25"),
        (scores(99, 78.9), CHAMPION, LOOSE, "toy_video_qa: -1.10 against the champion"),
        (scores(99, 79), CHAMPION, LOOSE, ""),
        (scores(90.4, 80.4), CHAMPION, Gate(minimum_gain=0.5), "mean gain over the champion +0.40"),
        (scores(90.5, 80.5), CHAMPION, Gate(minimum_gain=0.5), ""),
        (
            scores(59.9, 80),
            None,
            Gate(minimum={"easy_vqa": 60.0}),
            "easy_vqa: 59.90 is below the minimum 60.00",
        ),
        (scores(90, 80, blind=80.5), None, LOOSE, "easy_vqa: 90.00 is only +9.50 over the blinded model"),
        (scores(90, math.nan), None, LOOSE, "toy_video_qa: score is nan"),
        ({"easy_vqa": {"accuracy": 99.0}}, CHAMPION, LOOSE, "toy_video_qa: no score"),
        (
            {"easy_vqa": {"accuracy": 99.0}},
            None,
            Gate(minimum={"toy_video_qa": 1.0}),
            "toy_video_qa: no score",
        ),
        ({}, None, LOOSE, "no scores"),
        ({**scores(90, 80), "new": {"score": 3.1}}, CHAMPION, LOOSE, ""),  # a benchmark nobody had before
    ],
)
def test_rules(candidate: dict, champion: dict | None, gate: Gate, reason: str) -> None:
    decision = decide(candidate, champion, gate)
    assert decision.passed == (not reason)
    assert any(text.startswith(reason) for text in decision.reasons) if reason else not decision.reasons


def test_two_judges_are_never_compared() -> None:
    mine = {"video_chat": {"score": 3.9, "judge": "gpt-x", "judge_prompt": "ab12"}}
    same = decide(mine, {"video_chat": {"score": 3.8, "judge": "gpt-x", "judge_prompt": "ab12"}}, LOOSE)
    assert same.passed
    assert same.rows[0].gain == pytest.approx(0.1)
    for other in ({"judge": "gpt-y", "judge_prompt": "ab12"}, {"judge": "gpt-x", "judge_prompt": "cd34"}, {}):
        decision = decide(mine, {"video_chat": {"score": 1.0, **other}}, LOOSE)
        assert not decision.passed
        assert "graded by gpt-x ab12" in decision.reasons[0]
        assert decision.rows[0].champion is None


def test_the_table_tells_all() -> None:
    decision = decide(scores(92, 70), CHAMPION, LOOSE)
    assert decision.cells() == [
        {
            "benchmark": "easy_vqa",
            "score": "92.00",
            "blinded": "20.00",
            "champion": "90.00",
            "gain": "+2.00",
            "verdict": "passed",
        },
        {
            "benchmark": "toy_video_qa",
            "score": "70.00",
            "blinded": "-",
            "champion": "80.00",
            "gain": "-10.00",
            "verdict": "refused",
        },
    ]
    lines = decision.table().splitlines()
    assert len({len(line) for line in lines}) == 1
    assert "toy_video_qa" in lines[3]


def test_the_figure_that_counts() -> None:
    assert primary({"n": 10, "score": 3.0, "accuracy": 50}) == 50.0
    assert primary({"score": 3.0}) == 3.0
    assert primary({"accuracy": "good"}) is None
    assert primary(None) is None
