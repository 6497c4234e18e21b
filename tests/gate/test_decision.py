"""The gate's decisions, each rule by itself."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from videollava.evaluate.statistics import Comparison
from videollava.gate import decide, primary, read_pairs
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
    others = (
        {"judge": "gpt-y", "judge_prompt": "ab12"},
        {"judge": "gpt-x", "judge_prompt": "cd34"},
        {"judge": "gpt-x", "judge_version": "0613", "judge_prompt": "ab12"},
        {},
    )
    for other in others:
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
    assert primary({"accuracy": 50.0, "mean_f1": 80.0, "headline": "mean_f1"}) == 80.0


def paired(difference: float, p: float) -> Comparison:
    return Comparison(100, 100, 80.0, 80.0 + difference, difference, difference - 1, difference + 1, p, 1, 2)


@pytest.mark.parametrize(
    ("gain", "rules", "pair", "reason", "note"),
    [
        (-3.0, Gate(), None, "-3.00 against the champion, at most -1.00 allowed", ""),
        (-3.0, Gate(), paired(-3.0, 0.01), "-3.00 against the champion, at most -1.00 allowed", ""),
        (-3.0, Gate(), paired(-3.0, 0.3), "", "which equal models would show as well (p=0.300)"),
        (-3.0, Gate(significance=0.0), paired(-3.0, 0.3), "at most -1.00 allowed", ""),
        (-3.0, Gate(), paired(-2.0, 0.3), "at most -1.00 allowed", ""),  # a test of something else
        (-3.0, Gate(allowed_regressions={"vqa": 4.0}), None, "", ""),
        (-0.5, Gate(allowed_regressions={"vqa": 0.0}), None, "-0.50 against the champion, at most", ""),
        (
            1.0,
            Gate(minimum_gains={"vqa": 2.0}),
            None,
            "+1.00 against the champion, at least +2.00 needed",
            "",
        ),
        (2.0, Gate(minimum_gains={"vqa": 2.0}), None, "", ""),
        (2.0, Gate(minimum_gains={"vqa": 2.0}), paired(2.0, 0.2), "equal models would show as well", ""),
        (2.0, Gate(minimum_gains={"vqa": 2.0}), paired(2.0, 0.001), "", ""),
        (0.0, Gate(minimum_gains={"vqa": 0.0}), paired(0.0, 1.0), "", ""),
    ],
)
def test_single_benchmarks_and_chance(
    gain: float, rules: Gate, pair: Comparison | None, reason: str, note: str
) -> None:
    mine = {"vqa": {"accuracy": 80.0 + gain}, "other": {"accuracy": 90.0}}
    champion = {"vqa": {"accuracy": 80.0}, "other": {"accuracy": 80.0}}
    decision = decide(mine, champion, rules, {"vqa": pair} if pair else None)
    assert decision.passed == (not reason)
    assert reason in "".join(decision.reasons)
    assert note in "".join(decision.notes)
    assert bool(decision.notes) == bool(note)


def test_a_first_version_needs_no_gain() -> None:
    assert decide({"vqa": {"accuracy": 80.0}}, None, Gate(minimum_gains={"vqa": 2.0})).passed


def test_what_is_reported_and_not_refused() -> None:
    leaks = {"media": 3, "of_media": 40, "questions": 9, "near": 2, "both": 1}
    mine = {"vqa": {"accuracy": 80.0, "contamination": leaks, "missing_media": 4}}
    decision = decide(mine, None, LOOSE)
    assert decision.passed
    assert decision.notes == (
        "vqa: in the training data are 3 of its media, 2 questions nearly so, 1 questions with their medium",
        "vqa: 4 questions lack their medium and count as wrong",
    )
    common = {"media": 0, "questions": 9, "near": 0, "both": 0}  # questions that every training set has
    assert decide({"vqa": {"accuracy": 80.0, "contamination": common}}, None, LOOSE).notes == ()


def test_a_part_is_not_compared_with_the_whole() -> None:
    part = {"vqa": {"accuracy": 99.0, "limit": 10}}
    decision = decide(part, {"vqa": {"accuracy": 80.0}}, LOOSE)
    assert decision.reasons[0].startswith("vqa: scored on a part of its questions")
    assert decision.rows[0].champion is None
    assert decide(part, {"vqa": {"accuracy": 80.0, "limit": 10}}, LOOSE).passed


def test_the_blinded_figure_of_any_headline() -> None:
    mine = {"pope": {"headline": "mean_f1", "mean_f1": 80.0, "accuracy": 70.0, "blind_mean_f1": 75.0}}
    decision = decide(mine, None, LOOSE)
    assert decision.reasons == ("pope: 80.00 is only +5.00 over the blinded model, +10.00 needed",)


def test_pairs_of_two_evaluation_folders(tmp_path: Path) -> None:
    def write(name: str, right: int, judge: str = "") -> Path:
        folder = tmp_path / name
        (folder / "predictions").mkdir(parents=True)
        for benchmark in ("easy_vqa", "msvd"):
            rows = [
                {
                    "question_id": f"q{n}",
                    "question": "?",
                    "answer": "a",
                    "prediction": "a",
                    "correct": n < right,
                }
                for n in range(20)
            ]
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / f"predictions/{benchmark}.jsonl").write_text(text)
        (folder / "metrics.json").write_text(json.dumps({"easy_vqa": {}, "msvd": {"judge": judge}}))
        return folder

    pairs = read_pairs(write("new", 12, "one"), write("old", 18, "other"))
    assert list(pairs) == ["easy_vqa"]  # the other was judged by two
    assert (pairs["easy_vqa"].difference, pairs["easy_vqa"].lost) == (-30.0, 6)
    scores = {"easy_vqa": {"accuracy": 60.0}}, {"easy_vqa": {"accuracy": 90.0}}
    assert decide(*scores, LOOSE, pairs).cells()[0]["verdict"] == "refused (p=0.031)"
